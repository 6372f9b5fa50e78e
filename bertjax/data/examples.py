"""Examples: (store, generator) -> an index of every example of one epoch.

An example is [CLS] and one or more parts, each closed by [SEP]. A part is a range of tokens of one
document: segment A, segment B, or the tokens that a block takes from one document. One range is
enough, also after truncation, because the sentences of a document lie side by side in the store.
The builders are the four input formats of Liu et al. 2019 (RoBERTa), section 4.2; they read
sentence lengths only.
"""

import dataclasses

import numba
import numpy as np

from bertjax.config import Examples
from bertjax.data import blocks, pairs
from bertjax.data.store import Store
from bertjax.errors import DataError, UsageError

LENGTH = np.uint16


@dataclasses.dataclass(frozen=True)
class Index:
    """`N` examples of `K` parts in reading order; a pair takes 29 bytes.

    Example i has the parts `first_part[i]` to `first_part[i + 1] - 1`. Part k is
    `tokens[part_start[k] : part_start[k] + part_length[k]]`.
    """

    part_start: np.ndarray  # [K] int64
    part_length: np.ndarray  # [K] uint16
    first_part: np.ndarray  # [N + 1] int64
    is_random: np.ndarray | None  # [N] bool: B is from another document; None without such labels

    def __len__(self) -> int:
        return len(self.first_part) - 1

    def lengths(self) -> np.ndarray:
        """Tokens of every example, [CLS] and [SEP] included: [N] int32."""
        return _lengths(self.part_length, self.first_part)

    def documents(self, store: Store) -> np.ndarray:
        """The document of `store` that each part comes from: [K] int64.

        All parts of an example come from one document, except in two cases: the second part of a
        pair with `is_random`, and the parts of `full_sentences`.
        """
        starts = np.asarray(store.sentences)[np.asarray(store.documents)]
        return np.searchsorted(starts, self.part_start, "right") - 1

    def select(self, examples: np.ndarray) -> tuple["Index", np.ndarray]:
        """The index of only `examples` [n, E], and their numbers in it [n, E]; -1 stays -1."""
        used = examples >= 0
        chosen = examples[used]
        counts = self.first_part[chosen + 1] - self.first_part[chosen]
        first = np.concatenate([[0], np.cumsum(counts)])
        parts = np.repeat(self.first_part[chosen] - first[:-1], counts) + np.arange(first[-1])
        numbers = np.full_like(examples, -1)
        numbers[used] = np.arange(len(chosen))
        return Index(self.part_start[parts], self.part_length[parts], first, None), numbers


def build_index(
    store: Store, config: Examples, *, sequence_length: int, rng: np.random.Generator
) -> Index:
    """Cuts every document of `store` into the examples of one epoch.

    A pure function of its arguments and the state of `rng`. The builders:

    - `segment_pair_nsp`: BERT's pairs of segments (see `pairs.segments`).
    - `sentence_pair_nsp`: pairs of single sentences (see `pairs.sentences`).
    - `full_sentences`: sentences up to the sequence length; documents in random order, a [SEP]
      between two documents (see `blocks.fill`).
    - `doc_sentences`: the same, but an example ends where its document ends.

    Returns:
      The index. The id of an example is its position in the index.

    Raises:
      UsageError: `sequence_length` does not fit the 16 bits of a length.
      DataError: the offsets of the store do not ascend; compiled code would read out of bounds.
    """
    if sequence_length > np.iinfo(LENGTH).max:
        raise UsageError(
            f"sequence_length={sequence_length}: the example index holds lengths of 16 bits; "
            f"use at most {np.iinfo(LENGTH).max}"
        )
    offsets = np.asarray(store.sentences), np.asarray(store.documents)
    _require_ascending("sentences", offsets[0], len(store.tokens))
    _require_ascending("documents", offsets[1], len(offsets[0]) - 1)
    if config.has_next_sentence:
        return _pairs(offsets, config, sequence_length, rng)
    return _blocks(offsets, config, sequence_length, rng)


def _pairs(
    offsets: tuple[np.ndarray, np.ndarray],
    config: Examples,
    sequence_length: int,
    rng: np.random.Generator,
) -> Index:
    # A pair consumes at least one sentence, so there are at most as many pairs as sentences.
    # Unused pages of the arrays cost no memory, and `resize` frees them without a copy.
    most = len(offsets[0]) - 1
    columns = np.empty((most, 2), np.int64), np.empty((most, 2), LENGTH), np.empty(most, np.bool_)
    if config.builder == "segment_pair_nsp":
        count = pairs.segments(*offsets, sequence_length, config.short_seq_prob, rng, *columns)
    else:
        count = pairs.sentences(*offsets, sequence_length, rng, *columns)
    starts, lengths, is_random = columns
    starts.resize(2 * count, refcheck=False)
    lengths.resize(2 * count, refcheck=False)
    is_random.resize(count, refcheck=False)
    return Index(starts, lengths, np.arange(0, 2 * count + 1, 2), is_random)


def _blocks(
    offsets: tuple[np.ndarray, np.ndarray],
    config: Examples,
    sequence_length: int,
    rng: np.random.Generator,
) -> Index:
    sentences, documents = offsets
    across = config.builder == "full_sentences"
    order = np.arange(len(documents) - 1)
    if across:
        rng.shuffle(order)
    # A part ends at the end of a sentence, or is a full example cut from a long sentence.
    most = len(sentences) - 1 + (int(sentences[-1]) // max(sequence_length - 2, 1)) + 1
    sizes = ((most, np.int64), (most, LENGTH), (most + 1, np.int64))
    columns = [np.empty(size, dtype) for size, dtype in sizes]
    parts, count = blocks.fill(sentences, documents, order, sequence_length, across, *columns)
    for column, size in zip(columns, (parts, parts, count + 1), strict=True):
        column.resize(size, refcheck=False)
    starts, lengths, first_part = columns
    return Index(starts, lengths, first_part, None)


def _require_ascending(name: str, offsets: np.ndarray, end: int) -> None:
    if offsets[0] != 0 or offsets[-1] != end or not _ascends(offsets):
        raise DataError(
            f"the store's offsets of {name} do not ascend from 0 to {end}: it is damaged; "
            "run `bertjax prepare` again"
        )


@numba.njit(cache=True, nogil=True)
def _ascends(offsets: np.ndarray) -> bool:
    ascends = True
    for i in range(1, len(offsets)):
        ascends &= offsets[i] > offsets[i - 1]
    return ascends


@numba.njit(cache=True, nogil=True)
def _lengths(part_length: np.ndarray, first_part: np.ndarray) -> np.ndarray:
    lengths = np.empty(len(first_part) - 1, np.int32)
    for i in range(len(lengths)):
        length = 1
        for k in range(first_part[i], first_part[i + 1]):
            length += part_length[k] + 1
        lengths[i] = length
    return lengths
