"""Predictions as lines of JSON, and their figures where the file has labels."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bertjax.finetune.examples import Question, Words
from bertjax.finetune.readers.row_examples import Reading
from bertjax.finetune.scoring import evaluation, scores
from bertjax.finetune.scoring.decode import Candidate, Decoded
from bertjax.finetune.scoring.predictions import Predictions
from bertjax.finetune.tasks import Task


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


class Figures:
    """The figures of the predictions for all examples that have a label."""

    def __init__(self, task: Task, how: Reading, null_answers: bool) -> None:
        self._task, self._how, self._nulls = task, how, null_answers
        self._golds: list = []
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
            return example._replace(question="", context="") if known else None
        if isinstance(example, Words):
            return None if example.tags is None else example._replace(words=())
        if self._kind in ("single", "pair") and example.label is not None:
            if example.label not in self._how.labels:
                self._unknown[str(example.label)] = self._unknown.get(str(example.label), 0) + 1
                return None
            return example._replace(texts=())
        return None if example.label is None else example

    @property
    def values(self) -> dict[str, float]:
        """As `evaluation.figures`; {} where no example has a label."""
        if not self._golds:
            return {}
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

    def lines(self) -> list[str]:
        """What is said of them: the figures, and of how many examples."""
        said = []
        if self._unknown:
            named = ", ".join(f"{name!r} ({n:,})" for name, n in list(self._unknown.items())[:5])
            said.append(f"labels that the model has not, and that are not scored: {named}")
        if not self._golds:
            return said
        figures = scores.as_json(self.values)
        first = [metric for metric in self._task.metrics if metric in figures]
        figures = {metric: figures[metric] for metric in first} | figures
        shown = [f"{k} {'undefined' if v is None else f'{v:.4f}'}" for k, v in figures.items()]
        of = f"{len(self._golds):,} with a label" if self._without else "all labels"
        return [*said, f"figures ({of}): {', '.join(shown)}"]
