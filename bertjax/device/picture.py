"""Draws the measurement of `bench.run` as one picture, with a bar for every file."""

from pathlib import Path
from typing import Any

from bertjax.device import report
from bertjax.metrics import pictures

_COLORS = ("#3b6ea8", "#d1495b", "#6a994e", "#e09f3e", "#7b5ea7", "#4b5563")
_STYLE = pictures.STYLE | {"axes.grid.axis": "y"}
_MB = 1e6


def draw(path: Path, found: dict[str, Any]) -> None:
    """Draws latencies for each number of threads, size and memory, and scores if there are any.

    A latency bar is the median; a line goes up to the 99th percentile.

    Raises:
      StorageError: the picture cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    threads, metric = found["settings"]["threads"], report.metric(found)
    panels = len(threads) + 1 + (metric is not None)
    with pyplot.rc_context(_STYLE):
        figure, axes = pyplot.subplots(1, panels, figsize=(4.2 * panels, 4), layout="constrained")
        for axis, number in zip(axes, threads, strict=False):
            _latency(axis, found, number)
        _sizes(axes[len(threads)], found["files"])
        if metric is not None:
            _scores(axes[-1], found["files"], metric)
        handles, labels = axes[len(threads)].get_legend_handles_labels()
        columns = min(4, len(labels))
        figure.legend(handles, labels, loc="outside lower center", ncols=columns)
        figure.suptitle(report.machine(found), x=0.01, ha="left", fontsize=9, fontweight="normal")
        pictures.save(figure, path)


def _latency(axis: Any, found: dict[str, Any], threads: int) -> None:
    groups: list[list[tuple[float, float] | None]] = []
    for row in found["files"]:
        of = {c["tokens"]: c for c in row["latency"] if c["threads"] == threads}
        cells = (of.get(length) for length in found["settings"]["lengths"])
        groups.append([c and (1e3 * c["median_seconds"], 1e3 * c["p99_seconds"]) for c in cells])
    _bars(axis, found["files"], groups)
    axis.set_xticks(
        range(len(found["settings"]["lengths"])),
        [f"{length} tokens" for length in found["settings"]["lengths"]],
    )
    axis.set_title(f"ms a row, {threads} thread{'s' * (threads > 1)}")


def _sizes(axis: Any, rows: list[dict[str, Any]]) -> None:
    values = [[row["size_bytes"] / _MB, row["peak_bytes"] / _MB] for row in rows]
    _bars(axis, rows, [[(value, value) for value in each] for each in values])
    axis.set_xticks(range(2), ["file", "memory at its peak"])
    axis.set_title("MB")


def _scores(axis: Any, rows: list[dict[str, Any]], metric: str) -> None:
    groups: list[list[tuple[float, float] | None]] = []
    for row in rows:
        found = [row["scores"].get(size, {}).get(metric) for size in ("1", "32")]
        groups.append([None if value is None else (value, value) for value in found])
    _bars(axis, rows, groups)
    known = [pair[0] for group in groups for pair in group if pair] or [0]
    margin = 0.2 * (max(known) - min(known)) or 0.01
    axis.set_ylim(min(known) - margin, max(known) + margin)
    axis.set_xticks(range(2), ["batch 1", "batch 32, padded"])
    axis.set_title(f"{metric.replace('_', ' ')} (the axis does not start at 0)")


def _bars(
    axis: Any, rows: list[dict[str, Any]], groups: list[list[tuple[float, float] | None]]
) -> None:
    """Draws a group of bars at each integer, one bar per file, with a line up from each."""
    width = 0.8 / len(rows)
    for number, (row, pairs) in enumerate(zip(rows, groups, strict=True)):
        color = _COLORS[number % len(_COLORS)]
        at = [x + (number - (len(rows) - 1) / 2) * width for x in range(len(pairs))]
        lows = [pair[0] if pair else 0 for pair in pairs]
        highs = [pair[1] if pair else 0 for pair in pairs]
        axis.bar(at, lows, 0.9 * width, color=color, label=row["name"], zorder=2)
        axis.vlines(at, lows, highs, color="#111827", linewidth=1, zorder=3)
