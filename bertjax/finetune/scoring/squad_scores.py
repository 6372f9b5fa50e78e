"""Exact match and F1 of answers, by the rules of SQuAD's official scripts.

The scripts are evaluate-v1.1.py and evaluate-v2.0.py (Rajpurkar et al. 2016, 2018); the code here
is our own. Figures are fractions of 1, not percentages.
"""

import re
import string
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from bertjax.errors import DataError
from bertjax.finetune.examples import Question

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_NAMED = 5  # the most ids that a note names

Golds = Mapping[str, Sequence[str]]
Answers = Mapping[str, str]


def normalize_answer(text: str) -> str:
    """An answer without case, ASCII punctuation, English articles and superfluous white space.

    The steps run in this order: "the-end" becomes "theend", which has no article. Punctuation
    outside of ASCII stays.
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact(gold: str, answer: str) -> float:
    """1 if both answers are the same after `normalize_answer`, else 0."""
    return float(normalize_answer(gold) == normalize_answer(answer))


def f1(gold: str, answer: str, null_answers: bool) -> float:
    """F1 of the words that two answers share; a word counts as often as it occurs in both.

    If an answer has no words, SQuAD 2.0 (`null_answers`) gives 1 if both have none, else 0; SQuAD
    1.1 gives 0.
    """
    wanted, got = normalize_answer(gold).split(), normalize_answer(answer).split()
    if not wanted or not got:
        return float(null_answers and wanted == got)
    same = sum((Counter(wanted) & Counter(got)).values())
    if not same:
        return 0.0
    precision, recall = same / len(got), same / len(wanted)
    return 2 * precision * recall / (precision + recall)


class Scores(NamedTuple):
    """Exact match and F1 of each scored question, and notes about missing and extra ids."""

    exact: dict[str, float]
    f1: dict[str, float]
    notes: tuple[str, ...]


def golds(questions: Iterable[Question], null_answers: bool) -> dict[str, list[str]]:
    """The gold texts of the questions that can be scored, by id; [] for a question without answer.

    A question without gold answers is left out, unless `null_answers` is set and the file marks the
    question as unanswerable.

    Raises:
      DataError: two questions have the same id, so their answers could not be told apart.
    """
    result: dict[str, list[str]] = {}
    for question in questions:
        if question.id in result:
            raise DataError(f"question id {question.id!r} occurs twice; give each its own")
        if question.answers or (null_answers and question.answerable is False):
            result[question.id] = [answer.text for answer in question.answers]
    return result


def score(golds: Golds, answers: Answers, null_answers: bool) -> Scores:
    """Scores every question against the gold answer that fits best.

    A question missing in `answers` counts 0 in SQuAD 1.1 and is left out in 2.0, as in the official
    scripts. In 2.0, gold answers that normalize to nothing do not count; a question without other
    gold answers expects "".
    """
    exacts, f1s = {}, {}
    missing = [question for question in golds if question not in answers]
    for question, texts in golds.items():
        if question not in answers:
            if not null_answers:
                exacts[question], f1s[question] = 0.0, 0.0
            continue
        wanted = [t for t in texts if normalize_answer(t)] or [""] if null_answers else texts
        answer = answers[question]
        exacts[question] = max(exact(text, answer) for text in wanted)
        f1s[question] = max(f1(text, answer, null_answers) for text in wanted)
    notes = []
    if missing:
        fate = "left out, as by the official script of 2.0" if null_answers else "counted 0"
        notes.append(f"{len(missing)} questions without an answer, {fate}: {_listed(missing)}")
    extra = [question for question in answers if question not in golds]
    if extra:
        notes.append(f"{len(extra)} answers to no scored question, not used: {_listed(extra)}")
    return Scores(exacts, f1s, tuple(notes))


def _listed(ids: Sequence[str]) -> str:
    return ", ".join(ids[:_NAMED]) + ("..." if len(ids) > _NAMED else "")


def has_answer(golds: Golds) -> dict[str, bool]:
    """Whether each question has an answer in its context, according to the file (SQuAD 2.0)."""
    return {question: bool(texts) for question, texts in golds.items()}


def figures(scores: Scores, golds: Golds, null_answers: bool) -> dict[str, float]:
    """The figures of an evaluation; NaN if there is nothing to score.

    Returns:
      exact, f1, total; with `null_answers` also has_answer_exact, has_answer_f1, has_answer_total
      and no_answer_exact, no_answer_f1, no_answer_total.
    """
    result = _means(scores, scores.exact)
    if null_answers:
        answerable = has_answer(golds)
        for name, wanted in (("has_answer", True), ("no_answer", False)):
            part = _means(scores, [q for q in scores.exact if answerable[q] == wanted])
            result |= {f"{name}_{metric}": figure for metric, figure in part.items()}
    return result


def _means(scores: Scores, questions: Collection[str]) -> dict[str, float]:
    total = len(questions)
    sums = [sum(figure[q] for q in questions) for figure in (scores.exact, scores.f1)]
    exact, f1 = (s / total if total else float("nan") for s in sums)
    return {"exact": exact, "f1": f1, "total": total}
