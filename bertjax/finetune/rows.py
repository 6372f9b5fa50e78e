"""Encoded examples: rows of token ids of different lengths, in a few flat NumPy arrays.

`encoding.encode` makes the rows, `cache` stores them, `batches` pads them.
"""

import dataclasses
import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from bertjax.data.store import token_dtype
from bertjax.data.tokenizer_base import Tokenizer


@dataclasses.dataclass(frozen=True)
class Settings:
    """All settings of the encoding, except the tokenizer.

    Attributes:
      kind: a key of `tasks.KINDS`.
      longest: the most tokens in a sequence, special tokens included.
      labels: the label names in the order of the logits.
      type_vocab_size: the model's, or its teacher's if larger; all token types are below it.
      stride, question_length, null_answers: as in `config.task`; for span only.
      training: require a label for every row, and leave out the arrays that only decoding needs.
    """

    kind: str
    longest: int
    labels: tuple[str, ...] = ()
    type_vocab_size: int = 2
    stride: int = 128
    question_length: int = 64
    null_answers: bool = False
    training: bool = True


@dataclasses.dataclass(frozen=True)
class Rows:
    """R rows of C sequences each, T tokens in all. C is 1, or the options of multiple choice.

    Attributes:
      kind: a key of `tasks.KINDS`.
      choices: C.
      ids: uint16 [T] (uint32 beyond 65,536 tokens), special tokens included, no padding.
      token_types: uint8 [T].
      starts: int64 [R * C + 1]: sequence s is `ids[starts[s] : starts[s + 1]]`.
      example: int32 [R], the number of the row's example in the encoded list.
      labels: single, pair, multiple_choice: int32 [R], -1 without a label; regression: float32
        [R], NaN without a label; token: int32 [T], -1 where no label is scored; span: None.
      start_positions, end_positions: span: int32 [R], the first and last token of the answer,
        counted in the row; 0 and 0 ([CLS]) if the answer is outside this row; -1 if no answer is
        known.
      context_starts: span: int32 [R], the first token of the context, counted in the row; the
        context ends before the row's last token.
      offsets: span, not for training: int32 [T, 2], the characters of the example's context that
        a token covers; -1 outside the context.
      best: span, not for training: bool [T], whether this row is the one that shows the most
        context on both sides of this token; False outside the context.
      words: token: int32 [T]. At the first piece of a word whose tag this row decides, the number
        of the word; -1 elsewhere.
      notes: a line for everything that was cut, dropped or counted.
    """

    kind: str
    choices: int
    ids: np.ndarray
    token_types: np.ndarray
    starts: np.ndarray
    example: np.ndarray
    labels: np.ndarray | None = None
    start_positions: np.ndarray | None = None
    end_positions: np.ndarray | None = None
    context_starts: np.ndarray | None = None
    offsets: np.ndarray | None = None
    best: np.ndarray | None = None
    words: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.example)

    @property
    def lengths(self) -> np.ndarray:
        """int64 [R]: the tokens of each row's longest sequence."""
        return np.diff(self.starts).reshape(-1, self.choices).max(1, initial=0)

    @property
    def sha256(self) -> str:
        """SHA-256 (hex) of the tokens and labels of all rows."""
        digest = hashlib.sha256()
        for array in (self.starts, self.ids, self.labels, self.start_positions, self.end_positions):
            digest.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def tokens(self, row: int) -> slice:
        """The place of a row in the arrays [T]; for rows of one sequence."""
        return slice(int(self.starts[row]), int(self.starts[row + 1]))


_BLOCK = 1 << 20  # tokens
_SURROGATE = re.compile("[\ud800-\udfff]")


class Part(NamedTuple):
    """One text of each of S sequences: `source[starts[s] : starts[s] + lengths[s]]`.

    Attributes:
      source: the ids of all texts, concatenated.
      starts, lengths: int64 [S].
    """

    source: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray

    def cut(self, lengths: np.ndarray) -> "Part":
        """The first `lengths` [S] tokens of each text."""
        return self._replace(lengths=lengths)

    def pick(self, which: np.ndarray) -> "Part":
        """The texts with the numbers `which` [S], in that order."""
        return self._replace(starts=self.starts[which], lengths=self.lengths[which])


