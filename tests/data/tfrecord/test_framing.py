"""Laws of bertjax.data.tfrecord.framing: TensorFlow's files are read, any damage is refused."""

import gzip
import struct

import pytest
import tfrecords

from bertjax.data.tfrecord import framing
from bertjax.errors import DataError


def read(path, **options):
    blocks = list(framing.blocks(str(path), **options))
    return [b.data[i:j] for b in blocks for i, j in zip(b.begins, b.ends, strict=True)]


def put(path, data):
    path.write_bytes(data)
    return path


def test_the_writer_of_these_tests_writes_what_tensorflow_wrote(tmp_path):
    plain = tfrecords.write(tmp_path / "plain", [tfrecords.EXAMPLE])
    assert plain.read_bytes() == tfrecords.ONE
    assert gzip.decompress(tfrecords.ONE_GZIP) == tfrecords.ONE


@pytest.mark.parametrize("data", [tfrecords.ONE, tfrecords.ONE_GZIP], ids=["plain", "gzip"])
def test_a_file_of_tensorflow_is_read(data, tmp_path):
    path, copied = put(tmp_path / "one", data), []
    assert read(path, copy=copied.append) == [tfrecords.example(tfrecords.EXAMPLE)]
    assert b"".join(copied) == tfrecords.ONE
    assert framing.is_compressed(str(path)) == (data is tfrecords.ONE_GZIP)


def test_records_come_back_whatever_is_read_at_a_time(tmp_path):
    data = [bytes([i]) * (37 * i) for i in range(20)]  # of no bytes too
    stream = b"".join(tfrecords.record(part) for part in data)
    plain, packed = put(tmp_path / "p", stream), put(tmp_path / "g", gzip.compress(stream))
    for size in (1, 13, 1000, 1 << 20):
        assert read(plain, size=size) == read(packed, size=size) == data
    places = [
        block.offset + begin
        for block in framing.blocks(str(plain), size=500)
        for begin in block.begins
    ]
    assert [stream[at : at + len(part)] for at, part in zip(places, data, strict=True)] == data


def test_a_length_that_begins_like_gzip_is_a_length(tmp_path):
    path = put(tmp_path / "long", tfrecords.record(b"x" * 0x8B1F))
    assert not framing.is_compressed(str(path))
    assert read(path) == [b"x" * 0x8B1F]


def test_every_flipped_byte_is_refused_and_placed(tmp_path):
    start = len(tfrecords.ONE)
    for at in range(len(tfrecords.ONE)):
        second = bytearray(tfrecords.ONE)
        second[at] ^= 0x10
        path = put(tmp_path / "bad", tfrecords.ONE + second)
        with pytest.raises(DataError, match=rf"bad: the (length|data) of .* at byte {start:,} do"):
            read(path)
        with pytest.raises(DataError, match=r"at byte 7|no record of .* changed since"):
            framing.check("f", bytes(second), 7)
    framing.check("f", tfrecords.ONE, 7)


@pytest.mark.parametrize("cut", [1, 11, 12, 100, 228])
def test_a_file_that_is_cut_off(cut, tmp_path):
    start = len(tfrecords.ONE)
    path = put(tmp_path / "cut", tfrecords.ONE + tfrecords.ONE[:cut])
    with pytest.raises(DataError, match=rf"cut: cut off: .*at byte {start:,}, .* {cut:,} bytes"):
        read(path)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (tfrecords.ONE_GZIP[:-20], "damaged gzip, in the member that starts at byte 0 of"),
        (
            tfrecords.ONE_GZIP[:40] + b"\xff" * 9 + tfrecords.ONE_GZIP[49:],
            "gzip, .* starts at byte 0 of",
        ),
        (b'{"text": "a line of JSON"}\n', "does not begin with a TFRecord"),
        (struct.pack("<Q", 1 << 40), "cut off"),
        (
            struct.pack("<QI", 1 << 40, tfrecords.masked_crc(struct.pack("<Q", 1 << 40))),
            "at byte 0 has 1,099,511,627,776 bytes",
        ),
    ],
)
def test_what_is_no_tfrecord_file(data, said, tmp_path):
    with pytest.raises(DataError, match=said) as caught:
        read(put(tmp_path / "other", data))
    assert "\n" not in str(caught.value)


def test_a_file_of_nothing_has_no_records(tmp_path):
    assert read(put(tmp_path / "empty", b"")) == read(put(tmp_path / "e", gzip.compress(b""))) == []
