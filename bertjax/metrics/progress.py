"""The state of a run, on the terminal or in the log."""

import logging
import math
import time

import jax
from rich import progress as rich_progress
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from bertjax.processes import terminal

_log = logging.getLogger(__name__)

_RATES = {"learning_rate": "lr {:.2e}", "tokens_per_second": "{:,.0f} tok/s", "mfu": "mfu {:.1%}"}


def summary(metrics: dict[str, float]) -> str:
    """One short text of the metrics that a person watches.

    Of a term X that is `X_loss` and `X_accuracy`, the accuracy alone is shown.
    """
    texts = [f"loss {metrics['loss']:.3f}"] if "loss" in metrics else []
    for name, value in sorted(metrics.items()):
        term, _, kind = name.rpartition("_")
        if kind == "accuracy":
            texts.append(f"{term} {value:.1%}")
        elif term and kind == "loss" and f"{term}_accuracy" not in metrics:
            texts.append(f"{term} {value:.3f}")
    rates = [form.format(metrics[name]) for name, form in _RATES.items() if name in metrics]
    return "  ".join(texts + rates)


def say(line: str) -> None:
    """Logs a line, in process 0 alone; a command prints it, above the bar where one is live."""
    if jax.process_index() == 0:
        _log.info(line)


class Progress:
    """The state of the run: a live bar on the terminal of a command, or a logged line now and then.

        with Progress(num_steps, first_step) as progress:
            progress.update(step, "phase1", metrics)

    Where no command shows it, or stdout is no terminal, a line is logged at most every `seconds`.
    Only process 0 shows anything.
    """

    def __init__(self, num_steps: int, step: int, *, seconds: float = 10.0) -> None:
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
        is_live = console.is_terminal and terminal.is_shown()
        self._live = Live(self._bar, console=console) if is_live else None

    def __enter__(self) -> "Progress":
        if self._live and not self._silent:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def update(self, step: int, phase: str, metrics: dict[str, float]) -> None:
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
            _log.info(f"{phase}  {step}/{self._num_steps}  {text}  {left}")

    def _time_left(self, step: int) -> str:
        elapsed = time.monotonic() - self._started
        left = elapsed / max(step - self._first, 1) * max(self._num_steps - step, 0)
        hours, seconds = divmod(round(left), 3600)
        return f"{hours}:{seconds // 60:02}:{seconds % 60:02}"
