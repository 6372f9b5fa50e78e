"""How likely a masked LM finds a text: pseudo-log-likelihoods (Salazar et al. 2020).

"Masked Language Model Scoring", ACL 2020: a text's score is the sum over its tokens of log p(token |
all the others), each token masked in turn. No masked LM says a probability of a whole text; these
scores rank texts, and their mean over a corpus ranks models that share a vocabulary.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from bertjax import config as config_lib
from bertjax import models, objectives
from bertjax.convert.pretrained import Pretrained
from bertjax.data.encode import encode
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import UsageError
from bertjax.inference import texts as texts_lib

_WINDOW = 256  # texts that are read, and sorted by length, at once


class Score(NamedTuple):
    """What a model says of one text.

    Attributes:
      text: as given.
      pll: the pseudo-log-likelihood, in nats; 0 for a text without tokens.
      tokens: how many were masked, one after the other; special tokens are not.
      per_token: of each of them, its spelling and its share of `pll`.
    """

    text: str
    pll: float
    tokens: int
    per_token: list[tuple[str, float]]


def score(
    model: Pretrained, texts: Iterable[str], *, batch_size: int = texts_lib.BATCH
) -> Iterator[Score]:
    """The pseudo-log-likelihood of each text, in their order, read a window at a time.

    A text of T tokens is T rows, each with another token masked; rows of like length share a batch.
    The pseudo-perplexity of texts is exp(-sum(pll) / sum(tokens)).

    Args:
      texts: any iterable, an endless one too. A text is text: "[MASK]" in it is no mask.
      batch_size: rows that are computed at once.

    Raises:
      UsageError: the model has no masked-LM head; while iterating, a text is longer than the model
        reads.
      DataError: the source has no tokenizer.
    """
    tokenizer = texts_lib.tokenizer_of(model)
    texts_lib.require_masked_lm(model)
    log_probabilities = functools.partial(
        _program(texts_lib.config_of(model)), jax.device_put(model.params)
    )
    longest = model.config.model.max_sequence_length
    found = texts_lib.windows(texts, _WINDOW)
    return _scores(found, tokenizer, log_probabilities, longest, batch_size)


class Pair(NamedTuple):
    """Two texts beside each other.

    Attributes:
      likelier: 0 or 1, the one with the higher `pll`; None where they are equal.
    """

    first: Score
    second: Score
    likelier: int | None


def rank_pairs(
    model: Pretrained, pairs: Iterable[tuple[str, str]], *, batch_size: int = texts_lib.BATCH
) -> Iterator[Pair]:
    """Which text of each pair is likelier, in their order; arguments and errors as of `score`."""
    scores = score(model, _of_pairs(pairs), batch_size=batch_size)
    return (_pair(first, second) for first, second in zip(scores, scores, strict=True))


def _of_pairs(pairs: Iterable[tuple[str, str]]) -> Iterator[str]:
    for number, pair in enumerate(pairs):
        if isinstance(pair, str) or len(pair) != 2:
            raise UsageError(f"pairs[{number}]={pair!r:.60}: is no pair of texts")
        yield from pair


def _pair(first: Score, second: Score) -> Pair:
    difference = first.pll - second.pll
    return Pair(first, second, None if difference == 0 else int(difference < 0))


def _scores(
    windows: Iterable[list[str]],
    tokenizer: Tokenizer,
    log_probabilities: Callable[[dict], jax.Array],
    longest: int,
    batch_size: int,
) -> Iterator[Score]:
    first = 0
    for window in windows:
        ids = tokenizer.encode(window)
        for number, pieces in enumerate(ids, start=first):
            if len(pieces) + 2 > longest:
                raise UsageError(
                    f"texts[{number}] has {len(pieces) + 2} tokens; the model reads {longest}: "
                    "shorten it, or cut it into sentences"
                )
        first += len(window)
        shares = [np.zeros(len(pieces)) for pieces in ids]
        rows = [(text, at) for text, pieces in enumerate(ids) for at in range(len(pieces))]
        rows.sort(key=lambda row: len(ids[row[0]]))
        for start in range(0, len(rows), batch_size):
            some = rows[start : start + batch_size]
            batch = texts_lib.round_rows(_masked(some, ids, tokenizer, longest), batch_size)
            for (text, at), value in zip(some, np.asarray(log_probabilities(batch)), strict=False):
                shares[text][at] = value
        for text, pieces, each in zip(window, ids, shares, strict=True):
            per_token = list(zip(tokenizer.tokens(pieces), each.tolist(), strict=True))
            yield Score(text, float(each.sum()), len(pieces), per_token)


def _masked(
    rows: list[tuple[int, int]], ids: list[list[int]], tokenizer: Tokenizer, longest: int
) -> dict[str, np.ndarray]:
    """The batch of B rows, each `(text, place of the token that is masked)`.

    Returns:
      As `encode`, with `masked_lm_positions [B, 1]`, and `labels [B]`, the tokens that are masked.
    """
    examples = [(ids[text],) for text, _ in rows]
    batch = encode(examples, tokenizer, longest=longest, multiple=texts_lib.LENGTH_MULTIPLE)
    at_B = np.array([1 + at for _, at in rows])  # behind [CLS]
    row_B = np.arange(len(rows))
    batch["labels"] = batch["input_ids"][row_B, at_B]
    batch["input_ids"][row_B, at_B] = tokenizer.mask_id
    return batch | {"masked_lm_positions": at_B[:, None]}


@functools.cache
def _program(config: config_lib.Model) -> Callable[[dict, dict], jax.Array]:
    """`(params, batch of _masked) -> log p [B]` of the labels; compiled once a shape."""

    def log_probabilities(params: dict, batch: dict) -> jax.Array:
        logits_B1V = models.apply(config, params, batch)["masked_lm_logits"]
        return -objectives.cross_entropy(logits_B1V[:, 0], batch["labels"])

    return jax.jit(log_probabilities)
