"""Turns model outputs, gathered batch by batch, into predictions for every example."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from bertjax.config.finetune_fields import Task as Settings
from bertjax.finetune.rows import Rows
from bertjax.finetune.scoring import decode


@dataclasses.dataclass(frozen=True)
class Predictions:
    """A model's predictions for N examples, in order. Only the field of the kind is set.

    Attributes:
      kind: a key of `tasks.KINDS`.
      probabilities: `single`, `pair` and `multiple_choice`: float64 [N, C].
      values: `regression`: float64 [N].
      spans: `span`: the answers to each example.
      tags: `token`: the label number and its probability for every word of each example.
    """

    kind: str
    probabilities: np.ndarray | None = None
    values: np.ndarray | None = None
    spans: list[decode.Decoded] | None = None
    tags: list[list[tuple[int, float]]] | None = None


def of(
    rows: Rows,
    examples: Sequence,
    gathered: dict[str, list[np.ndarray]],
    task: Settings,
    null_answers: bool,
) -> Predictions:
    """The predictions for `examples`, from the outputs of `Finetuning.rows`.

    Args:
      rows: the rows of `examples`.
      gathered: for every batch, `example_ids` [B] (row numbers, -1 for padding) and `logits`
        [B, ...]. Every row must be there.
    """
    logits = _by_row(gathered, len(rows))
    if rows.kind == "span":
        return Predictions(rows.kind, spans=_spans(rows, examples, logits, task, null_answers))
    if rows.kind == "token":
        return Predictions(rows.kind, tags=_tags(rows, examples, logits))
    flat = np.stack(logits).astype(np.float64)
    if rows.kind == "regression":
        return Predictions(rows.kind, values=flat[:, 0] * task.target_scale)
    return Predictions(rows.kind, probabilities=_softmax(flat))


def _by_row(gathered: dict[str, list[np.ndarray]], count: int) -> list[np.ndarray]:
    """The logits of each row, in the order of the rows."""
    found: list[np.ndarray | None] = [None] * count
    for ids, logits in zip(gathered["example_ids"], gathered["logits"], strict=True):
        for row, values in zip(ids, logits, strict=True):
            if row >= 0:
                found[row] = values
    assert all(values is not None for values in found), "a row was not evaluated"
    return found  # type: ignore[return-value]


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def _spans(
    rows: Rows, examples: Sequence, logits: list[np.ndarray], task: Settings, null_answers: bool
) -> list[decode.Decoded]:
    assert rows.offsets is not None
    assert rows.best is not None
    places = [rows.tokens(row) for row in range(len(rows))]
    lengths = [place.stop - place.start for place in places]
    return decode.decode(
        [each[:length, 0] for each, length in zip(logits, lengths, strict=True)],
        [each[:length, 1] for each, length in zip(logits, lengths, strict=True)],
        [rows.offsets[place] for place in places],
        [rows.best[place] for place in places],
        rows.example.tolist(),
        [example.context for example in examples],
        n_best=task.n_best,
        answer_length=task.answer_length,
        null_answers=null_answers,
    )


def _tags(
    rows: Rows, examples: Sequence, logits: list[np.ndarray]
) -> list[list[tuple[int, float]]]:
    assert rows.words is not None
    result: list[list] = [[None] * len(example.words) for example in examples]
    for row, scores in enumerate(logits):
        words = rows.words[rows.tokens(row)]
        at = np.flatnonzero(words >= 0)
        probabilities = _softmax(scores[at].astype(np.float64))
        for word, each in zip(words[at], probabilities, strict=True):
            result[rows.example[row]][word] = int(each.argmax()), float(each.max())
    assert all(tag is not None for tags in result for tag in tags), "a word was not decided"
    return result
