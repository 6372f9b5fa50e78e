"""Laws of bertjax.convert.tensor_bundle: TensorFlow's files are read, damaged ones refused."""

import base64
import os
import struct
import time
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from limits import CPU_SECONDS

from bertjax.convert import leveldb_table, tensor_bundle
from bertjax.data import varint as varints
from bertjax.errors import DataError

# Written by TensorFlow 2.21, tf.compat.v1.train.Saver(sharded=True), variables on two devices.
GOLDEN = {
    "g.ckpt.data-00000-of-00002": "AAAAAAAAgD4AAAA/AABAPwAAgD8AAKA/ywT7cR8BAAA=",
    "g.ckpt.data-00001-of-00002": "AAAAPwAAgL/K8klxADwAQADCwD8AwJqZmZmZmbk/BdnGnENoZWxsbw==",
    "g.ckpt.index": (
        "AAAGCAIaAggBABYRYmVydC9wb29sZXIvZGVuc2UvYmlhcwgBEgQSAggDGAEoDDWcDLYEFgcTL2FkYW1fbQgTEgQS"
        "AggDGAEgDCgGNXvxDDoSBhNrZXJuZWwIARIIEgIIAhICCAMoGDVNycA3AQETZggOEgQSAggCGAEgEigENS5KVvIA"
        "Bg9kb3VibGUIAhIAGAEgFigINYhtLakABRFlbXB0eQgBEgYSABICCAIgGDXY6oKiAAsNZ2xvYmFsX3N0ZXAICRIA"
        "IBgoCDV/NbzUAAQPdGV4dAgHEgAYASAeKAo17ODAKQAAAAABAAAAAHV5NG8AAAAAAQAAAADA8qGwAAEDdQDtAQAA"
        "AAABAAAAAHIQMFTyAQj/AQ8AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAV/uAiyR1R9s="
    ),
}
GOLDEN_VALUES = {
    "bert/pooler/dense/kernel": np.arange(6, dtype=np.float32).reshape(2, 3) / 4,
    "bert/pooler/dense/bias": np.array([0.5, -1, 1e30], np.float32),
    "bert/pooler/dense/bias/adam_m": np.array([1, 2, -3], np.float16),
    "global_step": np.array(1234567890123),
    "empty": np.zeros((0, 2), np.float32),
    "bf": np.array([1.5, -2], ml_dtypes.bfloat16),
    "double": np.array(0.1),
}


def golden(directory):
    for name, text in GOLDEN.items():
        (directory / name).write_bytes(base64.b64decode(text))
    return directory / "g.ckpt"


def assert_same(actual, expected):
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    assert actual.tobytes() == expected.tobytes()


def read_all(prefix):
    return {name: entry.read() for name, entry in tensor_bundle.read_index(prefix).items()}


def test_what_tensorflow_wrote(tmp_path):
    entries = tensor_bundle.read_index(golden(tmp_path))
    assert entries.keys() == {*GOLDEN_VALUES, "text"}
    for name, value in GOLDEN_VALUES.items():
        assert entries[name].shape == value.shape
        assert_same(entries[name].read(), value)
    with pytest.raises(DataError, match="text holds no numbers"):
        entries["text"].read()


DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.int64, np.int32]


@given(
    st.dictionaries(
        st.text("abcXYZ019/_", min_size=1, max_size=60),
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=3)),
        max_size=150,
    ),
    st.integers(0, 2**32 - 1),
)
def test_round_trip(tmp_path_factory, tensors, seed):
    rng = np.random.default_rng(seed)
    tensors = {
        name: np.asarray(rng.integers(-99, 99, shape)).astype(dtype)
        for name, (dtype, shape) in tensors.items()
    }
    prefix = tmp_path_factory.mktemp("bundle") / "m.ckpt"
    tensor_bundle.write(prefix, tensors.items())
    read = read_all(prefix)
    assert list(read) == sorted(tensors, key=str.encode)
    for name, value in tensors.items():
        assert_same(read[name], value)


