"""Laws of bertjax.convert.leveldb_table: records come back; nothing else comes of damage."""

import struct

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjax.convert import leveldb_table
from bertjax.data import varint
from bertjax.data.tfrecord.framing import masked_crc


@given(st.dictionaries(st.binary(max_size=300), st.binary(max_size=40), max_size=200))
def test_records_come_back_in_order(records):
    records = sorted(records.items())
    assert list(leveldb_table.read(leveldb_table.write(records))) == records


@given(st.integers(0, 2**64 - 1))
def test_varint_round_trip(value):
    data = varint.varint(value)
    assert varint.read_varint(b"\xff" + data + b"\xff", 1) == (value, 1 + len(data))


def test_varint_that_runs_away():
    for data in (b"", b"\xff" * 5, b"\x80" * 1000):
        with pytest.raises(ValueError, match="does not end"):
            varint.read_varint(data, 0)


def test_masked_crc_is_leveldbs():
    # CRC-32C of "123456789" is E3069283 (RFC 3720's polynomial); rotated right by 15, plus a
    # constant, by the definition in LevelDB's crc32c.h.
    rotated = (0xE3069283 >> 15) | (0xE3069283 << 17 & 0xFFFFFFFF)
    assert masked_crc(b"123456789") == (rotated + 0xA282EAD8) % 2**32


def table_of(block: bytes, compression: int = 0) -> bytes:
    """A table whose only data block has these contents, with right checksums."""

    def add(contents, kind=0):
        nonlocal table
        handle = varint.varint(len(table)) + varint.varint(len(contents))
        crc = google_crc32c.value(contents + bytes([kind]))
        masked = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32
        table += contents + struct.pack("<BI", kind, masked)
        return handle

    table = b""
    data = add(block, compression)
    index = struct.pack("BBB", 0, 1, len(data)) + b"~" + data + struct.pack("<II", 0, 1)
    footer = (add(struct.pack("<II", 0, 1)) + add(index)).ljust(40, b"\0")
    return table + footer + bytes.fromhex("57fb808b247547db")


RESTARTS = struct.pack("<II", 0, 1)


def test_prefix_compression():
    block = b"\x00\x05\x01alpha1" + b"\x04\x02\x01ic2" + b"\x00\x01\x00b" + RESTARTS
    expected = [(b"alpha", b"1"), (b"alphic", b"2"), (b"b", b"")]
    assert list(leveldb_table.read(table_of(block))) == expected


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (b"\x01\x01\x00a" + RESTARTS, "beyond its block"),  # shares with nothing
        (b"\x00\x05\x09alpha1" + RESTARTS, "beyond its block"),
        (b"\x00\x01\x00b" + b"\x00\x01\x00a" + RESTARTS, "out of order"),
        (b"\x00\x01\x00a" + b"\x00\x01\x00a" + RESTARTS, "out of order"),
        (b"\x00\xff\xff\xff", "restart points"),
        (b"\x00\x80\x10\x00" + b"k" * 2048 + RESTARTS, "a name has over"),
        (b"\xff" * 40 + struct.pack("<I", 0), "does not end"),
        (b"\x00\x01\x00a" + struct.pack("<I", 2**32 - 1), "restart points"),
    ],
)
def test_hostile_blocks(block, message):
    with pytest.raises(ValueError, match=message):
        list(leveldb_table.read(table_of(block)))


def test_compressed_blocks_are_named():
    with pytest.raises(ValueError, match="compressed"):
        list(leveldb_table.read(table_of(b"\x00\x01\x00a" + RESTARTS, compression=1)))


def test_too_many_records():
    records = [(struct.pack(">I", i), b"") for i in range(20_001)]
    with pytest.raises(ValueError, match="over 20,000"):
        list(leveldb_table.read(leveldb_table.write(records)))
    assert len(list(leveldb_table.read(leveldb_table.write(records[:-1])))) == 20_000


def test_a_block_is_read_once():
    """Two handles of one block would let a small table stand for endless records."""
    block = b"\x00\x01\x00a" + RESTARTS
    table = table_of(block)
    handle = varint.varint(0) + varint.varint(len(block))
    index = b"".join(b"\x00\x01" + bytes([len(handle)]) + k + handle for k in (b"b", b"c"))
    index += RESTARTS
    checksum = masked_crc(index + b"\0")
    start = len(table) - 48
    table = table[:start] + index + struct.pack("<BI", 0, checksum)
    handles = b"\0\0" + varint.varint(start) + varint.varint(len(index))
    table += handles.ljust(40, b"\0") + bytes.fromhex("57fb808b247547db")
    with pytest.raises(ValueError, match="blocks are out of order"):
        list(leveldb_table.read(table))
