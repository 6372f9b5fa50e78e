"""Figures of classification, regression and multiple choice; detection of degenerate runs.

A figure is a fraction of 1, as in scikit-learn and scipy; tables show it times 100. An undefined
figure (such as a correlation with a constant) is NaN: it counts 0, is `null` in JSON and marks its
run as degenerate.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

# Whether a larger value is better.
METRICS = {
    "accuracy": True,
    "mismatched_accuracy": True,
    "f1": True,
    "macro_f1": True,
    "matthews": True,
    "pearson": True,
    "spearman": True,
    "mse": False,
    "exact": True,
    "precision": True,
    "recall": True,
    "strict_f1": True,
    "loss": False,
}
# A run whose training loss is this close to a uniform guess's loss learned nothing.
CHANCE_MARGIN = 0.01


def figures(
    metrics: Iterable[str], labels: np.ndarray, predictions: np.ndarray, scale: float = 1.0
) -> dict[str, float]:
    """The metrics of one evaluation; an undefined metric is NaN.

    Args:
      metrics: names among accuracy, f1 (of label 1), macro_f1, matthews, pearson, spearman, mse.
      labels: `[N]`, class numbers or targets.
      predictions: `[N]`, class numbers or outputs of the model.
      scale: the factor for outputs before scoring: 5 for a model trained on STS-B's target divided
        by 5 (fairseq, examples/roberta/README.glue.md).

    Raises:
      KeyError: a metric is unknown.
      ValueError: there are no examples, or the numbers of labels and predictions differ.
    """
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    if len(labels) != len(predictions) or not len(labels):
        raise ValueError(f"{len(labels)} labels, {len(predictions)} predictions")
    scaled = predictions if scale == 1.0 else predictions * scale
    return {metric: float(_FIGURES[metric](labels, scaled)) for metric in metrics}


def _accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
    return np.mean(labels == predictions)


def _f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    from sklearn.metrics import f1_score

    return f1_score(labels == 1, predictions == 1, zero_division=np.nan)


def _macro_f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    from sklearn.metrics import f1_score

    return f1_score(labels, predictions, average="macro")


def _matthews(labels: np.ndarray, predictions: np.ndarray) -> float:
    from sklearn.metrics import matthews_corrcoef

    if _constant(labels) or _constant(predictions):
        return math.nan  # 0/0; scikit-learn gives 0
    return matthews_corrcoef(labels, predictions)


def _pearson(labels: np.ndarray, predictions: np.ndarray) -> float:
    from scipy.stats import pearsonr

    if not _correlates(labels, predictions):
        return math.nan
    return pearsonr(labels.astype(np.float64), predictions.astype(np.float64)).statistic


def _spearman(labels: np.ndarray, predictions: np.ndarray) -> float:
    from scipy.stats import spearmanr

    return (
        spearmanr(labels, predictions).statistic if _correlates(labels, predictions) else math.nan
    )


def _mse(labels: np.ndarray, predictions: np.ndarray) -> float:
    return np.mean((labels.astype(np.float64) - predictions) ** 2)


_FIGURES = {
    "accuracy": _accuracy,
    "f1": _f1,
    "macro_f1": _macro_f1,
    "matthews": _matthews,
    "pearson": _pearson,
    "spearman": _spearman,
    "mse": _mse,
}


def _correlates(labels: np.ndarray, predictions: np.ndarray) -> bool:
    """Whether a correlation is defined."""
    if not (np.isfinite(labels).all() and np.isfinite(predictions).all()):
        return False
    return not (_constant(labels) or _constant(predictions))


def _constant(values: np.ndarray) -> bool:
    """Whether the values are equal, up to the rounding of float32."""
    if values.dtype.kind != "f":
        return bool((values == values[0]).all())
    return bool(np.ptp(values) <= 1e-6 * max(1.0, float(np.abs(values).max())))


def degenerate(
    labels: np.ndarray,
    predictions: np.ndarray,
    train_loss: float | None = None,
    choices: int | None = None,
    label_names: Sequence[str] = (),
    figures: Mapping[str, float] | None = None,
) -> str | bool:
    """The reason why a run learned nothing, or False.

    Zhang et al. 2020 and Mosbach et al. 2021 count runs that fail this way: every prediction is the
    majority class, or the training loss stays at ln(classes).

    Args:
      labels, predictions: `[N]`, see `figures`.
      train_loss: the loss at the end of training, in nats.
      choices: the number of classes or options; None for regression and spans.
      figures: the figures that decide which run is best; an undefined figure is a reason too.
    """
    if not np.isfinite(predictions).all():
        return "a prediction is not finite"
    if _constant(predictions) and not _constant(labels):
        value = predictions[0]
        named = isinstance(value, np.integer) and 0 <= value < len(label_names)
        return f"every prediction is {label_names[value] if named else f'{value:.4g}'}"
    undefined = [name for name, figure in (figures or {}).items() if math.isnan(figure)]
    if undefined:
        return f"{', '.join(undefined)} undefined"
    return at_chance(train_loss, choices)


def at_chance(train_loss: float | None, choices: int | None) -> str | bool:
    """The reason why a training loss shows that nothing was learned, or False; see `degenerate`."""
    if train_loss is None:
        return False
    if not math.isfinite(train_loss):
        return f"the training loss is {train_loss}"
    if choices and choices > 1 and abs(train_loss - math.log(choices)) <= CHANCE_MARGIN:
        return f"the training loss {train_loss:.4f} is a guess's loss, ln {choices}"
    return False


def value(figures: Mapping[str, float | None], metric: str) -> float:
    """A figure's value in means and comparisons.

    An undefined figure counts 0, or infinity if lower values of the metric are better.

    Raises:
      KeyError: there is no such figure.
    """
    figure = figures[metric]
    if figure is None or math.isnan(figure):
        return 0.0 if METRICS[metric] else math.inf
    return float(figure)


def better(metric: str, new: float, old: float) -> bool:
    """Whether `new` beats `old`; NaN beats nothing, and everything else beats NaN."""
    if math.isnan(new) or math.isnan(old):
        return math.isnan(old) and not math.isnan(new)
    return new > old if METRICS[metric] else new < old


def best(results: Sequence[Mapping[str, Any]], metric: str) -> Mapping[str, Any]:
    """The best result by a metric of its `figures`; the first one in a tie.

    Degenerate results and results with an undefined figure win only if there are no others.
    """
    sound = [r for r in results if not r["degenerate"] and r["figures"].get(metric) is not None]
    pool = [r for r in sound if math.isfinite(r["figures"][metric])] or list(results)
    return (max if METRICS[metric] else min)(pool, key=lambda r: value(r["figures"], metric))


def as_json(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The figures with None for NaN and infinity, also in nested objects and lists, for JSON."""
    return {name: _plain(figure) for name, figure in figures.items()}


