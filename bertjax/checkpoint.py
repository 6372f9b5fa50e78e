"""Checkpoints that are either whole or set aside: Orbax, and a hash of every file it wrote.

Orbax commits a step by renaming its directory, and restores flipped bits without a word. So a
step counts only once `integrity.json` lies in it: the size and SHA-256 of every other file, the
shapes of the arrays, and a hash of the manifest itself. Nothing older is deleted before that.

    W/checkpoints/200/                  a step: Orbax's files and integrity.json
    W/checkpoints/damaged-300-0/        set aside by a restore, never read again
"""

import concurrent.futures
import contextlib
import logging
import os
import re
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from bertjax import integrity, signature
from bertjax.errors import DataError, StorageError

_ITEM = "default"  # where Orbax's manager puts a single tree inside a step directory
_PRUNED = "pruned-"  # a directory on its way out: no longer a step, whatever is left of it


class Checkpoints:
    """Saves and restores the train state under one directory; one writer at a time.

    Args:
      directory: usually W/checkpoints; made if missing. What a killed save left is removed.
      keep: newest whole steps kept.
      in_flight_bytes: memory for writing beside the state's own, more than its largest array; None
        for as much as is fastest.

    Every method raises StorageError where the disk refuses; what was saved before stays.
    """

    def __init__(self, directory: Path, keep: int, *, in_flight_bytes: int | None = None):
        _silence_orbax()
        self._directory = Path(directory).absolute()
        self._keep = keep
        self._sealing = None
        self._background = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        with _storage_errors(self._directory):
            self._directory.mkdir(parents=True, exist_ok=True)
            if jax.process_index() == 0:
                for leftover in self._directory.glob(f"{_PRUNED}*"):
                    shutil.rmtree(leftover)
            # Orbax's own pruning knows nothing of manifests: max_to_keep stays unset.
            options = ocp.CheckpointManagerOptions(cleanup_tmp_directories=True)
            limit = None if in_flight_bytes is None else in_flight_bytes / 1e9
            handler = ocp.PyTreeCheckpointHandler(save_concurrent_gb=limit)
            self._manager = ocp.CheckpointManager(
                self._directory, options=options, item_handlers=handler
            )

    def save(self, step: int, state):
        """Saves a pytree of jax arrays in the background; `state` may be donated at once.

        Returns when the arrays are copied to the host, after the save before it is whole. A step
        that is there already is left alone: the same run at the same step has the same state.

        Raises:
          StorageError: this save could not start, or the one before it failed.
        """
        self.wait()
        if step in _steps(self._directory):
            return
        with _storage_errors(self._directory):
            self._manager.save(step, args=ocp.args.PyTreeSave(state), force=True)
        self._sealing = self._background.submit(self._seal, step, signature.of(state))

    def _seal(self, step: int, shapes: dict):
        with _storage_errors(self._directory):
            self._manager.wait_until_finished()  # with several processes, Orbax's commit barrier
            if jax.process_index() == 0:
                integrity.write(self._directory / str(step), shapes)
                self._prune()

    def _prune(self):
        steps = _steps(self._directory)
        sealed = [s for s in steps if (self._directory / str(s) / integrity.MANIFEST).exists()]
        for step in sealed[: -self._keep]:
            # Renamed first: a kill half-way through leaves no step that looks damaged.
            leaving = self._directory / f"{_PRUNED}{step}"
            os.rename(self._directory / str(step), leaving)
            shutil.rmtree(leaving)

    def restore(self, abstract_state):
        """`(step, state)` of the newest whole step, or None where nothing was saved yet.

        Newer steps that are damaged are moved to `damaged-<step>-<n>`, and a line says why. If
        the only step is a damaged step 0, nothing was learned: it is moved away too, and None
        returned.

        Args:
          abstract_state: pytree of `jax.ShapeDtypeStruct`, with the shardings wanted; the mesh
            need not be the one that saved. It may hold only some of the state's top-level keys.

        Raises:
          DataError: steps exist but none is whole (nothing is moved then), or the state saved
            has other names, shapes or types.
        """
        self.wait()
        step, damaged = _newest_whole(self._directory)
        if step is None and any(report.step > 0 for report in damaged):
            raise _none_whole(self._directory, damaged)
        with _storage_errors(self._directory):
            for report in damaged:
                self._set_aside(report)
            self._manager.reload()
        return None if step is None else (step, _read(self._directory / str(step), abstract_state))

    def _set_aside(self, report: integrity.StepReport):
        if jax.process_index() != 0:
            return
        taken = len(list(self._directory.glob(f"damaged-{report.step}-*")))
        target = self._directory / f"damaged-{report.step}-{taken}"
        os.rename(self._directory / str(report.step), target)
        _warn(f"checkpoint damaged, moved to {target}: {report}")

    def wait(self):
        """Blocks until the last save is whole; raises StorageError if it failed."""
        if self._sealing is not None:
            sealing, self._sealing = self._sealing, None
            sealing.result()

    def close(self):
        """Waits, then releases Orbax's threads."""
        try:
            self.wait()
        finally:
            self._background.shutdown()
            with _storage_errors(self._directory):
                self._manager.close()


