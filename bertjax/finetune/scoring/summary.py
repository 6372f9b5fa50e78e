"""Summarizes several runs of one task: mean, deviation, median, best, degenerate runs.

A run is the object in its scores.json: task, title, seed, learning_rate, batch_size, epochs, step,
metric, value, figures, train_loss, degenerate, seconds.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bertjax.finetune.scoring import scores
from bertjax.finetune.tasks import TASKS

Run = Mapping[str, Any]
SETTINGS = ("learning_rate", "batch_size", "epochs")  # what defines a cell of the grid


class Summary(NamedTuple):
    """One metric over the runs of a cell.

    Attributes:
      mean, median: over all runs; `scores.value` defines the value of an undefined figure.
      std: the sample standard deviation (n - 1); NaN for one run.
      best: the best value, from a degenerate run only if all runs are degenerate.
      degenerate: the number of degenerate runs.
    """

    runs: int
    mean: float
    std: float
    median: float
    best: float
    degenerate: int

    def as_json(self) -> dict[str, Any]:
        return scores.as_json(self._asdict())


def summarize(runs: Sequence[Run], metric: str) -> Summary:
    """The summary of at least one run."""
    values = [scores.value(run["figures"], metric) for run in runs]
    spread = len(values) > 1 and all(map(math.isfinite, values))
    return Summary(
        runs=len(values),
        mean=statistics.fmean(values),
        std=statistics.stdev(values) if spread else math.nan,
        median=statistics.median(values),
        best=scores.value(scores.best(runs, metric)["figures"], metric),
        degenerate=sum(bool(run["degenerate"]) for run in runs),
    )


def by_task(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs of each task, in the order of `tasks.TASKS`; a user's own tasks come last."""
    names = list(dict.fromkeys([*TASKS, *(run["task"] for run in runs)]))
    found = {name: [run for run in runs if run["task"] == name] for name in names}
    return {name: of_task for name, of_task in found.items() if of_task}


def cells(runs: Sequence[Run]) -> dict[tuple, list[Run]]:
    """The runs of one task by (rate, batch size, epochs), sorted; each cell is sorted by seed."""
    found: dict[tuple, list[Run]] = {}
    for run in sorted(runs, key=lambda r: (*(r[name] for name in SETTINGS), r["seed"])):
        found.setdefault(tuple(run[name] for name in SETTINGS), []).append(run)
    return found


def best_cell(runs: Sequence[Run]) -> list[Run]:
    """The runs of the cell with the best mean of the task's metric; the first cell in a tie."""
    metric = runs[0]["metric"]
    pick = max if scores.METRICS[metric] else min
    return pick(cells(runs).values(), key=lambda cell: summarize(cell, metric).mean)
