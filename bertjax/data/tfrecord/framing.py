"""The TFRecord format: records one after the other, each between its checksums.

    uint64   length of the data in bytes, little-endian
    uint32   masked CRC-32C of the length
    bytes    the data
    uint32   masked CRC-32C of the data

A masked CRC is the CRC rotated right by 15 bits, plus a constant (tensorflow/core/lib/io/
record_writer.h, tensorflow/core/lib/hash/crc32c.h). TensorFlow's GZIP option compresses the whole
file.
"""

import struct
from collections.abc import Callable, Generator
from typing import NamedTuple

import google_crc32c
import numpy as np

from bertjax import storage
from bertjax.data import compression
from bertjax.errors import DataError

_HEADER, _FOOTER = struct.Struct("<QI"), struct.Struct("<I")
HEADER = _HEADER.size  # bytes of a record before its data
AROUND = HEADER + _FOOTER.size  # bytes of a record beside its data
BLOCK = 8 << 20  # bytes that are read at a time
LONGEST = 16 << 20  # bytes of a record's data: a BERT example has some thousands


class Block(NamedTuple):
    """Consecutive whole records, as bytes.

    Attributes:
      data: the records with their checksums.
      begins: where each one's data begins in `data`; it ends at the same place of `ends`.
      checksums: the masked CRC of each one's data.
      offset: bytes of the (decompressed) file before `data`.
    """

    data: bytes
    begins: list[int]
    ends: list[int]
    checksums: list[int]
    offset: int


def masked_crc(data: bytes | np.ndarray) -> int:
    """CRC-32C as LevelDB and TensorFlow store it: changed, so that it may itself lie in data."""
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def is_compressed(path: str) -> bool:
    """Whether a file is gzip.

    A length may begin with gzip's two bytes, so the checksum of the length decides.
    """
    with storage.open_file(path) as file:
        head = file.read(HEADER)
    return compression.kind_of(head) == "gzip" and not is_header(head)


def blocks(
    path: str, copy: Callable[[bytes], object] | None = None, size: int = BLOCK
) -> Generator[Block, None, None]:
    """All records of a file, plain or gzip, some MiB at a time.

    Args:
      copy: is also called with every byte of the (decompressed) file, in parts.
      size: bytes that are read at a time.

    Raises:
      DataError: a checksum differs, the file is cut off, its gzip is damaged, or it holds no
        TFRecords; the message names the file and the place.
    """
    with storage.open_file(path) as raw:
        file = compression.decompressed(raw, path) if is_compressed(path) else raw
        rest, offset = b"", 0
        while read := file.read(size):
            if copy:
                copy(read)
            block, end = _scan(path, rest + read, offset)
            if block.begins:
                yield block
            rest, offset = block.data[end:], offset + end
        if rest:
            raise DataError(
                f"{path}: cut off: its last record, at byte {offset:,}, ends after "
                f"{len(rest):,} bytes; copy the file again"
            )


def _scan(path: str, data: bytes, offset: int) -> tuple[Block, int]:
    """The whole records that begin `data`, and where they end."""
    block, at = Block(data, [], [], [], offset), 0
    while len(data) - at >= HEADER:
        head = data[at : at + HEADER]
        length, _ = _HEADER.unpack(head)
        if not is_header(head):
            raise DataError(_no_header(path, offset + at))
        if length > LONGEST:
            raise DataError(
                f"{path}: the record at byte {offset + at:,} has {length:,} bytes; an example of "
                f"BERT has fewer than {LONGEST:,}"
            )
        if len(data) - at < length + AROUND:
            break
        begin = at + HEADER
        end = begin + length
        (checksum,) = _FOOTER.unpack_from(data, end)
        if masked_crc(data[begin:end]) != checksum:
            raise DataError(_damaged(path, offset + at))
        block.begins.append(begin)
        block.ends.append(end)
        block.checksums.append(checksum)
        at = end + _FOOTER.size
    return block, at


def check(path: str, record: bytes, offset: int) -> None:
    """Raises DataError where `record`, read at `offset` of a file, is no whole record."""
    head, data, foot = record[:HEADER], record[HEADER : -_FOOTER.size], record[-4:]
    if not is_header(head) or _HEADER.unpack(head)[0] != len(data):
        raise DataError(
            f"{path}: no record of {len(data):,} bytes at byte {offset:,} any more: the file has "
            "changed since it was indexed; run bertjax prepare again"
        )
    if masked_crc(data) != _FOOTER.unpack(foot)[0]:
        raise DataError(_damaged(path, offset))


def is_header(head: bytes) -> bool:
    """Whether `HEADER` bytes are a length and its checksum."""
    return len(head) == HEADER and masked_crc(head[:8]) == _HEADER.unpack(head)[1]


def _no_header(path: str, offset: int) -> str:
    if offset:
        return (
            f"{path}: the length of the record at byte {offset:,} does not match its checksum: the "
            "file is damaged; copy it again"
        )
    return (
        f"{path}: does not begin with a TFRecord, plain or gzip: it is damaged at byte 0, or "
        "another kind of file"
    )


def _damaged(path: str, offset: int) -> str:
    return (
        f"{path}: the data of the record at byte {offset:,} do not match their checksum: the file "
        "is damaged; copy it again"
    )
