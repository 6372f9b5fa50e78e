"""What a run tells about itself: metrics.jsonl, TensorBoard, the terminal, and its speed."""

import json
import math
import time
from pathlib import Path

import jax
from rich import progress as rich_progress
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from bertjax import config as config_lib
from bertjax import event_files, growing, storage
from bertjax.errors import StorageError

# Dense bfloat16 peak of one JAX device in FLOP/s, by the start of its `device_kind`; the longest
# match counts. TPUs: cloud.google.com/tpu/docs, a page for each generation (v2 and v3 show two
# devices for each chip). GPUs: NVIDIA's data sheets of A100, H100 and H200, without sparsity.
PEAK_FLOPS = {
    "TPU v2": 45e12 / 2,
    "TPU v3": 123e12 / 2,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989.4e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H200": 989.4e12,
    "NVIDIA H200 NVL": 835e12,
}


def model_flops_per_step(
    model: config_lib.Model, batch_size: int, sequence_length: int, max_predictions: int
) -> int:
    """FLOPs that one training step needs by the model's definition, a multiply-add being 2.

    With D hidden, F intermediate, N layers, V vocabulary, L length, P predictions, one sequence
    takes forward

        N * (8 L D^2 + 4 L^2 D + 4 L D F)      query, key, value, output; scores, mixing; MLP
        + 2 P D^2 + 2 P D V                    masked-LM transform and decoder, on P positions
        + 2 D^2 + 4 D                          pooler and next-sentence head, where there are any

    and the backward pass twice that. Matrix products only: lookups, LayerNorm, softmax, GELU and
    dropout are not counted, nor the padding of the vocabulary, nor what remat computes again
    (model FLOPs, not hardware FLOPs: Chowdhery et al. 2022, PaLM, appendix B).
    """
    width, length = model.hidden_size, sequence_length
    block = length * (8 * width**2 + 4 * length * width + 4 * width * model.intermediate_size)
    heads = max_predictions * 2 * width * (width + model.vocab_size)
    if model.head == "pretraining":
        heads += 2 * width**2 + 4 * width
    return 3 * batch_size * (model.num_hidden_layers * block + heads)


def peak_flops(device: jax.Device) -> float | None:
    """Dense bfloat16 peak of a device in FLOP/s; None where it is not in the table."""
    return by_kind(PEAK_FLOPS, device)


def by_kind(table: dict, device: jax.Device):
    """The entry whose name the device's kind begins with, the longest; None where there is none."""
    kinds = [kind for kind in table if device.device_kind.startswith(kind)]
    return table[max(kinds, key=len)] if kinds else None


class Speed:
    """Wall-clock rates of the steps between two calls of `rates`.

    Args:
      step: the step the clock starts at.
      tokens_per_step: B * L, padding included.
      flops_per_step: as from `model_flops_per_step`.
      peak: FLOP/s of all devices together; None or 0 reports no utilisation.
    """

    def __init__(self, step: int, tokens_per_step: int, flops_per_step: int, peak: float | None):
        self._tokens, self._flops, self._peak = tokens_per_step, flops_per_step, peak
        self.restart(step)

    def restart(self, step: int):
        """Leaves out the time since the last call: an evaluation, a compilation."""
        self._step, self._time = step, time.perf_counter()

    def rates(self, step: int) -> dict[str, float]:
        """`seconds_per_step`, `tokens_per_second` and, where the peak is known, `mfu` in [0, 1]."""
        seconds = (time.perf_counter() - self._time) / max(step - self._step, 1)
        self.restart(step)
        rates = {"seconds_per_step": seconds, "tokens_per_second": self._tokens / seconds}
        if self._peak:
            rates["mfu"] = self._flops / seconds / self._peak
        return rates


