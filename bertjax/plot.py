"""W/metrics.jsonl as one picture: losses, accuracies, learning rate, throughput."""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np

from bertjax import storage
from bertjax.data import store
from bertjax.errors import DataError, StorageError
from bertjax.metrics import writer

TRAIN, HELD_OUT, REFERENCE = "#3b6ea8", "#d1495b", "#6b7280"


def plot(workdir: Path, out: Path | None = None) -> Path:
    """Draws the metrics of a run and returns the path of the picture, W/plot.png by default.

    Training is a thin line of what was logged and a thick smoothed one; evaluations are dots.
    The masked-LM loss is compared with the entropy of the training corpus' token frequencies
    (the loss of a model that knows nothing else), read from W/store/manifest.json if it is there.

    Raises:
      DataError: there are no metrics to draw.
      StorageError: the picture cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    workdir = storage.path(workdir)
    entries = _entries(workdir)
    out = workdir / "plot.png" if out is None else storage.path(out)
    with pyplot.rc_context(_STYLE):
        figure, axes = pyplot.subplots(2, 3, figsize=(14, 7.5), layout="constrained")
        _draw(axes.ravel(), entries, _unigram_entropy(workdir), ticker)
        last = max(entry["step"] for entry in entries)
        figure.suptitle(f"{storage.absolute(workdir).name}: {last:,} steps", x=0.01, ha="left")
        picture = io.BytesIO()
        try:
            figure.savefig(picture, dpi=120, format=out.suffix[1:] or "png")
            storage.write(out, picture.getvalue())
        except OSError as error:
            raise StorageError(f"{out}: cannot be written: {error.strerror}") from error
        finally:
            pyplot.close(figure)
    return out


def _draw(
    axes: Any, entries: list[dict[str, float]], unigram_entropy: float | None, ticker: Any
) -> None:
    _panel(axes[0], entries, "mlm_loss", "Masked-LM loss (nats)")
    _reference(axes[0], unigram_entropy, "unigram entropy")
    _panel(axes[1], entries, "mlm_accuracy", "Masked-LM accuracy")
    _panel(axes[2], entries, "nsp_accuracy", "Next-sentence accuracy")
    _reference(axes[2], 0.5, "chance")
    _panel(axes[3], entries, "learning_rate", "Learning rate", smooth=False)
    _panel(axes[4], entries, "grad_norm", "Gradient norm")
    _panel(axes[5], entries, "tokens_per_second", "Tokens per second")
    for axis in axes:
        axis.xaxis.set_major_locator(ticker.MaxNLocator(6, integer=True))
        axis.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
    for axis in axes[:3]:
        if axis.get_legend_handles_labels()[0]:
            axis.legend(loc="best")
    for axis in axes[1:3]:
        axis.yaxis.set_major_formatter(ticker.PercentFormatter(1.0))
    axes[3].ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    axes[5].yaxis.set_major_formatter(ticker.EngFormatter(sep=""))
    for axis in (axes[1], axes[5]):
        axis.set_ylim(bottom=0)


_STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.edgecolor": "#9ca3af",
    "figure.titlesize": 13,
    "figure.titleweight": "bold",
    "grid.color": "#e5e7eb",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "xtick.color": "#4b5563",
    "ytick.color": "#4b5563",
}


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
    except DataError:  # the picture is worth drawing without it
        return None


def _series(entries: list[dict[str, float]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and finite values of one metric."""
    points = [(e["step"], e[name]) for e in entries if math.isfinite(e.get(name, math.nan))]
    steps, values = zip(*points, strict=True) if points else ((), ())
    return np.array(steps, np.int64), np.array(values, np.float64)


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Mean over a centered window of a fortieth of the points, cut off at both ends."""
    half = len(values) // 80
    sums = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    first, end = np.maximum(at - half, 0), np.minimum(at + half + 1, len(values))
    return (sums[end] - sums[first]) / (end - first)


def _panel(
    axis: Any, entries: list[dict[str, float]], name: str, title: str, *, smooth: bool = True
) -> None:
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
    axis.set_title(title)
    axis.set_xlabel("step")
    if not axis.has_data():
        axis.text(0.5, 0.5, "not logged", transform=axis.transAxes, ha="center", color=REFERENCE)


def _reference(axis: Any, value: float | None, label: str) -> None:
    if value is not None:
        axis.axhline(value, color=REFERENCE, linewidth=1.2, linestyle="--", label=label)