def test_views_and_many_blocks(tmp_path):
    cube = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    tensors = {"transposed": cube.T, "strided": cube[:, ::2], "scalar": np.float32(1.5)}
    tensors |= {f"layer_{i}/kernel": np.full((i % 3,), i, np.float32) for i in range(1000)}
    tensor_bundle.write(tmp_path / "m.ckpt", iter(tensors.items()))
    read = read_all(tmp_path / "m.ckpt")
    for name, value in tensors.items():
        assert_same(read[name], np.asarray(value))
    assert sorted(os.listdir(tmp_path)) == ["m.ckpt.data-00000-of-00001", "m.ckpt.index"]


def test_a_name_twice(tmp_path):
    with pytest.raises(ValueError, match="twice"):
        tensor_bundle.write(tmp_path / "m", [("a", np.zeros(1, np.float32))] * 2)


# Damage


@pytest.mark.parametrize("flip", [0x01, 0x80])
def test_any_damaged_byte_of_the_index_is_noticed_or_without_effect(tmp_path, flip):
    prefix = golden(tmp_path)
    path = tmp_path / "g.ckpt.index"
    whole = path.read_bytes()
    expected = tensor_bundle.read_index(prefix)
    unnoticed = 0
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :])
        try:
            assert tensor_bundle.read_index(prefix) == expected
            unnoticed += 1
        except DataError:
            pass
    # The empty meta-index, its handle and the padding of the footer are not read.
    assert unnoticed <= 13 + 3 + 34


def test_every_truncation_of_the_index(tmp_path):
    prefix = golden(tmp_path)
    path = tmp_path / "g.ckpt.index"
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError):
            tensor_bundle.read_index(prefix)


def test_damaged_data_is_named(tmp_path):
    prefix = golden(tmp_path)
    path = tmp_path / "g.ckpt.data-00000-of-00002"
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)
    entries = tensor_bundle.read_index(prefix)
    with pytest.raises(DataError, match="bert/pooler/dense/kernel does not have its checksum"):
        entries["bert/pooler/dense/kernel"].read()
    assert_same(entries["global_step"].read(), GOLDEN_VALUES["global_step"])


def test_truncated_and_missing_data(tmp_path):
    prefix = golden(tmp_path)
    path = tmp_path / "g.ckpt.data-00000-of-00002"
    entries = tensor_bundle.read_index(prefix)
    os.truncate(path, 31)
    with pytest.raises(DataError, match=r"global_step ends at byte 32; .* has 31"):
        tensor_bundle.read_index(prefix)
    with pytest.raises(DataError, match="checksum"):
        entries["global_step"].read()
    path.unlink()
    with pytest.raises(DataError, match="missing"):
        tensor_bundle.read_index(prefix)
    with pytest.raises(DataError, match="No such file"):
        entries["global_step"].read()


# Hostility


def varint(value):
    return varints.varint(value % 2**64)


def message(dtype=1, shape=(2,), shard=0, offset=0, size=8, more=b""):
    """A BundleEntryProto."""
    dims = b"".join(b"\x12" + bytes([len(d)]) + d for d in (b"\x08" + varint(s) for s in shape))
    parts = [b"\x08" + varint(dtype), b"\x12" + varint(len(dims)) + dims, b"\x18" + varint(shard)]
    parts += [b"\x20" + varint(offset), b"\x28" + varint(size), more]
    return b"".join(parts)


def plant(directory, records, header=b"\x08\x01", data=b"\0" * 64):
    """A checkpoint whose index says `records`, with right checksums."""
    records = sorted(({b"": header} if header is not None else {}).items() | records.items())
    (directory / "h.index").write_bytes(leveldb_table.write(records))
    (directory / "h.data-00000-of-00001").write_bytes(data)
    return directory / "h"


