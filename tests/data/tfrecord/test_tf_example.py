"""Laws of bertjax.data.tfrecord.example: values come back, and nothing else is taken for them."""

import numpy as np
import pytest
import tfrecords
from hypothesis import given, settings
from hypothesis import strategies as st
from tfrecords import EXAMPLE, NAMES, entry, example, feature, field

from bertjax.data.tfrecord.example import FEATURES, Layout, layout_of, parse
from bertjax.errors import DataError

LAYOUT = Layout(8, 2, 30_522)


def decode(*records, layout=LAYOUT):
    ends = np.cumsum([len(record) for record in records])
    return layout.decode(b"".join(records), ends - [len(record) for record in records], ends)


def assert_is(columns, values):
    for name, column in zip(NAMES, columns, strict=True):
        np.testing.assert_array_equal(column[-1], values[name], name)
        assert column.dtype == np.int32


def test_the_record_of_tensorflow():
    assert FEATURES == NAMES
    data = tfrecords.ONE[12:-4]
    columns, bad = decode(data)
    assert bad == -1
    assert_is(columns, EXAMPLE)
    assert layout_of(data, 30_522) == LAYOUT
    assert {name: values for name, (_, values) in parse(data).items()} == EXAMPLE


def shuffled(values):
    names = sorted(values, reverse=True)
    return field(1, b"".join(entry(n, feature(values[n])) for n in names))


FORMS = {
    "a value a field": example(EXAMPLE, packed=False),
    "another order": shuffled(EXAMPLE),
    "in two parts": shuffled({n: EXAMPLE[n] for n in NAMES[:3]})
    + shuffled({n: EXAMPLE[n] for n in NAMES[3:]}),
    "the last of a name counts": shuffled(EXAMPLE | {"segment_ids": [1] * 8}) + shuffled(EXAMPLE),
    "other features": shuffled(EXAMPLE | {"vocab": [b"x"], "w": [0.5], "xxxxxxxxx": [1]}),
    "other fields": field(9, b"abc") + b"\x18\x96\x01" + example(EXAMPLE) + b"\x25abcd",
}


@pytest.mark.parametrize("data", FORMS.values(), ids=FORMS)
def test_every_way_of_writing_an_example(data):
    columns, bad = decode(example(EXAMPLE), data)
    assert bad == -1
    assert_is(columns, EXAMPLE)


WRONG = {
    "input_mask": ({"input_mask": None}, "has no feature input_mask .it has input_ids, masked_lm"),
    "length": ({"segment_ids": [0] * 7}, "segment_ids has 7 values, the first .* 8"),
    "more": ({"masked_lm_ids": [5] * 3}, "masked_lm_ids has 3 values, the first .* 2"),
    "vocabulary": (
        {"input_ids": [30_522, *[1] * 7]},
        "input_ids holds 30522; expected 0 to 30521 .the tok",
    ),
    "negative": ({"masked_lm_ids": [-1, 0]}, "masked_lm_ids holds -1; expected 0 to"),
    "position": ({"masked_lm_positions": [8, 0]}, "masked_lm_positions holds 8; expected 0 to 7$"),
    "mask": ({"input_mask": [2] * 8}, "input_mask holds 2; expected 0 to 1$"),
    "label": ({"next_sentence_labels": [200]}, "next_sentence_labels holds 200; expected 0 to 1$"),
    "weight": (
        {"masked_lm_weights": [0.5, 0.0]},
        "masked_lm_weights holds 0.5; weights are 0 or 1",
    ),
    "integers": (
        {"masked_lm_weights": [1, 0]},
        "masked_lm_weights holds integers, expected floats",
    ),
    "floats": ({"input_mask": [1.0] * 8}, "input_mask holds floats, expected integers"),
    "bytes": ({"input_ids": [b"text"]}, "input_ids holds bytes, expected integers"),
}


@pytest.mark.parametrize(("change", "said"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("packed", [True, False])
def test_what_is_wrong_with_a_record_is_said(change, said, packed):
    values = {name: v for name, v in (EXAMPLE | change).items() if v is not None}
    data = example(values, packed)
    assert decode(example(EXAMPLE), data)[1] == 1
    with pytest.raises(DataError, match=f"^{said}"):
        raise DataError(LAYOUT.fault(data))


def test_a_file_that_begins_with_another_record():
    with pytest.raises(DataError, match=r"has no feature input_ids .it has text.; .*bert_tfrecord"):
        layout_of(example({"text": [b"a"]}), 100)
    with pytest.raises(DataError, match=r"is no tf.train.Example"):
        layout_of(b"some text", 100)
    with pytest.raises(DataError, match="input_ids holds 300; expected 0 to 99"):
        layout_of(example(EXAMPLE), 100)


def test_a_number_of_more_than_64_bits_is_no_label():
    """To drop the bits above would make it 1."""
    label = b"\x81" + b"\x80" * 8 + b"\x02"
    wrong = field(3, b"\x08" + label)
    others = [entry(n, feature(EXAMPLE[n])) for n in NAMES[:-1]]
    data = field(1, b"".join([*others, entry(NAMES[-1], wrong)]))
    assert decode(data)[1] == 0
    assert "64 bits" in LAYOUT.fault(data)


def is_example(data):
    """By the plain decoder and the rules of the layout."""
    try:
        features = parse(data)
    except ValueError:
        return False
    for name, size, bound in zip(FEATURES, LAYOUT.sizes, LAYOUT.bounds, strict=True):
        kind, values = features.get(name, ("nothing", []))
        is_float = name == "masked_lm_weights"
        fits = all(v in (0, 1) if is_float else 0 <= v < bound for v in values)
        if kind != ("floats" if is_float else "integers") or len(values) != size or not fits:
            return False
    return True


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255)), max_size=4), st.integers(0, 9))
def test_damage_that_checksums_let_pass_is_never_read_as_other_values(changes, cut):
    """Both decoders agree on what an example is, and on its values."""
    data = bytearray(example(EXAMPLE, packed=cut % 2 == 0))
    for at, value in changes:
        data[at % len(data)] = value
    data = bytes(data[: len(data) - cut])
    columns, bad = decode(data)
    if bad == -1:
        held = {name: parse(data)[name][1] for name in NAMES}
        assert is_example(data)
        assert_is(columns, held)
    else:
        assert LAYOUT.fault(data)
