"""Text tables of runs: GLUE in the papers' order, and the cells of a grid.

Figures are shown times 100, as in the papers; in JSON they are fractions of 1.
"""

import math
from collections.abc import Sequence
from typing import Any

from bertjax.finetune.scoring import averages, scores, summary
from bertjax.finetune.scoring.summary import Run
from bertjax.finetune.tasks import TASKS

# The order of BERT's Table 1, then WNLI, which the table leaves out. MNLI must come first, because
# other tasks may start from its weights.
GLUE_ORDER = ("mnli", "qqp", "qnli", "sst2", "cola", "stsb", "mrpc", "rte", "wnli")
_SHOWN = {
    "accuracy": "accuracy",
    "mismatched_accuracy": "accuracy, mismatched",
    "f1": "F1",
    "macro_f1": "macro F1",
    "matthews": "Matthews",
    "pearson": "Pearson",
    "spearman": "Spearman",
}
_STATISTICS = ("mean", "std", "median", "best")
_AS_THEY_ARE = ("loss", "mse")  # not shares of 1


def glue(runs: Sequence[Run]) -> dict[str, Any]:
    """GLUE's results as JSON values.

    If a task has several cells (a grid), the cell with the best mean counts, as in BERT's paper.

    Returns:
      `tasks`: for each task and metric that was run, an object with task, title, metric, the number
      of cells, the chosen cell's settings and the fields of `Summary`.
      `averages`: for each paper, an object with name, mean, median, parts (the number of parts with
      figures) and of (the number of all parts).
    """
    of_task = summary.by_task(runs)
    rows, means, medians = [], {}, {}
    for name in GLUE_ORDER:
        if name not in of_task:
            continue
        cell = summary.best_cell(of_task[name])
        for metric in TASKS[name].shown:
            if not all(metric in run["figures"] for run in cell):
                continue
            found = summary.summarize(cell, metric)
            means[name, metric], medians[name, metric] = found.mean, found.median
            settings = {key: cell[0][key] for key in summary.SETTINGS}
            row = {"task": name, "title": TASKS[name].title, "metric": metric}
            number = {"cells": len(summary.cells(of_task[name]))}
            rows.append(row | number | settings | found.as_json())
    return {"tasks": rows, "averages": [_average(a, means, medians) for a in averages.AVERAGES]}


def _average(of: averages.Average, means: dict, medians: dict) -> dict[str, Any]:
    mean, parts = averages.average(of, means)
    median, _ = averages.average(of, medians)
    row = {"name": of.name, "mean": mean, "median": median, "parts": parts, "of": len(of.parts)}
    return scores.as_json(row)


def glue_table(runs: Sequence[Run]) -> str:
    """GLUE's results in the order of BERT's Table 1, and each paper's average.

    An average over fewer tasks than the paper's shows their number. A task without runs has no row.
    For each task with several cells, a line names the chosen cell.
    """
    content = glue(runs)
    rows = [
        [
            row["title"],
            _SHOWN[row["metric"]],
            *(_figure(row[name], row["metric"]) for name in _STATISTICS),
            str(row["runs"]),
            str(row["degenerate"]),
        ]
        for row in content["tasks"]
    ]
    head = ["task", "metric", *_STATISTICS, "runs", "degenerate"]
    found = [a for a in content["averages"] if a["parts"]]
    lines = [
        [
            a["name"] + ("" if a["parts"] == a["of"] else f", {a['parts']} of {a['of']} tasks"),
            _figure(a["mean"]),
            _figure(a["median"]),
        ]
        for a in found
    ]
    tables = [_columns([head, *rows], left=2)]
    if lines:
        tables.append(_columns([["average", "of means", "of medians"], *lines], left=1))
    tables.extend(_chosen(content["tasks"]))
    return "\n\n".join(tables)


def _chosen(rows: Sequence[dict]) -> list[str]:
    """A paragraph that names the chosen cell of each task that has a grid; [] without grids."""
    lines = {
        row["title"]: f"{row['title']}: rate {row['learning_rate']:g}, batch {row['batch_size']}, "
        f"epochs {row['epochs']:g}: the best mean of {row['cells']} cells"
        for row in rows
        if row["cells"] > 1
    }
    return ["\n".join(lines.values())] if lines else []


def grid(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The cells of every task's grid as JSON values: settings, summary and seeds."""
    result = []
    for task, of_task in summary.by_task(runs).items():
        metric = of_task[0]["metric"]
        for settings, cell in summary.cells(of_task).items():
            row = {"task": task, "title": cell[0]["title"], "metric": metric}
            row |= dict(zip(summary.SETTINGS, settings, strict=True))
            row |= summary.summarize(cell, metric).as_json()
            result.append(row | {"seeds": [run["seed"] for run in cell]})
    return result


def grid_table(runs: Sequence[Run]) -> str:
    """Every run, then every cell of the grid with mean, std, median, best and degenerate runs."""
    head = ["task", "rate", "batch", "epochs"]
    run_rows = [
        [
            *_cell(run),
            str(run["seed"]),
            run["metric"],
            _figure(run["figures"].get(run["metric"]), run["metric"]),
            "-" if run["train_loss"] is None else f"{run['train_loss']:.4f}",
            f"{run['seconds']:.0f}",
            _why(run["degenerate"]),
        ]
        for of_task in summary.by_task(runs).values()
        for cell in summary.cells(of_task).values()
        for run in cell
    ]
    run_head = [*head, "seed", "metric", "value", "train loss", "seconds", "degenerate"]
    cell_rows = [
        [
            *_cell(row),
            row["metric"],
            *(_figure(row[name], row["metric"]) for name in _STATISTICS),
            str(row["runs"]),
            str(row["degenerate"]),
        ]
        for row in grid(runs)
    ]
    cell_head = [*head, "metric", *_STATISTICS, "runs", "degenerate"]
    return "\n\n".join(
        [_columns([run_head, *run_rows], left=1), _columns([cell_head, *cell_rows], left=1)]
    )


def _cell(run: Run) -> list[str]:
    settings = run["learning_rate"], run["batch_size"], run["epochs"]
    return [run["title"], *(f"{value:g}" for value in settings)]


def _why(degenerate: str | bool) -> str:
    return degenerate if isinstance(degenerate, str) else "yes" if degenerate else ""


def _figure(value: float | None, metric: str = "") -> str:
    """A figure times 100, except loss and mse; "-" if undefined."""
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:.4f}" if metric in _AS_THEY_ARE else f"{100 * value:.1f}"


def _columns(rows: list[list[str]], left: int) -> str:
    """Rows as aligned columns, the first `left` of them flush left; the first row is a header."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    rule = "  ".join("-" * width for width in widths)
    return "\n".join([lines[0], rule, *lines[1:]])
