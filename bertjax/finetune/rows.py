"""Encoded examples: rows of token ids of every length, in a few flat NumPy arrays.

`encoding.encode` makes them, `cache` keeps them, `batches` pads them.
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
    """All that decides how an example becomes rows, the tokenizer apart.

    Attributes:
      kind: of `tasks.KINDS`.
      longest: most tokens in a sequence, special tokens included.
      labels: names of the logits, in their order.
      type_vocab_size: of the model, or of its teacher that has more: token types are below it.
      stride, question_length, null_answers: as in `config.task`; of span alone.
      training: every row must have a label; what only decoding needs is left out.
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
    """R rows of C sequences each (C is 1, or the options of multiple choice), T tokens in all.

    Attributes:
      kind: of `tasks.KINDS`.
      choices: C.
      ids: uint16 [T] (uint32 beyond 65,536 tokens), special tokens included, no padding.
      token_types: uint8 [T].
      starts: int64 [R * C + 1]: sequence s is `ids[starts[s] : starts[s + 1]]`.
      example: int32 [R], the number of the example in the list that was encoded.
      labels: single, pair, multiple_choice: int32 [R], -1 where there is none; regression:
        float32 [R], NaN where there is none; token: int32 [T], -1 where no label is scored;
        span: None.
      start_positions, end_positions: span: int32 [R], the first and last token of the answer,
        counted in the row; 0 and 0 ([CLS]) where this row does not have the answer; -1 where none
        is known.
      context_starts: span: int32 [R], the first token of the context, counted in the row; the
        context ends before the row's last token.
      offsets: span, not for training: int32 [T, 2], the characters of the example's context that
        a token covers; -1 outside the context.
      best: span, not for training: bool [T], whether this row is the one that shows most context
        on both sides of this token of the context; False outside the context.
      words: token: int32 [T], the number of the word whose first piece this is and whose tag this
        row decides; -1 elsewhere.
      notes: a line for all that was cut, dropped or counted.
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
        """int64 [R]: tokens of a row, of its longest sequence where it has several."""
        return np.diff(self.starts).reshape(-1, self.choices).max(1, initial=0)

    @property
    def sha256(self) -> str:
        """Of the tokens and labels of all rows."""
        digest = hashlib.sha256()
        for array in (self.starts, self.ids, self.labels, self.start_positions, self.end_positions):
            digest.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def tokens(self, row: int) -> slice:
        """Where a row of one sequence is in the arrays [T]."""
        return slice(int(self.starts[row]), int(self.starts[row + 1]))


_BLOCK = 1 << 20  # tokens
_SURROGATE = re.compile("[\ud800-\udfff]")


class Part(NamedTuple):
    """One text of each of S sequences: `source[starts[s] : starts[s] + lengths[s]]`.

    Attributes:
      source: ids of all the texts, one after the other.
      starts, lengths: int64 [S].
    """

    source: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray

    def cut(self, lengths: np.ndarray) -> "Part":
        """The first tokens of each text: `lengths` [S] of them."""
        return self._replace(lengths=lengths)

    def pick(self, which: np.ndarray) -> "Part":
        """The texts number `which` [S], in that order."""
        return self._replace(starts=self.starts[which], lengths=self.lengths[which])


def readable(texts: Iterable[str]) -> list[str]:
    """The texts with lone surrogates, which JSON may have and tokenizers refuse, as U+FFFD."""
    return [_SURROGATE.sub("\ufffd", text) for text in texts]


def part_of(texts: Sequence[str], tokenizer: Tokenizer) -> Part:
    """The ids of texts."""
    ids, lengths = tokenizer.encode_flat(readable(texts))
    return Part(ids, np.cumsum(lengths) - lengths, lengths)


def separators(tokenizer: Tokenizer) -> int:
    """Separators between two texts: RoBERTa's has two (`RobertaTokenizer`), all others one."""
    return 2 if tokenizer.kind == "byte_bpe" else 1


def room(tokenizer: Tokenizer, longest: int, parts: int) -> int:
    """Tokens that texts may have in a sequence of `longest`: the rest are special tokens."""
    return longest - 2 - separators(tokenizer) * (parts - 1)


class Sequences(NamedTuple):
    """What `join` makes: the arrays of `Rows`, and `begins`, the first token [S] of each part."""

    ids: np.ndarray
    token_types: np.ndarray
    starts: np.ndarray
    begins: list[np.ndarray]

    def aligned(self, part: int, source: Part, values: np.ndarray, other: Any) -> np.ndarray:
        """`values` of a part's source laid where `join` laid its ids; `other` elsewhere."""
        result = np.full((len(self.ids), *values.shape[1:]), other, values.dtype)
        copy_ragged(result, self.begins[part], source._replace(source=values))
        return result


def join(parts: Sequence[Part], tokenizer: Tokenizer, type_vocab_size: int) -> Sequences:
    """`[CLS] a [SEP]` or `[CLS] a [SEP] b [SEP]`; of byte-level BPE `<s> a </s></s> b </s>`.

    Token types are 0, and 1 for b and its [SEP] where the model has two
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
    """Writes each text of a part to `target[at[s] :]`; a source of one element is repeated."""
    ends = np.cumsum(part.lengths)
    first, count = 0, len(ends)
    while first < count:  # a block at a time: an index takes four times the memory of its tokens
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
