"""Tagged words -> rows: a sentence too long for one row is split into overlapping windows."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bertjax.data.tokenizer_base import Tokenizer
from bertjax.errors import DataError, UsageError
from bertjax.finetune.examples import Words
from bertjax.finetune.rows import Part, Rows, Settings, copy_ragged, join, part_of, room

OVERLAP = 0.25  # the largest share of a window that may overlap with the window before


def encode(examples: Sequence[Words], tokenizer: Tokenizer, settings: Settings) -> Rows:
    """`[CLS] pieces [SEP]`; a word's tag is the label of its first piece.

    Words are encoded one by one; byte-level BPE puts a space before each word
    (`is_split_into_words` and `add_prefix_space` of `transformers`). A word without pieces becomes
    [UNK]. One row decides each word's tag: of the words that two windows share, each window decides
    the half farther from its edge.

    Raises:
      DataError: a tag is not among the labels; words have no tags in training.
      UsageError: `longest` has no room for a word.
    """
    most = room(tokenizer, settings.longest, 1)
    if most < 1:
        raise UsageError(f"sequence_length={settings.longest}: no room for a word; 3 is the least")
    pieces, notes = _pieces(examples, tokenizer, most)
    tags = _tags(examples, settings)
    windows = _windows(examples, pieces.lengths, most)
    if len(windows) > len(examples):
        long = len(np.unique(windows[1:, 0][windows[1:, 0] == windows[:-1, 0]]))
        notes.append(f"{long:,} sentences longer than {settings.longest} tokens go on in windows")
    example, sentence, begin, stop, first, last = windows.T
    piece_starts = np.append(pieces.starts, len(pieces.source))
    text = Part(pieces.source, piece_starts[begin], piece_starts[stop] - piece_starts[begin])
    ids, types, starts, (at,) = join([text], tokenizer, settings.type_vocab_size)
    counts = last - first
    row = np.repeat(np.arange(len(windows)), counts)
    word = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts - first, counts)
    place = at[row] + piece_starts[word] - piece_starts[begin[row]]
    words, labels = np.full(len(ids), -1, np.int32), np.full(len(ids), -1, np.int32)
    words[place] = word - sentence[row]
    labels[place] = tags[word]
    return Rows(
        "token",
        1,
        ids,
        types,
        starts,
        example.astype(np.int32),
        labels=labels,
        words=words,
        notes=tuple(notes),
    )


def _pieces(examples: Sequence[Words], tokenizer: Tokenizer, most: int) -> tuple[Part, list[str]]:
    """The pieces of all words, at most `most` of each, in order and without gaps; and notes."""
    before = " " if tokenizer.marks_spaces else ""
    found = part_of([before + word for e in examples for word in e.words], tokenizer)
    none, long = found.lengths == 0, found.lengths > most
    unknown = len(found.source)  # the position of the appended [UNK]
    kept = Part(
        np.append(found.source, tokenizer.unk_id),
        np.where(none, unknown, found.starts),
        np.where(none, 1, np.minimum(found.lengths, most)),
    )
    ends = np.cumsum(kept.lengths)
    flat = np.empty(ends[-1] if len(ends) else 0, np.int32)
    copy_ragged(flat, ends - kept.lengths, kept)
    notes = []
    if none.any():
        notes.append(f"{int(none.sum()):,} words without pieces are {_name(tokenizer)}")
    if long.any():
        notes.append(f"{int(long.sum()):,} words cut to {most} pieces")
    return Part(flat, ends - kept.lengths, kept.lengths), notes


def _name(tokenizer: Tokenizer) -> str:
    return tokenizer.tokens([tokenizer.unk_id])[0]


def _windows(examples: Sequence[Words], lengths: np.ndarray, most: int) -> np.ndarray:
    """int64 [R, 6]: example, the example's first word, and `begin`, `stop`, `first`, `last`.

    The last four are the fields of the row's `Window`. Words are counted through all examples.

    Args:
      lengths: the number of pieces of each word.
    """
    found, start = [], 0
    for number, example in enumerate(examples):
        stop = start + len(example.words)
        for window in word_windows(lengths[start:stop], most):
            found.append((number, start, *(start + word for word in window)))
        start = stop
    return np.array(found, np.int64)


class Window(NamedTuple):
    """Words `begin` to `stop - 1`; the window decides the tags of `first` to `last - 1`."""

    begin: int
    stop: int
    first: int
    last: int


def word_windows(lengths: np.ndarray, most: int) -> list[Window]:
    """The windows of a sentence, of at most `most` pieces each.

    A window takes words while they fit. The next window starts up to a quarter of a window before
    the end of this one, as long as the first word that did not fit still fits there.

    Args:
      lengths: the number of pieces of each word, at most `most`.
    """
    ends = np.concatenate([[0], np.cumsum(lengths)])
    if ends[-1] <= most:
        return [Window(0, len(lengths), 0, len(lengths))]
    windows, begin, first = [], 0, 0
    while True:
        stop = int(np.searchsorted(ends, ends[begin] + most, "right")) - 1
        if stop == len(lengths):
            return [*windows, Window(begin, stop, first, stop)]
        following = int(np.searchsorted(ends, ends[stop] - int(most * OVERLAP)))
        if ends[stop + 1] - ends[following] > most:
            following = stop
        last = (following + stop + 1) // 2
        windows.append(Window(begin, stop, first, last))
        begin, first = following, last


def _tags(examples: Sequence[Words], settings: Settings) -> np.ndarray:
    """int32: the number of each word's tag, for the words of all examples; -1 without a tag."""
    numbers = {name: number for number, name in enumerate(settings.labels)}
    found: list[int] = []
    for example in examples:
        if example.tags is None:
            if settings.training:
                raise DataError(f"sentence {example.id}: words without tags; training needs them")
            found += [-1] * len(example.words)
            continue
        if len(example.tags) != len(example.words):
            count = f"{len(example.tags)} tags for {len(example.words)} words"
            raise DataError(f"sentence {example.id}: {count}")
        unknown = next((tag for tag in example.tags if tag not in numbers), None)
        if unknown is not None:
            listed = ", ".join(settings.labels)
            raise DataError(f"sentence {example.id}: tag {unknown!r} is none of {listed}")
        found += [numbers[tag] for tag in example.tags]
    return np.array(found, np.int32)
