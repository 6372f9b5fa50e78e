"""Predictions as JSON records, and their figures if the input has labels."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bertjax.finetune.examples import Question, Words
from bertjax.finetune.readers.row_examples import Reading
from bertjax.finetune.scoring import evaluation, scores
from bertjax.finetune.scoring.decode import Candidate, Decoded
from bertjax.finetune.scoring.predictions import Predictions
from bertjax.finetune.tasks import TASKS, Task


def records(examples: Sequence, predictions: Predictions, how: Reading) -> Iterator[dict[str, Any]]:
    """The record of each example, in the order of the examples.

    - Classification: `{"id", "label", "probabilities"}`, with the model's label names.
    - Regression: `{"id", "score"}`.
    - Multiple choice: `{"id", "label", "option", "probabilities"}`: the option's number from 0, its
      text, and a probability for each option in order.
    - Spans: `{"id", "answer", "start", "end", "probability", "n_best"}`; no answer is "" from -1 to
      -1. With null answers, also `null_difference`.
    - Tokens: `{"id", "words", "tags", "probabilities"}`.

    Probabilities have 6 decimals.
    """
    for number, example in enumerate(examples):
        yield {"id": example.id, **_record(example, number, predictions, how)}


def _record(example: Any, number: int, found: Predictions, how: Reading) -> dict[str, Any]:
    if found.values is not None:
        return {"score": round(float(found.values[number]), 6)}
    if found.spans is not None:
        return _span(found.spans[number])
    if found.tags is not None:
        tags = found.tags[number]
        return {
            "words": list(example.words),
            "tags": [how.labels[label] for label, _ in tags],
            "probabilities": [round(share, 6) for _, share in tags],
        }
    assert found.probabilities is not None
    shares = [round(float(share), 6) for share in found.probabilities[number]]
    best = int(found.probabilities[number].argmax())
    if found.kind == "multiple_choice":
        return {"label": best, "option": example.options[best], "probabilities": shares}
    return {"label": how.labels[best], "probabilities": dict(zip(how.labels, shares, strict=True))}


def _span(found: Decoded) -> dict[str, Any]:
    n_best = [_candidate(each) for each in found.n_best]
    nothing = {"answer": "", "start": -1, "end": -1, "probability": 0.0}
    record: dict[str, Any] = {**(n_best[0] if n_best else nothing), "n_best": n_best}
    if found.difference is not None:
        record["null_difference"] = round(found.difference, 6)
    return record


def _candidate(each: Candidate) -> dict[str, Any]:
    share = round(each.probability, 6)
    return {"answer": each.text, "start": each.start, "end": each.end, "probability": share}


_HANS = ("entailment", "non-entailment")


class Figures:
    """The figures of the predictions for all labeled examples.

    If the model has MNLI's labels and the examples have the two labels of HANS (McCoy et al. 2019),
    the predictions neutral and contradiction count as non-entailment.
    """

    def __init__(self, task: Task, how: Reading, null_answers: bool) -> None:
        self._task, self._how, self._nulls = task, how, null_answers
        self._is_mnli = {name.lower() for name in how.labels} == set(TASKS["mnli"].labels)
        self._golds: list = []
        self._ids: set[str] = set()
        self._parts: list = []  # the prediction for each gold: probabilities, value, span or tags
        self._unknown: dict[str, int] = {}
        self._unlabeled = 0

    def add(self, examples: Sequence, found: Predictions) -> None:
        """Adds examples and their predictions; keeps the labels, drops the texts."""
        self._kind = found.kind
        parts = next(
            each
            for each in (found.probabilities, found.values, found.spans, found.tags)
            if each is not None
        )
        for example, part in zip(examples, parts, strict=True):
            gold = self._gold(example)
            if gold is None:
                self._unlabeled += 1
            else:
                self._golds.append(gold)
                self._parts.append(part._replace(n_best=()) if found.spans else part)

    def _gold(self, example: Any) -> Any:
        """The example without its texts; None without a label, or with one the model lacks."""
        if isinstance(example, Question):
            known = example.answers or (self._nulls and example.answerable is False)
            return self._distinct(example._replace(question="", context="")) if known else None
        if isinstance(example, Words):
            return None if example.tags is None else example._replace(words=())
        if self._kind == "multiple_choice" or example.label is None:
            return None if example.label is None else example
        known = example.label in self._how.labels or (self._is_mnli and example.label == _HANS[1])
        if self._kind == "regression":
            known = isinstance(example.label, float)
        if not known:
            self._leave_out(example.label)
            return None
        return example._replace(texts=())

    def _distinct(self, question: Question) -> Question:
        """The question with a unique id: answers are scored by id."""
        if question.id in self._ids:
            question = question._replace(id=f"{question.id}, gold {len(self._golds)}")
        self._ids.add(question.id)
        return question

    def _leave_out(self, label: str) -> None:
        self._unknown[label] = self._unknown.get(label, 0) + 1

    @property
    def values(self) -> dict[str, float]:
        """The figures, see `evaluation.figures`; {} if no example has a label."""
        if not self._golds:
            return {}
        if self._is_hans():
            return self._merged()
        labels, kind = self._how.labels, self._kind
        parts: Any = self._parts
        if kind in ("span", "token"):
            field = "spans" if kind == "span" else "tags"
        else:
            field = "values" if kind == "regression" else "probabilities"
            parts = np.stack(parts)
        if kind in ("single", "pair") and sorted(labels) == sorted(self._task.labels):
            # F1 scores the task's second label, so the columns follow the task's label order.
            parts = parts[:, [labels.index(name) for name in self._task.labels]]
            labels = self._task.labels
        found = Predictions(kind, **{field: parts})
        return evaluation.figures(self._task, labels, self._golds, found, self._nulls)

    def _is_hans(self) -> bool:
        """Whether the examples have HANS' labels: one of them is non-entailment."""
        return self._is_mnli and any(gold.label == _HANS[1] for gold in self._golds)

    def _require_hans_alone(self) -> None:
        """Leaves out non-entailment labels if other examples are neutral or contradiction."""
        if self._is_hans() and not all(gold.label.lower() in _HANS for gold in self._golds):
            scored = [i for i, gold in enumerate(self._golds) if gold.label != _HANS[1]]
            for _ in range(len(self._golds) - len(scored)):
                self._leave_out(_HANS[1])
                self._unlabeled += 1
            self._golds = [self._golds[i] for i in scored]
            self._parts = [self._parts[i] for i in scored]

    def _merged(self) -> dict[str, float]:
        """The accuracy on the two labels of HANS."""
        golds = np.array([_HANS.index(gold.label.lower()) for gold in self._golds])
        guesses = np.stack(self._parts).argmax(-1)
        merged = scores.merge_labels(guesses, self._how.labels)
        return scores.figures(("accuracy",), golds, merged)

    def lines(self) -> list[str]:
        """The lines to log: the figures, and the number of examples they are for."""
        said = []
        self._require_hans_alone()
        if self._unknown:
            named = ", ".join(f"{name!r} ({n:,})" for name, n in list(self._unknown.items())[:5])
            what = "are not numbers" if self._kind == "regression" else "the model does not have"
            said.append(f"labels that {what}, not scored: {named}")
        if not self._golds:
            return said
        if self._is_hans():
            said.append(
                f"labels of HANS: the model's neutral and contradiction count as {_HANS[1]}"
            )
        figures = scores.as_json(self.values)
        first = [metric for metric in self._task.metrics if metric in figures]
        figures = {metric: figures[metric] for metric in first} | figures
        shown = [f"{k} {'undefined' if v is None else f'{v:.4f}'}" for k, v in figures.items()]
        of = f"{len(self._golds):,} with a label" if self._unlabeled else "all labels"
        return [*said, f"figures ({of}): {', '.join(shown)}"]
