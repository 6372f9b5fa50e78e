"""LevelDB's table (SSTable): sorted records of a key and a value, in blocks with checksums.

Source: LevelDB's doc/table_format.md. The reader checks everything, in time and memory linear in
the table's size: a damaged or hostile table raises a ValueError that says what is wrong.
"""

import struct
from collections.abc import Iterator

from bertjax.data.tfrecord.framing import masked_crc
from bertjax.data.varint import read_varint, varint

_MAX_KEY_BYTES = 1024  # keys share prefixes, so a small table could hold very long ones
_MAX_RECORDS = 20_000  # BERT Large with Adam's slots has 1,196

_MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)
_FOOTER_BYTES = 48
_TRAILER = struct.Struct("<BI")  # after each block: compression (0 for none), checksum
_RECORDS_IN_A_BLOCK = 64


def read(table: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values in order, each key once.

    Raises:
      ValueError: no table, a damaged one, or one with compressed blocks.
    """
    footer = table[-_FOOTER_BYTES:]
    if len(footer) < _FOOTER_BYTES or not footer.endswith(_MAGIC):
        raise ValueError("it does not end as a table does")
    _, at = _read_handle(footer)  # of the meta-index, which is not needed: it lists filters
    index, _ = _read_handle(footer, at)
    previous, count, end = None, 0, 0
    for _, handle in _read_block(table, *index):
        (offset, size), _ = _read_handle(handle)
        if offset < end:
            raise ValueError("its blocks are out of order")
        end = offset + size
        for key, value in _read_block(table, offset, size):
            count += 1
            if previous is not None and key <= previous:
                raise ValueError("its names are out of order")
            if count > _MAX_RECORDS:
                raise ValueError(f"it has over {_MAX_RECORDS:,} records")
            yield key, value
            previous = key


def _read_handle(data: bytes, at: int = 0) -> tuple[tuple[int, int], int]:
    """`(offset, size)` of a block, and where the handle ends."""
    offset, at = read_varint(data, at)
    size, at = read_varint(data, at)
    return (offset, size), at


def _read_block(table: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    end = offset + size
    if size < 4 or end + _TRAILER.size > len(table):
        raise ValueError("a block reaches beyond the end")
    compression, checksum = _TRAILER.unpack_from(table, end)
    if masked_crc(table[offset : end + 1]) != checksum:
        raise ValueError("a block does not have its checksum")
    if compression:
        raise ValueError("its blocks are compressed, which TensorFlow's own never are")
    (num_restarts,) = struct.unpack_from("<I", table, end - 4)
    if 4 * num_restarts > size - 4:
        raise ValueError("a block has no room for its restart points")
    block = table[offset : end - 4 - 4 * num_restarts]
    key, at = b"", 0
    while at < len(block):
        shared, at = read_varint(block, at)
        unshared, at = read_varint(block, at)
        length, at = read_varint(block, at)
        after_key = at + unshared
        if shared > len(key) or after_key + length > len(block):
            raise ValueError("a record reaches beyond its block")
        if shared + unshared > _MAX_KEY_BYTES:
            raise ValueError(f"a name has over {_MAX_KEY_BYTES:,} bytes")
        key = key[:shared] + block[at:after_key]
        at = after_key + length
        yield key, block[after_key:at]


def write(records: list[tuple[bytes, bytes]]) -> bytes:
    """The table of `records`, which are sorted by key, each key once."""
    table = bytearray()

    def add(records: list[tuple[bytes, bytes]]) -> bytes:
        """Appends a block and returns its handle."""
        block, offset = _block(records), len(table)
        table.extend(block + _TRAILER.pack(0, masked_crc(block + b"\0")))
        return varint(offset) + varint(len(block))

    index = []
    for first in range(0, len(records), _RECORDS_IN_A_BLOCK):
        part = records[first : first + _RECORDS_IN_A_BLOCK]
        index.append((part[-1][0], add(part)))
    handles = add([]) + add(index)  # the meta-index is empty
    return bytes(table) + handles.ljust(_FOOTER_BYTES - len(_MAGIC), b"\0") + _MAGIC


def _block(records: list[tuple[bytes, bytes]]) -> bytes:
    """A block in which every record is a restart point, so that every key is stored in full."""
    block, restarts = bytearray(), []
    for key, value in records:
        restarts.append(len(block))
        block += varint(0) + varint(len(key)) + varint(len(value)) + key + value
    restarts = restarts or [0]  # even an empty block has one
    return bytes(block) + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))
