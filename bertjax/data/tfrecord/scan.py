"""A file -> where its records lie: every checksum is compared and every value is looked at."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bertjax.data import store
from bertjax.data.tfrecord import example, framing
from bertjax.data.tfrecord.example import Layout
from bertjax.data.tokenizer_base import Tokenizer
from bertjax.errors import DataError

_PEEKED = 64 << 10  # bytes read of a file to see its first record


class Found(NamedTuple):
    """What a file holds: of its N records `offsets`, `lengths` and `checksums` [N].

    Attributes:
      copy: bytes and hash of its decompressed copy, where one was made.
    """

    offsets: np.ndarray
    lengths: np.ndarray
    checksums: np.ndarray
    copy: dict | None = None


def layout_of(path: str, tokenizer: Tokenizer) -> Layout | None:
    """The form of a file's examples, by the first; None of a file without any."""
    with contextlib.closing(framing.blocks(path, size=_PEEKED)) as blocks:
        block = next(blocks, None)
    if block is None:
        return None
    data = block.data[block.begins[0] : block.ends[0]]
    try:
        layout = example.layout_of(data, tokenizer.vocab_size)
    except DataError as error:
        raise DataError(f"{path}: the record at byte 0 {error}") from None
    first = example.parse(data)["input_ids"][1][0]
    if first != tokenizer.cls_id:
        raise DataError(
            f"{path}: its first example begins with id {first}, and [CLS] is {tokenizer.cls_id} in "
            "the vocabulary of config.tokenizer.path; name the vocab.txt that it was made with"
        )
    return layout


def records(path: str, layout: Layout, copy: Callable[[bytes], object] | None = None) -> Found:
    """Reads a whole file; `copy` as of `framing.blocks`."""
    parts = []
    for block in framing.blocks(path, copy):
        begins, ends = np.array(block.begins), np.array(block.ends)
        _, bad = layout.decode(block.data, begins, ends)
        offsets = block.offset + begins - framing.HEADER
        if bad >= 0:
            fault = layout.fault(block.data[begins[bad] : ends[bad]])
            raise DataError(f"{path}: the record at byte {offsets[bad]:,} {fault}")
        parts.append((offsets, ends - begins, np.array(block.checksums, np.uint32)))
    offsets, lengths, checksums = map(np.concatenate, zip(*parts, strict=True))
    return Found(offsets, lengths, checksums)


def read(path: str, layout: Layout, copy: Path | None) -> Found:
    """As `records`; what a gzip file holds is also written to `copy`, if given."""
    if copy is None:
        return records(path, layout)
    with contextlib.closing(store.Column(copy, np.dtype("u1"))) as column:
        found = records(path, layout, lambda data: column.append(np.frombuffer(data, "u1")))
        return found._replace(copy=column.finish())
