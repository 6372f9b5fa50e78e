"""TensorFlow's checkpoint files (the V2 format, "tensor bundle"), without TensorFlow.

PREFIX.index is a LevelDB table that maps a tensor's name to a BundleEntryProto: its type, shape and
place, and the CRC of its bytes. The empty name maps to a BundleHeaderProto. PREFIX.data-*-of-* hold
the values, little-endian, row by row.

Source: TensorFlow's core/protobuf/tensor_bundle.proto and core/util/tensor_bundle.
"""

import dataclasses
import itertools
import math
import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from bertjax.convert import leveldb_table
from bertjax.convert.folder import Folder
from bertjax.data import protobuf
from bertjax.data.tfrecord.framing import masked_crc
from bertjax.data.varint import read_varint, varint
from bertjax.errors import DataError

_MAX_INDEX_BYTES = 1 << 20  # BERT Large with Adam's slots has 100 KB
_MAX_RANK = 32

# DataType of TensorFlow's core/framework/types.proto.
_DTYPES = {
    1: np.dtype("<f4"),
    2: np.dtype("<f8"),
    3: np.dtype("<i4"),
    9: np.dtype("<i8"),
    14: np.dtype(ml_dtypes.bfloat16),
    19: np.dtype("<f2"),
}
_DTYPE_NUMBERS = {dtype: number for number, dtype in _DTYPES.items()}


@dataclasses.dataclass(frozen=True)
class Entry:
    """A tensor that is not read yet, with its place in a data file.

    Attributes:
      dtype: None for a type that weights do not have (text, for example).
      offset, size: bytes of `path`.
      checksum: masked CRC-32C of those bytes.
    """

    name: str
    dtype: np.dtype | None
    shape: tuple[int, ...]
    path: Path
    offset: int
    size: int
    checksum: int

    def read(self) -> np.ndarray:
        """The values.

        Raises:
          DataError: the bytes do not match their checksum, or the type is not supported.
        """
        if self.dtype is None:
            raise DataError(f"{self.path}: {self.name} holds no numbers of a supported type")
        try:
            data = np.fromfile(self.path, np.uint8, self.size, offset=self.offset)
        except OSError as error:
            raise DataError(f"{self.path}: {error.strerror}") from None
        if masked_crc(data) != self.checksum:
            raise DataError(
                f"{self.path}: {self.name} does not have its checksum; the file is damaged, "
                "get it again"
            )
        return data.view(self.dtype).reshape(self.shape)


def read_index(prefix: Path) -> dict[str, Entry]:
    """Every tensor of a checkpoint by its name, not read yet.

    Checks the index: a tensor has as many bytes as its shape needs, they lie within a data file
    beside the index, and no other tensor shares them.

    Args:
      prefix: the checkpoint's path without `.index`.

    Raises:
      DataError: a file is missing, damaged, hostile or of another format.
    """
    folder = Folder(prefix.parent)
    path = folder.file(f"{prefix.name}.index")
    size = path.stat().st_size
    if size > _MAX_INDEX_BYTES:
        raise DataError(f"{path}: {size:,} bytes; no model's index has over {_MAX_INDEX_BYTES:,}")
    try:
        records = dict(leveldb_table.read(path.read_bytes()))
        num_shards = _read_header(records.pop(b"", None))
        shards = _Shards(folder, prefix.name, num_shards)
        entries = [_read_entry(*record, shards) for record in records.items()]
        _check_disjoint(entries)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise DataError(f"{path}: not the index of a checkpoint, or damaged: {error}") from None
    return {entry.name: entry for entry in entries}


class _Shards:
    """The data files of a checkpoint, looked up when the index first names them."""

    def __init__(self, folder: Folder, prefix: str, count: int):
        self._folder, self._prefix, self._count = folder, prefix, count
        self._found: dict[int, tuple[Path, int]] = {}

    def __getitem__(self, shard: int) -> tuple[Path, int]:
        """Path and size of a data file."""
        if shard >= self._count:
            raise ValueError(f"it names data file {shard} of {self._count}")
        if shard not in self._found:
            path = self._folder.file(f"{self._prefix}.data-{shard:05d}-of-{self._count:05d}")
            self._found[shard] = path, path.stat().st_size
        return self._found[shard]


