"""Scores predictions against the labels of their examples."""

from collections.abc import Sequence

import numpy as np

from bertjax.finetune.scoring import null_threshold, scores, squad_scores, tag_scores
from bertjax.finetune.scoring.predictions import Predictions
from bertjax.finetune.tasks import Task


def figures(
    task: Task,
    labels: Sequence[str],
    examples: Sequence,
    predictions: Predictions,
    null_answers: bool = False,
) -> dict[str, float]:
    """The figures that the papers report for a task, as fractions of 1.

    See `scores`, `squad_scores` and `tag_scores`.

    Args:
      labels: the label names in the order of the logits.
      examples: examples that all have a label.
    """
    if predictions.kind == "span":
        return _span_figures(examples, predictions, null_answers)
    if predictions.kind == "token":
        assert predictions.tags is not None
        guessed = [[labels[number] for number, _ in tags] for tags in predictions.tags]
        return tag_scores.figures([example.tags for example in examples], guessed)
    metrics = [m for m in task.metrics if m != "mismatched_accuracy"]
    return scores.figures(metrics, *golds_and_guesses(labels, examples, predictions))


def golds_and_guesses(
    labels: Sequence[str], examples: Sequence, predictions: Predictions
) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions `[N]` for `scores`; for classes and numbers only."""
    if predictions.kind == "regression":
        assert predictions.values is not None
        return np.array([float(e.label) for e in examples]), predictions.values
    assert predictions.probabilities is not None
    guesses = predictions.probabilities.argmax(-1)
    if predictions.kind == "multiple_choice":
        return np.array([e.label for e in examples]), guesses
    number = {name: i for i, name in enumerate(labels)}
    return np.array([number[e.label] for e in examples]), guesses


def _span_figures(
    examples: Sequence, predictions: Predictions, null_answers: bool
) -> dict[str, float]:
    """SQuAD 1.1: exact and f1. SQuAD 2.0: the figures at threshold 0, tuned and crossed."""
    assert predictions.spans is not None
    golds = squad_scores.golds(examples, null_answers)
    found = dict(zip((e.id for e in examples), predictions.spans, strict=True))
    answers = {name: each.answer for name, each in found.items()}
    if not null_answers:
        scored = squad_scores.score(golds, answers, null_answers=False)
        return squad_scores.figures(scored, golds, null_answers=False)
    differences = {name: each.difference or 0.0 for name, each in found.items()}
    report = null_threshold.report(golds, answers, differences)
    tuned = {f"tuned_{k}": v for k, v in report["tuned"].items() if k in ("exact", "f1")}
    crossed = {f"crossed_{k}": v for k, v in report["crossed"].items() if k in ("exact", "f1")}
    return {**report["zero"], **tuned, **crossed, "threshold": report["tuned"]["threshold"]}
