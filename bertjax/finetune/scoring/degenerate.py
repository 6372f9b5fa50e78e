"""Runs that learned nothing: how their figures show it, and why a table marks them.

Zhang et al. 2020 and Mosbach et al. 2021 count the runs that fail so.
"""

import math
from collections.abc import Sequence

from bertjax.finetune.scoring import evaluation, scores
from bertjax.finetune.scoring.predictions import Predictions
from bertjax.metrics.progress import say


def constant(
    predictions: Predictions, examples: Sequence, labels: Sequence[str]
) -> dict[str, float]:
    """The figure `constant`, 1, where all predictions are the same; {} where they are not.

    A line names the order of the labels that would fit, where accuracy is below chance.
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
    """Why a run learned nothing, or False.

    Args:
      figures: of its evaluation.
      last: means of its last logged steps.
      metrics: of its task.
      choices: classes, or options of a question; None for regression, spans and tags.
    """
    if figures.get("constant"):
        return "all predictions are the same"
    if not all(math.isfinite(figures.get(name, 0.0)) for name in ("loss", *metrics)):
        return "a figure is undefined"
    if last.get("grad_norm") == 0:
        return "the gradient is zero"
    return scores.at_chance(last.get("loss"), choices)
