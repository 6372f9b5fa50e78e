"""Laws of bertjax.data.protobuf: fields come back, and nothing else is taken for a message."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjax.data import protobuf
from bertjax.data.varint import read_varint, varint

NUMBERS = st.integers(1, (1 << 29) - 1)
VALUES = st.integers(0, (1 << 64) - 1) | st.binary(max_size=300)


@given(st.lists(st.tuples(NUMBERS, VALUES)))
def test_fields_come_back(held):
    message = b"".join(protobuf.field(*field) for field in held)
    found = [
        (number, value if wire == 2 else read_varint(value, 0)[0])
        for number, wire, value in protobuf.fields(message)
    ]
    assert found == held
    number = held[0][0] if held else 1
    assert protobuf.parts(message, number) == [
        value for n, value in held if n == number and isinstance(value, bytes)
    ]


def test_numbers_of_4_and_8_bytes():
    message = b"\x0d" + b"abcd" + b"\x11" + b"12345678"
    assert list(protobuf.fields(message)) == [(1, 5, b"abcd"), (2, 1, b"12345678")]


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (b"\x0b", "a field 1 of wire type 3"),
        (b"\x0f", "a field 1 of wire type 7"),
        (b"\x02\x00", "a field 0 of wire type 2"),
        (varint(1 << 32) + b"\x00", "a field 536870912 of wire type 0"),
        (b"\x0a\x02a", "beyond its message"),
        (b"\x0dabc", "beyond its message"),
        (b"\x08", "does not end"),
        (b"\x08" + b"\xff" * 9 + b"\x02", "does not end within 64 bits"),
    ],
)
def test_what_is_no_message(message, said):
    with pytest.raises(ValueError, match=said):
        list(protobuf.fields(message))
