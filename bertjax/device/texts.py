"""Makes batches of an exact length from texts, the same for every program."""

import itertools

import numpy as np

from bertjax.data.tokenizer_base import Tokenizer
from bertjax.device.programs import Batch
from bertjax.errors import DataError
from bertjax.finetune.readers import lines

_AT_ONCE = 256  # lines


def tokens(path: str, tokenizer: Tokenizer, count: int) -> tuple[np.ndarray, list[str]]:
    """The first `count` token ids of a file, line after line, and notes.

    A file with fewer tokens is repeated, with a note. No more of the file is read than needed.

    Raises:
      DataError: the file is missing, empty, not UTF-8, or has no token.
    """
    parts: list[np.ndarray] = []
    found = 0
    read = lines.lines(path)
    while found < count and (some := list(itertools.islice(read, _AT_ONCE))):
        texts = []
        for number, line in enumerate(some):
            if line.text is None:
                raise DataError(lines.unreadable(number, line).reason)
            texts.append(line.text)
        ids, _ = tokenizer.encode_flat(texts)
        parts.append(ids)
        found += len(ids)
    ids = np.concatenate(parts)
    if not len(ids):
        raise DataError(f"{path}: has no token; give it some text")
    if found >= count:
        return ids[:count], []
    note = f"{path}: {found:,} tokens, repeated to make the {count:,} that all batches take"
    return np.resize(ids, count), [note]


def batch(ids: np.ndarray, tokenizer: Tokenizer, rows: int, length: int) -> Batch:
    """A batch of int64 `[rows, length]`: every row is `[CLS] ids [SEP]` with the next ids.

    No row has padding; token types are 0.
    """
    width = length - 2
    start = np.arange(rows)[:, None] * width
    input_ids = np.empty((rows, length), np.int64)
    input_ids[:, 0], input_ids[:, -1] = tokenizer.cls_id, tokenizer.sep_id
    input_ids[:, 1:-1] = ids[(start + np.arange(width)) % len(ids)]
    ones = np.ones_like(input_ids)
    return {"input_ids": input_ids, "attention_mask": ones, "token_type_ids": ones * 0}
