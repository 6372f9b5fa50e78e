"""Sentence pairs: (store, generator) -> an index of every example of one epoch.

The rules are those of google-research/bert, `create_pretraining_data.py`. They read sentence
lengths only, so an example is four numbers and a bit: sentences of one document lie side by
side in the store, hence A and B are each one range of tokens, also after truncation. The
rules are sequential, and are compiled rather than vectorised.
"""

import dataclasses

import numba
import numpy as np

from bertjax.errors import DataError, UsageError

SPECIAL_TOKENS = 3  # [CLS] A [SEP] B [SEP]
_LENGTH = np.uint16


@dataclasses.dataclass(frozen=True)
class Index:
    """Token ranges of `N` examples in reading order; 21 bytes an example.

    A is `tokens[a_start : a_start + a_length]` and B likewise; `is_random` says that B comes
    from another document.
    """

    a_start: np.ndarray  # [N] int64
    a_length: np.ndarray  # [N] uint16
    b_start: np.ndarray  # [N] int64
    b_length: np.ndarray  # [N] uint16
    is_random: np.ndarray  # [N] bool

    def __len__(self) -> int:
        return len(self.a_start)


def build_index(
    store, *, sequence_length: int, short_seq_prob: float, rng: np.random.Generator
) -> Index:
    """Cuts every document of `store` into sentence pairs: one epoch of examples.

    A pure function of its arguments and the state of `rng`. The rules, in the order in which
    `rng` is used:

    1. A document's target length is `sequence_length - 3`, or with `short_seq_prob` uniform in
       [2, `sequence_length - 3`].
    2. Sentences are gathered until they reach the target or the document ends; A is the first
       k of them, k uniform, and at least one sentence is left for B where there are two.
    3. B is what is left, or, with probability one half and whenever nothing is left, it starts
       at a uniform sentence of another uniform document and takes sentences until A and B
       reach the target or that document ends. What was left then opens the next example.
    4. A pair that is too long loses tokens one by one from the longer side (from B when equal),
       each from the front or the back with probability one half.

    The reference draws another document by up to ten attempts, and after ten failures takes the
    same one; here it is always another, which is the same law but for a chance of
    `num_documents ** -10`. With a single document no pair is random, and where nothing is left
    for B, B is empty.

    Returns:
      The index; ids of examples are positions in it.

    Raises:
      UsageError: `sequence_length` does not fit the 16 bits of a length.
      DataError: the offsets of the store do not ascend: compiled code would read anywhere.
    """
    max_tokens = sequence_length - SPECIAL_TOKENS
    if max_tokens > np.iinfo(_LENGTH).max:
        raise UsageError(
            f"sequence_length={sequence_length}: the example index holds lengths of 16 bits; "
            f"use at most {np.iinfo(_LENGTH).max + SPECIAL_TOKENS}"
        )
    sentences, documents = np.asarray(store.sentences), np.asarray(store.documents)
    _require_ascending("sentences", sentences, len(store.tokens))
    _require_ascending("documents", documents, len(sentences) - 1)
    # An example consumes at least one sentence. Untouched pages of the arrays cost no memory,
    # and `resize` gives them back without a copy.
    most = len(sentences) - 1
    columns = [np.empty(most, dtype) for dtype in (np.int64, _LENGTH, np.int64, _LENGTH, np.bool_)]
    count = _build(sentences, documents, max_tokens, short_seq_prob, rng, *columns)
    for column in columns:
        column.resize(count, refcheck=False)
    return Index(*columns)


def _require_ascending(name, offsets, end):
    if offsets[0] != 0 or offsets[-1] != end or not _ascends(offsets):
        raise DataError(
            f"the store's offsets of {name} do not ascend from 0 to {end}: it is damaged; "
            "run `bertjax prepare` again"
        )


@numba.njit(cache=True, nogil=True)
def _ascends(offsets):
    ascends = True
    for i in range(1, len(offsets)):
        ascends &= offsets[i] > offsets[i - 1]
    return ascends


@numba.njit(cache=True, nogil=True)
def _build(
    sentences, documents, max_tokens, short_seq_prob, rng,
    a_start, a_length, b_start, b_length, is_random,
):  # fmt: skip
    count = 0
    for document in range(len(documents) - 1):
        target = max_tokens
        if rng.random() < short_seq_prob:
            target = rng.integers(2, max_tokens + 1)
        first, end = documents[document], documents[document + 1]
        while first < end:
            last = _gather(sentences, first, end, target)
            split = first + 1
            if last - first > 1:
                split += rng.integers(0, last - first - 1)
            a, a_end = sentences[first], sentences[split]
            random = len(documents) > 2 and (last - first == 1 or rng.random() < 0.5)
            if random:
                b, b_end = _random_range(sentences, documents, document, target - (a_end - a), rng)
                first = split
            else:
                b, b_end = a_end, sentences[last]
                first = last
            a, a_kept, b, b_kept = _truncate(a, a_end - a, b, b_end - b, max_tokens, rng)
            a_start[count], a_length[count] = a, a_kept
            b_start[count], b_length[count] = b, b_kept
            is_random[count] = random
            count += 1
    return count


@numba.njit(cache=True, nogil=True)
def _gather(sentences, first, end, target):
    """The sentence after the last one taken: at least one, then more until `target` tokens."""
    last = first + 1
    while last < end and sentences[last] - sentences[first] < target:
        last += 1
    return last


@numba.njit(cache=True, nogil=True)
def _random_range(sentences, documents, document, target, rng):
    """`(first token, token after the last)` of sentences from another document."""
    other = rng.integers(0, len(documents) - 2)
    other += other >= document
    begin, end = documents[other], documents[other + 1]
    first = rng.integers(begin, end)
    return sentences[first], sentences[_gather(sentences, first, end, target)]


@numba.njit(cache=True, nogil=True)
def _truncate(a, a_tokens, b, b_tokens, most, rng):
    """Rule 4 in closed form: how many tokens each side loses does not depend on the draws.

    The longer side shrinks to the other's length, then both shrink in turn, B first. So the
    shorter side stays whole if it takes no more than half, and else A keeps the larger half.
    Only how many of a side's tokens go from the front is random.
    """
    if a_tokens + b_tokens <= most:
        return a, a_tokens, b, b_tokens
    a_kept = min(a_tokens, max(most - b_tokens, most - most // 2))
    b_kept = most - a_kept
    a += rng.binomial(a_tokens - a_kept, 0.5)
    b += rng.binomial(b_tokens - b_kept, 0.5)
    return a, a_kept, b, b_kept
