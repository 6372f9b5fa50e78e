"""A record of create_pretraining_data.py -> the arrays of one example.

A record is a `tf.train.Example`: a map from names to lists of int64 or float. All lists have the
length that the first record of the file has: L values (`input_ids`, `input_mask`, `segment_ids`), P
(`masked_lm_*`) or 1 (`next_sentence_labels`). The compiled decoder takes or refuses a record; why it
refuses one is found by the plain decoder here, which is slow and keeps everything.
"""

import dataclasses
import struct
from collections.abc import Iterator

import numpy as np

from bertjax.data import protobuf
from bertjax.data.tfrecord import decoder
from bertjax.data.varint import read_varint
from bertjax.errors import DataError

FEATURES = (
    "input_ids",
    "input_mask",
    "segment_ids",
    "masked_lm_positions",
    "masked_lm_ids",
    "masked_lm_weights",
    "next_sentence_labels",
)
_FLOATS = np.array([name == "masked_lm_weights" for name in FEATURES])
_KINDS = {(1, 2): "bytes", (2, 2): "floats", (3, 2): "integers"}  # tf.train.Feature's fields
_UNPACKED = {"floats": 5, "integers": 0}  # wire type of a value that has a field of its own

_NAMES = np.zeros((len(FEATURES), max(map(len, FEATURES))), np.uint8)
_NAME_LENGTHS = np.array([len(name) for name in FEATURES])
for _row, _name in zip(_NAMES, FEATURES, strict=True):
    _row[: len(_name)] = np.frombuffer(_name.encode(), np.uint8)


@dataclasses.dataclass(frozen=True)
class Layout:
    """The form of a file's examples.

    Attributes:
      sequence_length, max_predictions_per_seq: L and P.
      vocab_size: every token id is below it.
    """

    sequence_length: int
    max_predictions_per_seq: int
    vocab_size: int

    @property
    def form(self) -> tuple[int, int]:
        """What tells files apart: L and P."""
        return self.sequence_length, self.max_predictions_per_seq

    @property
    def sizes(self) -> tuple[int, ...]:
        """Values of each of `FEATURES`."""
        length, predictions = self.sequence_length, self.max_predictions_per_seq
        return length, length, length, predictions, predictions, predictions, 1

    @property
    def bounds(self) -> tuple[int, ...]:
        """What the values of each of `FEATURES` are below."""
        return self.vocab_size, 2, 2, self.sequence_length, self.vocab_size, 2, 2

    def decode(self, data: bytes, begins: np.ndarray, ends: np.ndarray) -> tuple:
        """Examples from bytes.

        Args:
          data: the records, of which i is `data[begins[i] : ends[i]]`.

        Returns:
          `(columns, bad)`: int32 arrays `[n, size]` in the order of `FEATURES`, and the first
          record that is none of this layout, or -1. Weights are 0 and 1, as integers.
        """
        columns = tuple(np.empty((len(begins), size), np.int32) for size in self.sizes)
        bounds = np.array(self.bounds, np.int64)
        names = _NAMES, _NAME_LENGTHS
        view = np.frombuffer(data, np.uint8)
        bad = decoder.decode(view, begins, ends, *names, _FLOATS, bounds, columns)
        return columns, bad

    def fault(self, data: bytes) -> str:
        """Why a record is none of this layout."""
        try:
            features = parse(data)
        except ValueError as error:
            return f"is no tf.train.Example ({error})"
        for name, size, bound in zip(FEATURES, self.sizes, self.bounds, strict=True):
            if name not in features:
                return _missing(name, features)
            kind, values = features[name]
            wanted = "floats" if name == "masked_lm_weights" else "integers"
            if kind != wanted:
                return f"{name} holds {kind}, expected {wanted}"
            if len(values) != size:
                return f"{name} has {len(values)} values, the first record of its file {size}"
            if kind == "floats" and not set(values) <= {0.0, 1.0}:
                return f"{name} holds {min(set(values) - {0.0, 1.0})}; weights are 0 or 1"
            wrong = next((value for value in values if not 0 <= value < bound), None)
            if wrong is not None:
                of = f" (the tokenizer has {bound} tokens)" if bound == self.vocab_size else ""
                return f"{name} holds {wrong}; expected 0 to {bound - 1}{of}"
        return "is no tf.train.Example"


def layout_of(data: bytes, vocab_size: int) -> Layout:
    """The layout of a file by its first record.

    Raises:
      DataError: the record has not the features of create_pretraining_data.py.
    """
    try:
        features = parse(data)
    except ValueError as error:
        raise DataError(f"is no tf.train.Example ({error})") from None
    for name in FEATURES:
        if name not in features:
            raise DataError(_missing(name, features))
    length, predictions = (len(features[name][1]) for name in (FEATURES[0], FEATURES[3]))
    if not length or not predictions:
        raise DataError(f"has {length} input_ids and {predictions} masked_lm_positions")
    layout = Layout(length, predictions, vocab_size)
    if layout.decode(data, np.array([0]), np.array([len(data)]))[1] >= 0:
        raise DataError(layout.fault(data))
    return layout


def _missing(name: str, features: dict) -> str:
    held = ", ".join(sorted(features)) or "nothing"
    return f"has no feature {name} (it has {held}); data.source=bert_tfrecord reads {', '.join(FEATURES)}"


# The plain decoder


def parse(data: bytes) -> dict[str, tuple[str, list]]:
    """`{name: (kind of values, values)}` of a tf.train.Example, whatever it holds.

    Raises:
      ValueError: it is none.
    """
    features = {}
    for part in protobuf.parts(data, 1):
        for entry in protobuf.parts(part, 1):
            held = {number: value for number, wire, value in protobuf.fields(entry) if wire == 2}
            name = held.get(1, b"").decode("utf-8", "replace")
            features[name] = _values(held.get(2, b""))
    return features


def _values(data: bytes) -> tuple[str, list]:
    kind, values = "nothing", []
    for number, wire, part in protobuf.fields(data):
        kind, values = _KINDS.get((number, wire), "nothing"), []
        for inner, form, value in protobuf.fields(part) if kind in _UNPACKED else ():
            if inner != 1 or form not in (2, _UNPACKED[kind]):
                raise ValueError(f"a list of {kind} has a field {inner} of wire type {form}")
            if kind == "floats" and len(value) % 4:
                raise ValueError("a float in it does not end")
            if kind == "floats":
                values += [x for (x,) in struct.iter_unpack("<f", value)]
            elif kind == "integers":
                values += _signed(value)
    return kind, values


def _signed(data: bytes) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = read_varint(data, at)
        yield value - (1 << 64) if value >> 63 else value