HOSTILE = {
    "huge shape": ({b"a": message(shape=(10**6, 10**6))}, "has 8 bytes"),
    "huge shape, huge size": ({b"a": message(shape=(10**12,), size=4 * 10**12)}, "ends at byte"),
    "product that wraps to 2": ({b"a": message(shape=(2**32, 2**32, 2))}, "has 8 bytes"),
    "negative dimension": ({b"a": message(shape=(-1,))}, "negative"),
    "negative size": ({b"a": message(size=-8)}, "negative"),
    "negative offset": ({b"a": message(offset=-8)}, "negative"),
    "size that wraps": ({b"a": message(offset=2**63 - 1)}, "ends at byte"),
    "size of another shape": ({b"a": message(size=12)}, "has 12 bytes"),
    "beyond the file": ({b"a": message(offset=57)}, "ends at byte 65"),
    "another shard": ({b"a": message(shard=1)}, "data file 1 of 1"),
    "many dimensions": ({b"a": message(shape=(1,) * 33, size=4)}, "33 dimensions"),
    "shared bytes": ({b"a": message(), b"b": message(offset=4)}, "share bytes"),
    "slices": ({b"a": message(more=b"\x3a\x00")}, "slices"),
    "name of no text": ({b"a\nb": message()}, "slices"),
    "no message": ({b"a": b"\x0b"}, "no protobuf message has a field 1 of wire type 3"),
    "field beyond the message": ({b"a": b"\x12\x7f"}, "beyond its message"),
    "varint that runs away": ({b"a": b"\xff" * 11}, "does not end"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_entries(tmp_path, case):
    records, text = HOSTILE[case]
    with pytest.raises(DataError, match=text) as caught:
        tensor_bundle.read_index(plant(tmp_path, records))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("header", "text"),
    [(None, "no header"), (b"\x08\x01\x10\x01", "big-endian"), (b"", "data file 0 of 0")],
)
def test_hostile_headers(tmp_path, header, text):
    with pytest.raises(DataError, match=text):
        tensor_bundle.read_index(plant(tmp_path, {b"a": message()}, header))


def test_shards_that_are_not_there(tmp_path):
    prefix = plant(tmp_path, {b"a": message(shard=10**9)}, header=b"\x08" + varint(10**10))
    with pytest.raises(DataError, match=r"h\.data-1000000000-of-10000000000: missing"):
        tensor_bundle.read_index(prefix)


def test_time_and_memory_stay_small(tmp_path):
    """Empty fields, and names that share all but their end: the most work for their bytes."""
    fields = plant(tmp_path, {b"a": message(more=b"\x40\x00" * (510 << 10))})
    start = time.process_time()
    assert tensor_bundle.read_index(fields)["a"].size == 8
    assert time.process_time() - start < CPU_SECONDS
    names = {f"{'n' * 900}{i:06}".encode(): message(shape=(0,), size=0) for i in range(1000)}
    plant(tmp_path, names)
    tracemalloc.start()
    assert len(tensor_bundle.read_index(tmp_path / "h")) == 1000
    assert tracemalloc.get_traced_memory()[1] < 20 << 20
    tracemalloc.stop()
    (tmp_path / "h.index").write_bytes(bytes(1 << 20 | 1))
    with pytest.raises(DataError, match="no model's index"):
        tensor_bundle.read_index(tmp_path / "h")


def test_other_files(tmp_path):
    for contents in (b"", b"\x80\x02}q\x00.", os.urandom(300), struct.pack("<Q", 2) + b"{}"):
        (tmp_path / "x.index").write_bytes(contents)
        with pytest.raises(DataError, match="does not end as a table does"):
            tensor_bundle.read_index(tmp_path / "x")
    with pytest.raises(DataError, match="missing"):
        tensor_bundle.read_index(tmp_path / "nothing")
    with pytest.raises(DataError, match="not a directory"):
        tensor_bundle.read_index(tmp_path / "nowhere" / "x")


@pytest.mark.parametrize("name", ["g.ckpt.index", "g.ckpt.data-00001-of-00002"])
def test_links_out_of_the_folder_and_pipes(tmp_path, name):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    prefix = golden(inside)
    (inside / name).rename(outside / name)
    (inside / name).symlink_to(outside / name)
    with pytest.raises(DataError, match="leads out of the folder"):
        tensor_bundle.read_index(prefix)
    (inside / name).unlink()
    os.mkfifo(inside / name)
    with pytest.raises(DataError, match="not a regular file"):
        tensor_bundle.read_index(prefix)