def readable(texts: Iterable[str]) -> list[str]:
    """The texts with U+FFFD for lone surrogates, which JSON may hold and tokenizers refuse."""
    return [_SURROGATE.sub("\ufffd", text) for text in texts]


def part_of(texts: Sequence[str], tokenizer: Tokenizer) -> Part:
    """The ids of texts."""
    ids, lengths = tokenizer.encode_flat(readable(texts))
    return Part(ids, np.cumsum(lengths) - lengths, lengths)


def separators(tokenizer: Tokenizer) -> int:
    """The number of separators between two texts: 2 for RoBERTa (`RobertaTokenizer`), else 1."""
    return 2 if tokenizer.kind == "byte_bpe" else 1


def room(tokenizer: Tokenizer, longest: int, parts: int) -> int:
    """The tokens left for texts in a sequence of `longest` tokens, beside the special tokens."""
    return longest - 2 - separators(tokenizer) * (parts - 1)


class Sequences(NamedTuple):
    """The result of `join`: arrays of `Rows`, and `begins`, the first token [S] of each part."""

    ids: np.ndarray
    token_types: np.ndarray
    starts: np.ndarray
    begins: list[np.ndarray]

    def aligned(self, part: int, source: Part, values: np.ndarray, other: Any) -> np.ndarray:
        """`values`, one for each id of `source`, placed where the ids are; `other` elsewhere."""
        result = np.full((len(self.ids), *values.shape[1:]), other, values.dtype)
        copy_ragged(result, self.begins[part], source._replace(source=values))
        return result


def join(parts: Sequence[Part], tokenizer: Tokenizer, type_vocab_size: int) -> Sequences:
    """`[CLS] a [SEP]` or `[CLS] a [SEP] b [SEP]`; byte-level BPE has `<s> a </s></s> b </s>`.

    Token types are 0. b and its [SEP] have type 1 if the model has two types
    (google-research/bert, run_classifier.py); RoBERTa has one.
    """
    between = separators(tokenizer)
    total = 2 + sum(part.lengths for part in parts) + between * (len(parts) - 1)
    starts = np.concatenate([[0], np.cumsum(total)]).astype(np.int64)
    ids = np.full(starts[-1], tokenizer.sep_id, token_dtype(tokenizer.vocab_size))
    types = np.zeros(starts[-1], np.uint8)
    ids[starts[:-1]] = tokenizer.cls_id
    begins = [starts[:-1] + 1]
    for part in parts:
        copy_ragged(ids, begins[-1], part)
        begins.append(begins[-1] + part.lengths + between)
    if len(parts) == 2 and type_vocab_size > 1:
        lengths = parts[1].lengths + 1
        copy_ragged(types, begins[1], Part(np.ones(1, np.uint8), np.zeros_like(lengths), lengths))
    return Sequences(ids, types, starts, begins[:-1])


def copy_ragged(target: np.ndarray, at: np.ndarray, part: Part) -> None:
    """Writes text s of a part to `target[at[s] :]`; a source of one element is repeated."""
    ends = np.cumsum(part.lengths)
    first, count = 0, len(ends)
    while first < count:  # in blocks: an index takes four times the memory of the tokens
        before = int(ends[first] - part.lengths[first])
        last = max(first + 1, int(np.searchsorted(ends, before + _BLOCK, "right")))
        lengths, block = part.lengths[first:last], slice(first, last)
        within = np.arange(ends[last - 1] - before)
        within -= np.repeat(ends[block] - lengths - before, lengths)
        places = np.repeat(at[block], lengths) + within
        if len(part.source) == 1:
            target[places] = part.source[0]
        else:
            target[places] = part.source[np.repeat(part.starts[block], lengths) + within]
        first = last