def _plain(figure: Any) -> Any:
    if isinstance(figure, Mapping):
        return as_json(figure)
    if isinstance(figure, list | tuple):
        return [_plain(f) for f in figure]
    if isinstance(figure, np.generic):
        figure = figure.item()
    if isinstance(figure, float) and not math.isfinite(figure):
        return None
    return figure


def below_chance(
    labels: np.ndarray, predictions: np.ndarray, label_names: Sequence[str]
) -> str | None:
    """If accuracy is below chance, a line that names the permutation of labels that would fit.

    A checkpoint with its labels in another order scores 4.3% on MNLI instead of 90.6%
    (transformers #10401).

    Args:
      labels, predictions: `[N]`, class numbers.

    Returns:
      None unless accuracy is at least four standard deviations of a guess below 1 / classes and
      another order fits better.
    """
    from scipy.optimize import linear_sum_assignment

    classes, accuracy = len(label_names), np.mean(labels == predictions)
    if classes < 2:
        return None
    chance = 1 / classes
    if chance - accuracy < 4 * math.sqrt(chance * (1 - chance) / len(labels)):
        return None  # a guess may be this far below chance
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (predictions, labels), 1)
    rows, meant = linear_sum_assignment(counts, maximize=True)
    fit = counts[rows, meant].sum() / len(labels)
    moved = [f"{label_names[p]} as {label_names[m]}" for p, m in enumerate(meant) if p != m]
    if fit <= accuracy:
        return None
    return (
        f"accuracy {accuracy:.3f} is below chance ({1 / classes:.3f}); it would be {fit:.3f} with "
        f"predictions renamed: {', '.join(moved)}; is the order of the labels right?"
    )


def merge_labels(predictions: np.ndarray, label_names: Sequence[str]) -> np.ndarray:
    """MNLI predictions `[N]` for HANS: 0 for entailment, 1 for neutral or contradiction.

    McCoy et al. 2019 also merge the predicted labels, not the probabilities.
    """
    return (predictions != _entailment(label_names)).astype(np.int64)


def _entailment(label_names: Sequence[str]) -> int:
    return [name.lower() for name in label_names].index("entailment")
