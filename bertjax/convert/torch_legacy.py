"""The layout of `torch.save` before PyTorch 1.6: five pickles, then the weights.

The pickles are a magic number, the version of the layout, the machine that wrote the file, the
object, and the keys of the storages. The storages follow in the order of their keys; each is an
int64 count and its elements.
"""

import io
import os
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, NamedTuple

from bertjax.convert.torch_pickle import ITEM_SIZES, MAX_PICKLE_BYTES, instructions, storages
from bertjax.errors import DataError

MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


class Layout(NamedTuple):
    """The pickles of a checked file, and where its storages are."""

    pickles: bytes
    offsets: list[int]  # byte at which each storage starts, in the order the object names them


def check(path: Path) -> Layout:
    """Finds the storages of a file without running its pickles.

    Raises:
      DataError: a pickle has something that weights do not need, the storages differ from the
        pickle's description, or the file is too short for them.
      OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        # The start holds the pickles and some weights: pickles may not be longer than this.
        start = io.BytesIO(file.read(MAX_PICKLE_BYTES))
        for _ in range(3):
            for _ in instructions(start, path):
                pass
        described = storages(instructions(start, path), path)
        keys = [value for _, value in instructions(start, path) if isinstance(value, str)]
        if sorted(keys) != sorted(described):
            raise DataError(f"{path}: its storages differ from those that its pickle describes")
        end = start.tell()
        found = _find(file, end, [(key, *described[key]) for key in keys], path)
    return Layout(start.getvalue()[:end], [found[key] for key in described])


def _find(
    file: BinaryIO, offset: int, listed: list[tuple[str, str, int]], path: Path
) -> dict[str, int]:
    """The byte at which each storage starts, the first count at `offset`."""
    length = offset + sum(8 + count * ITEM_SIZES[kind] for _, kind, count in listed)
    size = os.fstat(file.fileno()).st_size
    if length > size:
        raise DataError(f"{path}: has {size:,} bytes, its storages need {length:,}; truncated?")
    found = {}
    for key, kind, count in listed:
        file.seek(offset)
        written = int.from_bytes(file.read(8), "little", signed=True)
        if written != count:
            raise DataError(
                f"{path}: storage {key[:40]!r} has {written:,} elements, but {count:,} in its pickle"
            )
        found[key] = offset + 8
        offset += 8 + count * ITEM_SIZES[kind]
    return found


def load(layout: Layout, torch: ModuleType) -> Any:
    """The object, its tensors without elements: each storage knows its place in the file.

    PyTorch gets the checked pickles and nothing else. A storage's memory is reserved but never
    touched, so none is used.
    """
    offsets = iter(layout.offsets)

    def place(storage: Any, _: str) -> Any:
        storage._checkpoint_offset = next(offsets)  # where PyTorch itself keeps it for zip files
        return storage

    with torch.serialization.skip_data():
        return torch.load(io.BytesIO(layout.pickles), map_location=place, weights_only=True)
