"""The metrics of a run: metrics.jsonl and TensorBoard."""

import json
import math
from pathlib import Path
from typing import Any

import jax

from bertjax import storage
from bertjax.config import Config
from bertjax.errors import StorageError
from bertjax.metrics import event_files, remote_log
from bertjax.metrics import trackers as trackers_lib
from bertjax.metrics.trackers import Trackers
from bertjax.processes import lock


class MetricsWriter:
    """Appends to W/metrics.jsonl and W/tensorboard, and tells the trackers. Only process 0 writes.

    A line is `{"step": ..., name: float, ...}`. Floats are written so that they read back to the
    bit. JSON has no word for NaN and infinities: they become the strings "NaN", "Infinity" and
    "-Infinity", which `float()` reads (and `read` does).

    A run that resumes at `step` drops the lines of later steps, the evaluations of `step` itself
    (the loop evaluates after it saved, so it makes them again), and a line that a kill cut short:
    the file goes on as if the run had never stopped.

    Objects of gs:// do not grow: both files are held in memory there and written anew once a
    minute, and metrics.jsonl by `save` too.

    Raises:
      StorageError: the disk refuses.
      UsageError: as `lock.require`.
    """

    def __init__(
        self, workdir: Path, step: int, *, tensorboard: bool, trackers: Trackers | None = None
    ) -> None:
        self._file = self._tensorboard = None
        self._trackers = trackers
        if jax.process_index() != 0:
            return
        self._path = storage.path(workdir) / "metrics.jsonl"
        try:
            self._file = _open_after(self._path, step)
        except OSError as error:
            raise _refused(self._path, error) from error
        if tensorboard:
            # TensorBoard forgets the later steps of the run before, as the file does.
            log = str(self._path.parent / "tensorboard")
            self._tensorboard = event_files.writer(log, purge_step=step + 1)

    def write(self, step: int, metrics: dict[str, float], prefix: str = "train") -> None:
        """Writes one line at once; names of another prefix than `train` become `prefix/name`.

        The training line of a step must be written before its checkpoint is saved: a run that
        resumes there does not write it again.
        """
        if self._file is None:
            return
        lock.require(self._path)
        metrics = {name: float(value) for name, value in metrics.items()}
        start = "" if prefix == "train" else f"{prefix}/"
        line: dict[str, float | str] = {"step": int(step)}
        line |= {start + name: _json_float(value) for name, value in metrics.items()}
        try:
            self._file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
            self._file.flush()
            for name, value in metrics.items():
                if self._tensorboard is not None and math.isfinite(value):
                    self._tensorboard.add_scalar(f"{prefix}/{name}", value, step)
        except OSError as error:
            raise _refused(self._path, error) from error
        if self._trackers is not None:
            self._trackers.write(step, metrics, prefix)

    def save(self) -> None:
        """On gs://, writes the lines so far; call it before the checkpoint of their step is saved.

        Otherwise a run that was killed and resumes there lacks those of the last minute.
        """
        if isinstance(self._file, remote_log.RemoteLog):
            self._file.save()

    def close(self) -> None:
        """Writes out what TensorBoard and the trackers still hold back."""
        if self._file is not None:
            self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._trackers is not None:
            self._trackers.close()


def of(config: Config, workdir: Path, step: int) -> MetricsWriter:
    """The writer of a run that starts or resumes at `step`, with all that its config asks for."""
    trackers = trackers_lib.of(config, workdir)
    return MetricsWriter(workdir, step, tensorboard=config.logging.tensorboard, trackers=trackers)


def read(path: Path) -> list[dict[str, float]]:
    """The lines of a metrics.jsonl, in order; a line that a kill cut short is left out."""
    lines = []
    for line in storage.read(path).decode("utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
            lines.append({k: v if k == "step" else float(v) for k, v in entry.items()})
        except (ValueError, AttributeError):
            continue
    return lines


def evaluations(lines: list[dict[str, float]]) -> dict[int, dict[str, float]]:
    """The held-out figures among the lines of a metrics.jsonl, by step; of a step, the last ones."""
    found = {}
    for line in lines:
        figures = {k.removeprefix("eval/"): v for k, v in line.items() if k.startswith("eval/")}
        if figures:
            found[int(line["step"])] = figures
    return found


def _open_after(path: Path, step: int) -> Any:
    """A metrics.jsonl to append to, without the lines that a run which resumes at `step` drops."""
    is_remote = storage.is_remote(path)
    if not is_remote:
        path.parent.mkdir(parents=True, exist_ok=True)
    kept = b""
    if storage.exists(path):
        lines = storage.read(path).splitlines(keepends=True)
        kept = b"".join(line for line in lines if _stays(line, step))
        storage.write(path, kept)
    return remote_log.RemoteLog(path, kept) if is_remote else path.open("ab")


def _stays(line: bytes, step: int) -> bool:
    try:
        entry = json.loads(line)
        evaluated = any("/" in name for name in entry)
        return line.endswith(b"\n") and entry["step"] <= step - evaluated
    except (ValueError, KeyError, TypeError):
        return False


def _json_float(value: float) -> float | str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def _refused(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{path}: cannot be written: {error.strerror}; make room or write access, then run the "
        "same command again"
    )
