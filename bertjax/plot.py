"""Draws W/metrics.jsonl as one picture: losses, accuracies, learning rate, throughput."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from bertjax import storage
from bertjax.data import store
from bertjax.errors import DataError
from bertjax.metrics import pictures, writer

TRAIN, HELD_OUT, REFERENCE = "#3b6ea8", "#d1495b", "#6b7280"


def plot(workdir: Path, out: Path | None = None) -> Path:
    """Draws the metrics of a run and returns the path of the picture, W/plot.png by default.

    Training metrics are a thin line (logged values) and a thick line (smoothed); evaluations are
    dots. A dashed line in the masked-LM loss shows the entropy of the training corpus' token
    frequencies, the loss of a model that knows nothing else. The entropy is read from
    W/store/manifest.json if the file exists.

    Raises:
      DataError: there are no metrics to draw.
      StorageError: the picture cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    workdir = storage.path(workdir)
    entries = _entries(workdir)
    panels = _panels(entries)
    columns = 3 if len(panels) <= 6 else 4
    rows = -(-len(panels) // columns)
    out = workdir / "plot.png" if out is None else storage.path(out)
    with pyplot.rc_context(pictures.STYLE):
        figure, axes = pyplot.subplots(
            rows,
            columns,
            figsize=(4.67 * columns, 3.75 * rows),
            layout="constrained",
            squeeze=False,
        )
        _draw(axes.ravel(), panels, entries, _unigram_entropy(workdir), ticker)
        last = max(entry["step"] for entry in entries)
        figure.suptitle(f"{storage.absolute(workdir).name}: {last:,} steps", x=0.01, ha="left")
        pictures.save(figure, out)
    return out


_TITLES = {
    "mlm_loss": "Masked-LM loss (nats)",
    "mlm_accuracy": "Masked-LM accuracy",
    "nsp_loss": "Next-sentence loss (nats)",
    "nsp_accuracy": "Next-sentence accuracy",
    "learning_rate": "Learning rate",
    "grad_norm": "Gradient norm",
    "tokens_per_second": "Tokens per second",
}
# _LAST is drawn last, in this order. _UNDRAWN is left out, because other panels show the same.
_LAST = ("learning_rate", "grad_norm", "tokens_per_second")
_UNDRAWN = {"step", "loss", "skipped", "seconds_per_step", "mfu", "perplexity"}


def _panels(entries: list[dict[str, float]]) -> list[str]:
    """The metrics to draw: those of the job (for each term the loss first), then `_LAST`."""
    logged = {name.removeprefix("eval/") for entry in entries for name in entry}
    terms = [n for n in logged - _UNDRAWN - set(_LAST) if "/" not in n]
    order = {"loss": 0, "accuracy": 1}
    terms.sort(key=lambda n: (n.rpartition("_")[0], order.get(n.rpartition("_")[2], 2), n))
    return [*terms, *_LAST]


def _draw(
    axes: Any, panels: list[str], entries: list[dict], unigram_entropy: float | None, ticker: Any
) -> None:
    references = {"mlm_loss": (unigram_entropy, "unigram entropy"), "nsp_accuracy": (0.5, "chance")}
    for axis, name in zip(axes, panels, strict=False):
        _panel(axis, entries, name, smooth=name != "learning_rate")
        if name in references:
            _reference(axis, *references[name])
        axis.xaxis.set_major_locator(ticker.MaxNLocator(6, integer=True))
        axis.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
        if name not in _LAST and axis.get_legend_handles_labels()[0]:
            axis.legend(loc="best")
        if name.endswith("_accuracy"):
            axis.yaxis.set_major_formatter(ticker.PercentFormatter(1.0))
        if name == "learning_rate":
            axis.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        if name == "tokens_per_second":
            axis.yaxis.set_major_formatter(ticker.EngFormatter(sep=""))
        if name in ("mlm_accuracy", "tokens_per_second"):
            axis.set_ylim(bottom=0)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()


def _entries(workdir: Path) -> list[dict[str, float]]:
    path = workdir / "metrics.jsonl"
    if not storage.exists(path):
        raise DataError(f"{path}: no such file; is {workdir} the --workdir of a pretrain run?")
    entries = writer.read(path)
    if not entries:
        raise DataError(f"{path}: holds no metrics yet; let pretrain log a first line")
    return entries


def _unigram_entropy(workdir: Path) -> float | None:
    try:
        return store.read_manifest(workdir / "store").get("unigram_entropy")
    except DataError:  # the picture is useful without the entropy
        return None


def _series(entries: list[dict[str, float]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and finite values of one metric."""
    points = [(e["step"], e[name]) for e in entries if math.isfinite(e.get(name, math.nan))]
    steps, values = zip(*points, strict=True) if points else ((), ())
    return np.array(steps, np.int64), np.array(values, np.float64)


def _smoothed(values: np.ndarray) -> np.ndarray:
    """The mean over a centered window of 1/40 of the points, cut off at the ends of `values`."""
    half = len(values) // 80
    sums = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    first, end = np.maximum(at - half, 0), np.minimum(at + half + 1, len(values))
    return (sums[end] - sums[first]) / (end - first)


def _panel(axis: Any, entries: list[dict], name: str, *, smooth: bool) -> None:
    steps, values = _series(entries, name)
    if smooth and len(values) >= 80:
        axis.plot(steps, values, color=TRAIN, linewidth=0.6, alpha=0.35)
        axis.plot(steps, _smoothed(values), color=TRAIN, linewidth=1.8, label="training")
    elif len(values):
        axis.plot(steps, values, color=TRAIN, linewidth=1.8, label="training")
    steps, values = _series(entries, f"eval/{name}")
    if len(values):
        style = {"linestyle": "", "marker": "o", "markersize": 4.5, "markeredgecolor": "white"}
        axis.plot(steps, values, color=HELD_OUT, zorder=3, label="held out", **style)
    axis.set_title(_TITLES.get(name, name.replace("_", " ")))
    axis.set_xlabel("step")
    if not axis.has_data():
        axis.text(0.5, 0.5, "not logged", transform=axis.transAxes, ha="center", color=REFERENCE)


def _reference(axis: Any, value: float | None, label: str) -> None:
    if value is not None:
        axis.axhline(value, color=REFERENCE, linewidth=1.2, linestyle="--", label=label)