def read_newest(directory: Path, abstract_state, *, on_host: bool = False):
    """`(step, state)` of the newest whole step, changing nothing on disk (see `restore`).

    For readers that may run beside the training that owns the directory.

    Args:
      on_host: as NumPy arrays, whatever devices there are.

    Raises:
      DataError: no step is whole, or the state saved has other names, shapes or types.
    """
    _silence_orbax()
    directory = Path(directory).absolute()
    step, damaged = _newest_whole(directory)
    if step is None:
        raise _none_whole(directory, damaged)
    for report in damaged:
        _warn(f"checkpoint skipped: {report}")
    return step, _read(directory / str(step), abstract_state, on_host)


def holds(directory: Path, group: str) -> bool:
    """Whether the newest step has arrays under `group` (`params`, `opt_state`), by its manifest."""
    directory = Path(directory).absolute()
    for step in reversed(_steps(directory)):
        with contextlib.suppress(ValueError, OSError):
            return any(
                name.startswith(f"{group}/") for name in signature.saved(directory / str(step))
            )
    return False


def verify(directory: Path) -> list[integrity.StepReport]:
    """Re-reads every byte of every step against its manifest, oldest step first.

    Raises:
      DataError: there is no step to verify.
    """
    directory = Path(directory).absolute()
    steps = _steps(directory)
    if not steps:
        raise _none_whole(directory, [])
    return [integrity.inspect(directory / str(step)) for step in steps]


def _none_whole(directory, damaged) -> DataError:
    if not damaged:
        return DataError(f"{directory}: holds no checkpoints; run bertjax pretrain first")
    reasons = "; ".join(str(report) for report in damaged)
    return DataError(
        f"{directory}: no checkpoint is whole ({reasons}); "
        "put back a copy, or move the directory away to start from zero"
    )


def _steps(directory: Path) -> list[int]:
    if not directory.is_dir():
        return []
    names = (path.name for path in directory.iterdir() if path.is_dir())
    return sorted(int(name) for name in names if re.fullmatch(r"0|[1-9][0-9]*", name))


def _newest_whole(directory: Path) -> tuple[int | None, list[integrity.StepReport]]:
    """The newest whole step, and the reports of the damaged ones that are newer."""
    damaged = []
    for step in reversed(_steps(directory)):
        report = integrity.inspect(directory / str(step))
        if not report.problems:
            return step, damaged
        damaged.append(report)
    return None, damaged


# Reading


def _read(step_dir: Path, abstract_state, on_host: bool = False):
    signature.check(step_dir, signature.of(abstract_state))
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    placed = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding or here),
        abstract_state,
    )
    if on_host:
        how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), placed)
    else:
        how = ocp.checkpoint_utils.construct_restore_args(placed)
    args = ocp.args.PyTreeRestore(placed, restore_args=how, partial_restore=True)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        return checkpointer.restore(step_dir / _ITEM, args=args)


# Failures


@contextlib.contextmanager
def _storage_errors(directory: Path):
    """Turns what the disk refuses into StorageError; TensorStore says it in a ValueError's text."""
    try:
        yield
    except (OSError, ValueError) as error:
        code = re.search(r"os_error_code='(\d+)'", str(error))
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
        elif code:
            reason = os.strerror(int(code[1]))
        elif re.match(r"[A-Z_]+: ", str(error)):  # another TensorStore status
            reason = str(error).splitlines()[0]
        else:
            raise
        raise StorageError(
            f"{directory}: checkpoint not written: {reason}; earlier checkpoints are intact: "
            "make room or write access, then run the same command again"
        ) from error


def _warn(line: str):
    print(line, file=sys.stderr, flush=True)


def _not_from_orbax(record: logging.LogRecord) -> bool:
    return f"{os.sep}orbax{os.sep}" not in record.pathname


def _silence_orbax():
    """Orbax logs a failure's traceback up to six times; the exception itself tells it once."""
    logging.getLogger("absl").addFilter(_not_from_orbax)
