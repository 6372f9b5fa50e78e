"""TFRecord files of examples, written without TensorFlow.

`ONE` and `ONE_GZIP` are files that TensorFlow 2.21.0 wrote of `EXAMPLE`: `tf.io.TFRecordWriter`,
without and with `TFRecordOptions(compression_type="GZIP")`, of an Example that was serialized with
`deterministic=True`.
"""

import gzip
import struct

import google_crc32c
import numpy as np

NAMES = (
    "input_ids",
    "input_mask",
    "segment_ids",
    "masked_lm_positions",
    "masked_lm_ids",
    "masked_lm_weights",
    "next_sentence_labels",
)
EXAMPLE = {
    "input_ids": [2, 5, 300, 4, 20000, 3, 0, 0],
    "input_mask": [1, 1, 1, 1, 1, 1, 0, 0],
    "segment_ids": [0, 0, 0, 1, 1, 1, 0, 0],
    "masked_lm_positions": [3, 0],
    "masked_lm_ids": [777, 0],
    "masked_lm_weights": [1.0, 0.0],
    "next_sentence_labels": [1],
}
ONE = bytes.fromhex(
    "d500000000000000d487c7d40ad2010a1c0a09696e7075745f696473120f1a0d0a0b0205ac0204a09c010300000a"
    "1a0a0a696e7075745f6d61736b120c1a0a0a0801010101010100000a180a0d6d61736b65645f6c6d5f696473"
    "12071a050a038906000a1d0a136d61736b65645f6c6d5f706f736974696f6e7312061a040a0203000a210a11"
    "6d61736b65645f6c6d5f77656967687473120c120a0a080000803f000000000a1d0a146e6578745f73656e74"
    "656e63655f6c6162656c7312051a030a01010a1b0a0b7365676d656e745f696473120c1a0a0a080000000101"
    "01000029162374"
)
ONE_GZIP = bytes.fromhex(
    "1f8b0800000000000003458e410e01311885dba9193c26a244a458889553384a836968cc94a4159676e20e160ee0"
    "1ef632eea3530b6ff7fe2feffdef437e2aafaf126f8a319ada1c8e4eeaccf28e48d18ae267547bdc29230402"
    "f8d1626977bced6d83067936445a5d5526f322a4eb2206bb250413f4fee4b0b7dae9bdb13c1135448c608aee"
    "1f9f94de6c9de56deebb09b92caa71bea16fd4d949ab8c5366ad64be5ca9dcf25830508a115a566d0a0fc3e3"
    "b0cbc7c2aef960e6be60742ac9e5000000"
)


def varint(value):
    value %= 1 << 64  # protobuf has negative numbers as their two's complement
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


def feature(values, packed=True):
    """A tf.train.Feature: of floats, of integers, or of bytes."""
    if values and isinstance(values[0], bytes):
        return field(1, b"".join(field(1, value) for value in values))
    is_float = bool(values) and isinstance(values[0], float)
    parts = [struct.pack("<f", v) if is_float else varint(int(v)) for v in values]
    if packed:
        return field(2 if is_float else 3, field(1, b"".join(parts)))
    tag = bytes([1 << 3 | (5 if is_float else 0)])
    return field(2 if is_float else 3, b"".join(tag + part for part in parts))


def entry(name, data):
    return field(1, field(1, name.encode()) + field(2, data))


def example(values, packed=True):
    """A tf.train.Example of `{name: values}`, in order of name."""
    entries = (entry(name, feature(values[name], packed)) for name in sorted(values))
    return field(1, b"".join(entries))


def masked_crc(data):
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def record(data):
    length = struct.pack("<Q", len(data))
    crcs = (struct.pack("<I", masked_crc(part)) for part in (length, data))
    return length + next(crcs) + data + next(crcs)


def write(path, examples, compress=False):
    """A file of examples `{name: values}`."""
    data = b"".join(record(example(values)) for values in examples)
    path.write_bytes(gzip.compress(data) if compress else data)
    return path


def make(count, length=16, predictions=3, vocab_size=50, cls_id=2, seed=0):
    """Random examples in the form of create_pretraining_data.py: no two alike."""
    rng = np.random.default_rng(seed)
    return [_make(rng, length, predictions, vocab_size, cls_id) for _ in range(count)]


def _make(rng, length, predictions, vocab_size, cls_id):
    size = int(rng.integers(predictions + 4, length + 1))
    masked = int(rng.integers(1, predictions + 1))
    places = np.sort(rng.choice(np.arange(1, size), masked, replace=False))

    def padded(values, to, zero=0):
        return [*values, *[zero] * (to - len(values))]

    first = int(rng.integers(2, size - 1))
    return {
        "input_ids": padded([cls_id, *rng.integers(5, vocab_size, size - 1).tolist()], length),
        "input_mask": padded([1] * size, length),
        "segment_ids": padded([0] * first + [1] * (size - first), length),
        "masked_lm_positions": padded(places.tolist(), predictions),
        "masked_lm_ids": padded(rng.integers(5, vocab_size, masked).tolist(), predictions),
        "masked_lm_weights": padded([1.0] * masked, predictions, 0.0),
        "next_sentence_labels": [int(rng.integers(2))],
    }