class MetricsWriter:
    """Appends to W/metrics.jsonl, and to W/tensorboard. Only process 0 writes.

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
    """

    def __init__(self, workdir: Path, step: int, *, tensorboard: bool):
        self._file = self._tensorboard = None
        if jax.process_index() != 0:
            return
        self._path = storage.path(workdir) / "metrics.jsonl"
        try:
            self._file = _open_after(self._path, step)
        except OSError as error:
            raise _refused(self._path, error) from error
        if tensorboard:
            # Imported here: it imports torch where that is installed, which takes seconds.
            from tensorboardX import SummaryWriter, record_writer

            record_writer.register_writer_factory("gs", event_files)
            # purge_step: TensorBoard forgets the later steps of the run before, as the file does.
            log = str(self._path.parent / "tensorboard")
            self._tensorboard = SummaryWriter(log, purge_step=step + 1)

    def write(self, step: int, metrics: dict[str, float], prefix: str = "train"):
        """Writes one line at once; names of another prefix than `train` become `prefix/name`.

        The training line of a step must be written before its checkpoint is saved: a run that
        resumes there does not write it again.
        """
        if self._file is None:
            return
        metrics = {name: float(value) for name, value in metrics.items()}
        start = "" if prefix == "train" else f"{prefix}/"
        line = {"step": int(step)}
        line |= {start + name: _json_float(value) for name, value in metrics.items()}
        try:
            self._file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
            self._file.flush()
            for name, value in metrics.items():
                if self._tensorboard is not None and math.isfinite(value):
                    self._tensorboard.add_scalar(f"{prefix}/{name}", value, step)
        except OSError as error:
            raise _refused(self._path, error) from error

    def save(self):
        """On gs://, writes the lines so far; call it before the checkpoint of their step is saved.

        Otherwise a run that was killed and resumes there lacks those of the last minute.
        """
        if isinstance(self._file, growing.Growing):
            self._file.save()

    def close(self):
        """Writes out what TensorBoard still holds back."""
        if self._file is not None:
            self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()


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


def _open_after(path: Path, step: int):
    """A metrics.jsonl to append to, without the lines that a run which resumes at `step` drops."""
    is_remote = storage.is_remote(path)
    if not is_remote:
        path.parent.mkdir(parents=True, exist_ok=True)
    kept = b""
    if storage.exists(path):
        lines = storage.read(path).splitlines(keepends=True)
        kept = b"".join(line for line in lines if _stays(line, step))
        storage.write(path, kept)
    return growing.Growing(path, kept) if is_remote else path.open("ab")


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


# name -> how it reads in the terminal, in this order
_SHOWN = {
    "loss": "loss {:.3f}",
    "mlm_accuracy": "mlm {:.1%}",
    "nsp_accuracy": "nsp {:.1%}",
    "learning_rate": "lr {:.2e}",
    "tokens_per_second": "{:,.0f} tok/s",
    "mfu": "mfu {:.1%}",
}


def summary(metrics: dict[str, float]) -> str:
    """One short text of the metrics that a person watches."""
    return "  ".join(form.format(metrics[name]) for name, form in _SHOWN.items() if name in metrics)


class Progress:
    """The state of the run in the terminal: a live bar, or a plain line now and then.

        with Progress(num_steps, first_step) as progress:
            progress.update(step, "phase1", metrics)

    Where stdout is no terminal, a line is printed at most every `seconds`. Only process 0 shows
    anything.
    """

    def __init__(self, num_steps: int, step: int, *, seconds: float = 10.0):
        self._num_steps, self._first, self._seconds = num_steps, step, seconds
        self._started, self._printed = time.monotonic(), -math.inf
        self._silent = jax.process_index() != 0
        console = Console()
        self._bar = rich_progress.Progress(
            rich_progress.TextColumn("{task.description}"),
            rich_progress.BarColumn(bar_width=24),
            rich_progress.MofNCompleteColumn(),
            rich_progress.TextColumn("{task.fields[left]}"),
        )
        self._task = self._bar.add_task("compiling", total=num_steps, completed=step, left="")
        # What others print while it is live appears above it.
        self._live = Live(self._bar, console=console) if console.is_terminal else None

    def __enter__(self):
        if self._live and not self._silent:
            self._live.start()
        return self

    def __exit__(self, *_):
        if self._live:
            self._live.stop()

    def update(self, step: int, phase: str, metrics: dict[str, float]):
        """Shows `metrics` after `step` of `phase`, and the time left at the mean rate so far."""
        text, left = summary(metrics), f"eta {self._time_left(step)}"
        if self._live:
            self._bar.update(self._task, description=phase, completed=step, left=left)
            self._live.update(Group(self._bar, Text(text)))
            return
        now = time.monotonic()
        due = now - self._printed >= self._seconds or step >= self._num_steps
        if due and not self._silent:
            self._printed = now
            print(f"{phase}  {step}/{self._num_steps}  {text}  {left}", flush=True)

    def _time_left(self, step: int) -> str:
        elapsed = time.monotonic() - self._started
        left = elapsed / max(step - self._first, 1) * max(self._num_steps - step, 0)
        hours, seconds = divmod(round(left), 3600)
        return f"{hours}:{seconds // 60:02}:{seconds % 60:02}"
