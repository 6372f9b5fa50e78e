"""Plots the runs of a grid or of GLUE in one picture, with a point for every seed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bertjax.finetune.scoring import scores, summary
from bertjax.finetune.scoring.summary import Run
from bertjax.metrics import pictures

RUN, MEAN, DEGENERATE = "#3b6ea8", "#111827", "#d1495b"
_WIDTH = 0.5  # the points of a cell are spread over this width


def draw(path: Path, runs: Sequence[Run], title: str = "") -> Path:
    """Draws a panel for each task: a column for each cell of its grid, a point for each seed.

    A short line marks the mean of a cell; a cross marks a degenerate run. Fractions of 1 are shown
    times 100.

    Args:
      path: the suffix decides the format; PNG without one.

    Raises:
      StorageError: the picture cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    tasks = summary.by_task(runs)
    columns = min(4, max(1, len(tasks)))
    lines = max(1, -(-len(tasks) // columns))
    size = (4.2 * columns, 3.4 * lines)
    with pyplot.rc_context(_STYLE):
        figure, axes = pyplot.subplots(
            lines, columns, figsize=size, layout="constrained", squeeze=False
        )
        for axis, of_task in zip(axes.ravel(), tasks.values(), strict=False):
            _panel(axis, of_task)
        for axis in axes.ravel()[len(tasks) :]:
            axis.set_axis_off()
        if title:
            figure.suptitle(title, x=0.01, ha="left")
        pictures.save(figure, path)
    return path


def _panel(axis: Any, runs: Sequence[Run]) -> None:
    """The cells of one task side by side."""
    metric, cells = runs[0]["metric"], summary.cells(runs)
    factor = 1 if metric in ("loss", "mse") else 100
    for at, cell in enumerate(cells.values()):
        step = _WIDTH / max(1, len(cell) - 1)
        for number, run in enumerate(cell):
            x = at + (number * step - _WIDTH / 2 if len(cell) > 1 else 0)
            y = factor * scores.value(run["figures"], metric)
            color, marker = (DEGENERATE, "x") if run["degenerate"] else (RUN, "o")
            axis.plot(x, y, color=color, marker=marker, markersize=5, linestyle="", zorder=3)
        mean = factor * summary.summarize(cell, metric).mean
        axis.plot([at - 0.35, at + 0.35], [mean, mean], color=MEAN, linewidth=1.5)
    axis.set_title(f"{runs[0]['title']}: {metric.replace('_', ' ')}")
    axis.set_xticks(range(len(cells)), [_label(settings) for settings in cells])
    axis.set_xlim(-0.6, len(cells) - 0.4)
    if len(cells) > 3:
        axis.tick_params(axis="x", labelsize=7)


def _label(settings: tuple) -> str:
    """A cell's settings on three lines: rate, batch, epochs."""
    rate, batch, epochs = settings
    return f"{rate:g}\n{batch:g} rows\n{epochs:g} ep."


_STYLE = pictures.STYLE | {"axes.grid.axis": "y"}