# Parsing the records


def _read_header(message: bytes | None) -> int:
    """The number of data files."""
    if message is None:
        raise ValueError("it has no header")
    fields = _held(message)
    if fields.get((2, 0), 0) != 0:
        raise ValueError("its numbers are big-endian")
    return fields.get((1, 0), 0)


def _read_entry(key: bytes, message: bytes, shards: _Shards) -> Entry:
    name = key.decode("utf-8", "backslashreplace")
    fields = _held(message)
    if (7, 2) in fields or not name.isprintable():
        raise ValueError(f"{name!r} is in slices (a partitioned variable); save it whole")
    dtype = _DTYPES.get(fields.get((1, 0), 0))
    shape = _read_shape(fields.get((2, 2), b""))
    path, end = shards[fields.get((3, 0), 0)]
    offset, size = fields.get((4, 0), 0), fields.get((5, 0), 0)
    if dtype is not None and math.prod(shape) * dtype.itemsize != size:
        raise ValueError(f"{name} is {dtype}{list(shape)}, but has {size:,} bytes")
    if offset + size > end:
        raise ValueError(f"{name} ends at byte {offset + size:,}; {path.name} has {end:,}")
    return Entry(name, dtype, shape, path, offset, size, fields.get((6, 5), 0))


def _read_shape(message: bytes) -> tuple[int, ...]:
    dimensions = protobuf.parts(message, 2)
    if len(dimensions) > _MAX_RANK:
        raise ValueError(f"a tensor has {len(dimensions)} dimensions")
    return tuple(_held(dimension).get((1, 0), 0) for dimension in dimensions)


def _check_disjoint(entries: list[Entry]) -> None:
    """Raises ValueError if tensors share bytes: a small file could then claim huge tensors."""
    ordered = sorted(entries, key=lambda e: (e.path, e.offset, e.size))
    for first, second in itertools.pairwise(ordered):
        if first.path == second.path and first.offset + first.size > second.offset:
            raise ValueError(f"{first.name} and {second.name} share bytes")


def _held(message: bytes) -> dict[tuple[int, int], Any]:
    """The last value of each field by `(field number, wire type)`; numbers are sizes and places."""
    held: dict[tuple[int, int], Any] = {}
    for number, wire, value in protobuf.fields(message):
        held[number, wire] = value if wire == 2 else int.from_bytes(value, "little")
        if wire == 0:
            held[number, wire], _ = read_varint(value, 0)
        if wire != 2 and held[number, wire] >> 63:
            raise ValueError("a size or a place is negative")
    return held


# Writing


def write(prefix: Path, tensors: Iterable[tuple[str, np.ndarray]]) -> None:
    """Writes PREFIX.index and one data file, as TensorFlow reads them.

    Args:
      tensors: `(name, array)`, each name once, arrays of any strides; consumed one at a time.
    """
    # One data file, little-endian, made by version 1 of the format.
    version = protobuf.field(1, 1)
    records = {b"": protobuf.field(1, 1) + protobuf.field(2, 0) + protobuf.field(3, version)}
    with open(f"{prefix}.data-00000-of-00001", "wb") as file:
        for name, array in tensors:
            array = np.asarray(array, order="C")
            data = array.reshape(-1).view(np.uint8)
            if name.encode() in records:
                raise ValueError(f"{name} twice")
            records[name.encode()] = _entry_message(array, file.tell(), data)
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
    Path(f"{prefix}.index").write_bytes(leveldb_table.write(sorted(records.items())))


def _entry_message(array: np.ndarray, offset: int, data: np.ndarray) -> bytes:
    shape = b"".join(protobuf.field(2, protobuf.field(1, size)) for size in array.shape)
    fields = (
        protobuf.field(1, _DTYPE_NUMBERS[array.dtype]),
        protobuf.field(2, shape),
        protobuf.field(4, offset),
        protobuf.field(5, data.size),
        varint(6 << 3 | 5) + struct.pack("<I", masked_crc(data)),
    )
    return b"".join(fields)
