"""Where the wall-clock time of a run goes, over all its starts (goodput: the share of steps)."""

import contextlib
import time
from collections.abc import Iterator

CATEGORIES = {
    "init": "start-up, the corpus and its index",
    "compile": "compiling the step",
    "step": "training steps",
    "data": "waiting for host batches",
    "save": "the part of saving that stops the step",
    "restore": "reading and checking checkpoints",
    "evaluation": "held-out figures",
    "replay": "steps that a lost checkpoint made train again",
}
# What is done again, and so was lost, where a run goes on from before its last step.
_REPLAYED = ("step", "data", "save", "evaluation")


class Goodput:
    """A ledger that puts every second into one category.

        goodput = Goodput(time.monotonic())
        with goodput.spend("compile"):
            ...
        goodput.seconds    # {"init": 3.1, "compile": 12.0, ...}: adds up to the time since start

    Time outside of any `spend` is start-up before `begin_steps`, then steps.

    Args:
      started: when the run began, by `time.monotonic`.
    """

    def __init__(self, started: float) -> None:
        self._seconds = dict.fromkeys(CATEGORIES, 0.0)
        self._earlier = dict(self._seconds)  # of the starts before this one
        self._current, self._since = "init", started
        self.until_first_step: float | None = None  # seconds of this start, once a step is due

    def go_on(self, lines: list[dict], step: int) -> None:
        """Adds the ledger of the starts before this one, which got beyond `step` and lost that.

        Args:
          lines: of metrics.jsonl as that start left it, in order.
          step: where this one goes on.
        """
        ledgers = [
            (line["step"], {name: line[f"goodput/{name}"] for name in CATEGORIES})
            for line in lines
            if "goodput/step" in line
        ]
        if not ledgers:
            return
        last = ledgers[-1][1]
        kept = [ledger for at, ledger in ledgers if at <= step] or [dict.fromkeys(CATEGORIES, 0.0)]
        own = dict(self._seconds)
        for name in CATEGORIES:
            lost = last[name] - kept[-1][name] if name in _REPLAYED else 0.0
            self._seconds[name] += last[name] - lost
            self._seconds["replay"] += lost
        self._earlier = {name: s - own[name] for name, s in self._seconds.items()}

    def first_step(self) -> str:
        """Call it when a step is about to run: how long this start took to get there, in words.

        The second time and later, an empty text.
        """
        if self.until_first_step is not None:
            return ""
        seconds = {name: s - self._earlier[name] for name, s in self.seconds.items()}
        self.until_first_step = round(sum(seconds.values()), 3)
        parts = ", ".join(f"{name} {s:.1f}" for name, s in seconds.items() if s >= 0.05)
        return f"; {self.until_first_step:.1f} s from the command to the first step ({parts})"

    @contextlib.contextmanager
    def spend(self, category: str) -> Iterator[None]:
        """While entered, time counts as `category`, whatever it counted as before."""
        before = self._current
        self._switch(category)
        try:
            yield
        finally:
            self._switch(before)

    def begin_steps(self) -> None:
        """From here on, time that is nothing else is training."""
        self._switch("step")

    def _switch(self, category: str) -> None:
        now = time.monotonic()
        self._seconds[self._current] += now - self._since
        self._current, self._since = category, now

    @property
    def ledger(self) -> dict[str, float]:
        """`seconds`, and `first_step` once this start has come to one: its seconds until then."""
        reached = self.until_first_step
        return self.seconds | ({} if reached is None else {"first_step": reached})

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by category up to now, over all starts."""
        self._switch(self._current)
        return dict(self._seconds)

    def summary(self) -> str:
        """One line for people: the whole time, and every category's share of it."""
        seconds = self.seconds
        total = sum(seconds.values())
        shares = sorted(seconds.items(), key=lambda item: -item[1])
        parts = "  ".join(f"{name} {s / total:.1%}" for name, s in shares if s / total >= 0.0005)
        return f"time {total:,.0f} s: {parts}"
