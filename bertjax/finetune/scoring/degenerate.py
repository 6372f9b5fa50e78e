"""Detects runs that learned nothing (degenerate runs) from their figures, so that tables mark them.

Zhang et al. 2020 and Mosbach et al. 2021 count such failed runs.
"""

import math
from collections.abc import Sequence

from bertjax.finetune.scoring import evaluation, scores
from bertjax.finetune.scoring.predictions import Predictions
from bertjax.metrics.progress import say


def constant(
    predictions: Predictions, examples: Sequence, labels: Sequence[str]
) -> dict[str, float]:
    """The figure `constant`, 1, if all predictions are the same; {} otherwise.

    If accuracy is below chance, a logged line names the order of the labels that would fit.
    """
    if predictions.kind == "span":
        return {}
    if predictions.tags is not None:
        found = {number for tags in predictions.tags for number, _ in tags}
        return {"constant": 1.0} if len(found) == 1 else {}
    golds, guesses = evaluation.golds_and_guesses(labels, examples, predictions)
    line = scores.below_chance(golds, guesses, labels) if len(labels) > 1 else None
    if line:
        say(line)
    return {"constant": 1.0} if scores.degenerate(golds, guesses) else {}


def reason(
    figures: dict[str, float],
    last: dict[str, float],
    metrics: Sequence[str],
    choices: int | None,
) -> str | bool:
    """The reason why a run learned nothing, or False.

    Args:
      figures: the figures of the run's evaluation.
      last: means over the run's last logged steps.
      metrics: the metrics of the run's task.
      choices: the number of classes or options; None for regression, spans and tags.
    """
    if figures.get("constant"):
        return "all predictions are the same"
    if not all(math.isfinite(figures.get(name, 0.0)) for name in ("loss", *metrics)):
        return "a figure is undefined"
    if last.get("grad_norm") == 0:
        return "the gradient is zero"
    return scores.at_chance(last.get("loss"), choices)
