"""The threshold above which a model answers "no answer" (SQuAD 2.0).

A question's difference is the score of "no answer" minus the score of its best answer, in logits.
If the difference is above the threshold, the answer is "no answer".
"""

import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Any

from bertjax.finetune.scoring import squad_scores
from bertjax.finetune.scoring.squad_scores import Answers, Golds, Scores

Differences = Mapping[str, float]


def apply(answers: Answers, differences: Differences, threshold: float) -> dict[str, str]:
    """The answers, "" for a question whose difference is above the threshold."""
    return {q: "" if differences[q] > threshold else text for q, text in answers.items()}


def best_threshold(
    scores: Mapping[str, float],
    answerable: Mapping[str, bool],
    answers: Answers,
    differences: Differences,
) -> tuple[float, float]:
    """The threshold with the largest mean score, and that mean.

    The search follows `find_best_thresh` in evaluate-v2.0.py. All questions start with "no answer";
    in the order of their differences, one question after the other gets its answer. A question with
    a gold answer then adds its score; a question without one takes away 1, unless its answer is "".

    Two points differ from the script. Questions with equal differences get their answers together,
    since no threshold separates them. If "no answer" to all is best, the threshold is 0 as in the
    script, or, if some difference is 0 or less, the next number below the smallest difference: the
    script expects probabilities, these are logits.

    Args:
      scores: exact match or F1 of each question's best answer, without any threshold.
      answerable: whether each question has an answer.
      answers: the best answer to each question that is not the null answer.
    """
    order = sorted(scores, key=lambda question: differences[question])
    total = best = float(sum(not answerable[question] for question in order))
    threshold = 0.0
    if order and differences[order[0]] <= 0:
        threshold = math.nextafter(differences[order[0]], -math.inf)
    for at, question in enumerate(order):
        if answerable[question]:
            total += scores[question]
        elif answers[question]:
            total -= 1
        last = at + 1 == len(order) or differences[order[at + 1]] > differences[question]
        if last and total > best:
            best, threshold = total, differences[question]
    return threshold, best / len(order) if order else math.nan


def half(question: str) -> int:
    """The half of the questions, 0 or 1, that an id belongs to; always the same for an id."""
    return hashlib.sha256(question.encode()).digest()[0] & 1


def report(
    golds: Golds, answers: Answers, differences: Differences, metric: str = "f1"
) -> dict[str, Any]:
    """The figures of SQuAD 2.0 at threshold 0, tuned, and tuned on questions that are not scored.

    Published figures tune the threshold on the scored questions, which flatters the model. So each
    half of the questions is also scored at the threshold tuned on the other half.

    Args:
      answers: the best answer to each question that is not the null answer.
      differences: the differences of the same questions.
      metric: exact or f1, the metric to tune the threshold for.

    Returns:
      `zero`: the figures at threshold 0.
      `tuned`: the figures and `threshold`.
      `halves`: for half 1, then half 0, the figures at the `threshold` tuned on the other half.
      `crossed`: the figures of both halves together.
      `best_exact`, `best_exact_threshold`, `best_f1`, `best_f1_threshold`: see evaluate-v2.0.py.
      `notes`: lines about missing and extra ids.
    """
    raw = squad_scores.score(golds, answers, null_answers=True)
    answerable = squad_scores.has_answer(golds)

    def tune(metric: str, questions: Iterable[str]) -> tuple[float, float]:
        of = raw.exact if metric == "exact" else raw.f1
        return best_threshold({q: of[q] for q in questions}, answerable, answers, differences)

    def at(thresholds: Mapping[str, float]) -> dict[str, float]:
        held = {q: differences[q] > threshold for q, threshold in thresholds.items()}
        return squad_scores.figures(_held_back(raw, held, answerable), golds, null_answers=True)

    halves = [[q for q in raw.f1 if half(q) == number] for number in (0, 1)]
    tuned = tune(metric, raw.f1)[0]
    thresholds = [tune(metric, questions)[0] for questions in halves]
    crossed = [dict.fromkeys(halves[n], thresholds[1 - n]) for n in (0, 1)]
    best = {name: tune(name, raw.f1) for name in ("exact", "f1")}
    return {
        "zero": at(dict.fromkeys(raw.f1, 0.0)),
        "tuned": {"threshold": tuned} | at(dict.fromkeys(raw.f1, tuned)),
        "halves": [{"threshold": thresholds[1 - n]} | at(crossed[n]) for n in (1, 0)],
        "crossed": at(crossed[0] | crossed[1]),
        **{f"best_{name}": score for name, (_, score) in best.items()},
        **{f"best_{name}_threshold": threshold for name, (threshold, _) in best.items()},
        "notes": list(raw.notes),
    }


def _held_back(raw: Scores, held: Mapping[str, bool], answerable: Mapping[str, bool]) -> Scores:
    """The scores of the questions in `held`, where those with True get "no answer"."""
    exact, f1 = (
        {q: float(not answerable[q]) if held[q] else scores[q] for q in held}
        for scores in (raw.exact, raw.f1)
    )
    return Scores(exact, f1, raw.notes)
