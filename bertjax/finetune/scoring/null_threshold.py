"""How sure a model must be that there is no answer before it says so (SQuAD 2.0).

A question's difference is the score of "no answer" less that of its best answer, in logits; a
question counts as unanswered where it is above the threshold.
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

    As `find_best_thresh` in evaluate-v2.0.py: from "no answer" to all questions, one after the
    other in the order of their differences gets its answer. A question that has an answer adds its
    score, one that has none takes 1 away unless its answer is "". Here questions of equal
    difference come together, since no threshold tells them apart; and where "no answer" to all is
    best, the threshold is 0 as there or, if 0 is not below every difference, the next number below
    the smallest: the script expects probabilities, these are logits.

    Args:
      scores: exact match or F1 of each question's best answer, as if none was held back.
      answerable: of the same questions.
      answers: the best answers that are not empty.
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
    """0 or 1, for ever the same for an id: the half that a question is in."""
    return hashlib.sha256(question.encode()).digest()[0] & 1


def report(
    golds: Golds, answers: Answers, differences: Differences, metric: str = "f1"
) -> dict[str, Any]:
    """The figures of SQuAD 2.0 at threshold 0, tuned, and tuned on questions that are not scored.

    A threshold tuned on the questions that it is scored on, as published, flatters. So each half of
    the questions is scored too at the threshold tuned on the other.

    Args:
      answers: the best answer to each question, not empty.
      differences: for the same questions.
      metric: exact or f1, what the threshold is tuned for.

    Returns:
      `zero`: figures at 0. `tuned`: figures and `threshold`. `halves`: for half 1 and half 0, the
      figures at the `threshold` of the other half. `crossed`: the figures of both together.
      `best_exact`, `best_exact_threshold`, `best_f1`, `best_f1_threshold`: as the official script.
      `notes`: of missing and extra ids.
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
    """The scores where the questions of `held` get no answer; only its questions count."""
    exact, f1 = (
        {q: float(not answerable[q]) if held[q] else scores[q] for q in held}
        for scores in (raw.exact, raw.f1)
    )
    return Scores(exact, f1, raw.notes)
