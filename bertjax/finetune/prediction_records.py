"""Predictions as lines of JSON, and their figures where the file has labels."""

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
    """What is written of each example, in their order.

    `{"id", "label", "probabilities"}` by the model's names of labels; of regression `{"id",
    "score"}`; of multiple choice the label is the option's number from 0, `option` its text, and
    the probabilities are in the options' order; of spans `{"id", "answer", "start", "end",
    "probability", "n_best"}`, where "" from -1 to -1 is no answer; of tokens `{"id", "words",
    "tags", "probabilities"}`. Probabilities have 6 decimals.
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
    """The figures of the predictions for all examples that have a label.

    Where a model has MNLI's labels and the examples have HANS' two (McCoy et al. 2019), its neutral
    and contradiction count as non-entailment.
    """

    def __init__(self, task: Task, how: Reading, null_answers: bool) -> None:
        self._task, self._how, self._nulls = task, how, null_answers
        self._is_mnli = {name.lower() for name in how.labels} == set(TASKS["mnli"].labels)
        self._golds: list = []
        self._ids: set[str] = set()
        self._parts: list = []  # of each gold: probabilities, a value, a span or tags
        self._unknown: dict[str, int] = {}
        self._without = 0

    def add(self, examples: Sequence, found: Predictions) -> None:
        """Takes the labels of examples, without their texts, and the predictions for them."""
        self._kind = found.kind
        parts = next(
            each
            for each in (found.probabilities, found.values, found.spans, found.tags)
            if each is not None
        )
        for example, part in zip(examples, parts, strict=True):
            gold = self._gold(example)
            if gold is None:
                self._without += 1
            else:
                self._golds.append(gold)
                self._parts.append(part._replace(n_best=()) if found.spans else part)

    def _gold(self, example: Any) -> Any:
        """The example without its texts; None where it has no label, or one the model has not."""
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
        """The question, of an id of its own: answers are scored by their ids."""
        if question.id in self._ids:
            question = question._replace(id=f"{question.id}, gold {len(self._golds)}")
        self._ids.add(question.id)
        return question

    def _leave_out(self, label: str) -> None:
        self._unknown[label] = self._unknown.get(label, 0) + 1

    @property
    def values(self) -> dict[str, float]:
        """As `evaluation.figures`; {} where no example has a label."""
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
            # F1 is of the task's second label, wherever the model has it.
            parts = parts[:, [labels.index(name) for name in self._task.labels]]
            labels = self._task.labels
        found = Predictions(kind, **{field: parts})
        return evaluation.figures(self._task, labels, self._golds, found, self._nulls)

    def _is_hans(self) -> bool:
        """Whether the labels are HANS' two."""
        return self._is_mnli and any(gold.label == _HANS[1] for gold in self._golds)

    def _require_hans_alone(self) -> None:
        """Leaves out the labels of HANS beside neutral and contradiction."""
        if self._is_hans() and not all(gold.label.lower() in _HANS for gold in self._golds):
            scored = [i for i, gold in enumerate(self._golds) if gold.label != _HANS[1]]
            for _ in range(len(self._golds) - len(scored)):
                self._leave_out(_HANS[1])
                self._without += 1
            self._golds = [self._golds[i] for i in scored]
            self._parts = [self._parts[i] for i in scored]

    def _merged(self) -> dict[str, float]:
        """The accuracy of HANS' two labels."""
        golds = np.array([_HANS.index(gold.label.lower()) for gold in self._golds])
        guesses = np.stack(self._parts).argmax(-1)
        merged = scores.merge_labels(guesses, self._how.labels)
        return scores.figures(("accuracy",), golds, merged)

    def lines(self) -> list[str]:
        """What is said of them: the figures, and of how many examples."""
        said = []
        self._require_hans_alone()
        if self._unknown:
            named = ", ".join(f"{name!r} ({n:,})" for name, n in list(self._unknown.items())[:5])
            what = "that are no number" if self._kind == "regression" else "that the model has not"
            said.append(f"labels {what}, and that are not scored: {named}")
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
        of = f"{len(self._golds):,} with a label" if self._without else "all labels"
        return [*said, f"figures ({of}): {', '.join(shown)}"]
