"""A loaded model at work on text: masks, vectors, scores, predictions."""

import itertools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from bertjax.convert.pretrained import Pretrained
from bertjax.errors import DataError, UsageError
from bertjax.library import arguments

if TYPE_CHECKING:
    from bertjax.finetune.readers.row_examples import Reading
    from bertjax.inference import Score


def fill_mask(model: Pretrained, text: str, top_k: int = 5) -> list[list[tuple[str, float]]]:
    """For every mask token of `text`, `top_k` pairs of token and probability, the best first.

    >>> [candidates] = bertjax.fill_mask(model, "a [MASK] c", top_k=3)
    >>> len(candidates), candidates[0][1] >= candidates[1][1]
    (3, True)

    Raises:
      UsageError: `text` holds no mask, or is longer than the model reads, or the model has no
        masked-LM head.
      DataError: the model has no tokenizer.
    """
    from bertjax import inference

    if top_k < 1:
        raise UsageError(f"top_k={top_k}: must be at least 1")
    with arguments.named():
        return inference.fill_mask(model, text, top_k)


def embed(
    model: Pretrained, texts: Iterable[str], *, pooling: str | None = None, batch_size: int = 32
) -> Iterator[np.ndarray]:
    """One vector `[D]`, float32, for each text, in their order.

    >>> vectors = list(bertjax.embed(model, ["a b c", "a"]))
    >>> len(vectors), vectors[0].shape
    (2, (32,))

    Args:
      texts: any iterable, an endless one too: a window of 32 batches is read at a time, and texts
        of like length share a batch. A text that is longer than the model reads is cut.
      pooling: `mean`, `cls`, `max`, `pooler`, `mean_sqrt_len_tokens`, `weightedmean`, `lasttoken`,
        or several joined by + (vectors one after the other). None: as the sentence encoder says
        that the model is, else the mean.
      batch_size: rows that are computed at once.

    Raises:
      UsageError: no such pooling, or the model has no pooler; `texts` is one text.
      DataError: the model has no tokenizer.
    """
    from bertjax import inference

    with arguments.named():
        vectors = inference.embed(
            model, texts, pooling=pooling, batch_size=_checked_size(batch_size)
        )
    return _passed(vectors)


def score(model: Pretrained, texts: Iterable[str], *, batch_size: int = 32) -> "Iterator[Score]":
    """The pseudo-log-likelihood of each text, in their order (Salazar et al. 2020).

    >>> [first, second] = bertjax.score(model, ["a b c", "c"])
    >>> first.tokens, first.pll < 0, len(first.per_token)
    (3, True, 3)

    Each token is masked in turn: `pll` is the sum of log p(token | the others), in nats, `tokens`
    how many there are, `per_token` pairs of token and share. The pseudo-perplexity of texts is
    exp(-sum(pll) / sum(tokens)).

    Args:
      texts: any iterable, an endless one too: 256 are read at a time, rows of like length share a
        batch.
      batch_size: rows that are computed at once.

    Raises:
      UsageError: the model has no masked-LM head; while iterating, a text is longer than the model
        reads.
      DataError: the model has no tokenizer.
    """
    from bertjax import inference

    with arguments.named():
        scores = inference.score(model, texts, batch_size=_checked_size(batch_size))
    return _passed(scores)


def predict(model: Pretrained, rows: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """What a fine-tuned model says of each row, in their order; 512 rows are read at a time.

    >>> [found] = bertjax.predict(classifier, ["a b c"])
    >>> found["label"] in ("no", "yes"), sorted(found)
    (True, ['id', 'label', 'probabilities'])

    Args:
      rows: of each, a text; a tuple of texts (a pair; question, context; context, options ...); a
        list of words, for tags; or a dict, with the columns that `bertjax predict` reads.

    Returns:
      Dicts: `label` and `probabilities`, `score`, `answer` and `n_best`, or `words` and `tags`; see
      `bertjax.finetune.prediction_records.records`.

    Raises:
      UsageError: the model has no head of a task.
      DataError: it has no tokenizer; while iterating, a row is not what the task reads.
    """
    from bertjax.finetune import predict as predicting
    from bertjax.finetune import prediction_records

    if isinstance(rows, str):
        raise UsageError(f"rows={rows[:60]!r}: is one text; write it in a list")
    with arguments.named():
        opened = predicting.of(model, "model")

    def records() -> Iterator[dict[str, Any]]:
        remaining = iter(enumerate(rows))
        while some := list(itertools.islice(remaining, predicting.CHUNK)):
            examples = [_example(number, row, opened.reading) for number, row in some]
            found = opened.predict(examples)
            yield from prediction_records.records(examples, found, opened.reading)

    return _passed(records())


def _example(number: int, row: Any, how: "Reading") -> Any:
    """A row as an example of the model's task."""
    from bertjax.finetune.readers import row_examples
    from bertjax.finetune.readers.lines import Bad, Row

    where = f"rows[{number}]"
    if how.kind == "token" and isinstance(row, str | list | tuple):
        row = {"words": row.split() if isinstance(row, str) else list(row)}
    if isinstance(row, dict):
        return row_examples.of(Row(where, number, row), how)
    texts = [row] if isinstance(row, str) else row
    if not isinstance(texts, tuple | list) or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{where}={row!r:.60}: is neither a text, nor texts, nor a dict of columns")
    example = row_examples.of_texts(where, str(number), texts, how)
    if isinstance(example, Bad):
        raise DataError(example.reason)
    return example


def _checked_size(batch_size: int) -> int:
    if batch_size < 1:
        raise UsageError(f"batch_size={batch_size}: must be at least 1")
    return batch_size


def _passed(items: Iterator) -> Iterator:
    """The items; errors on the way name arguments."""
    with arguments.named():
        yield from items
