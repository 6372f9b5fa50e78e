"""Serialized protobuf messages, without their schema (protobuf.dev/programming-guides/encoding).

A field has a number, a wire type, and bytes: of wire type 0 a varint, of 1 a number of 8 bytes, of 5
one of 4 bytes, of 2 a text, a message or packed numbers.
"""

from collections.abc import Iterator

from bertjax.data.varint import read_varint, varint


def fields(message: bytes) -> Iterator[tuple[int, int, bytes]]:
    """`(field number, wire type, bytes)` of every field of a message.

    Raises:
      ValueError: it is no message, or it ends within a field.
    """
    at = 0
    while at < len(message):
        tag, begin = read_varint(message, at)
        wire = tag & 7
        if wire == 0:
            at = read_varint(message, begin)[1]
        elif wire == 2:
            length, begin = read_varint(message, begin)
            at = begin + length
        else:
            at = begin + (8 if wire == 1 else 4)
        if not 8 <= tag < 1 << 32 or wire in (3, 4, 6, 7):
            raise ValueError(f"no protobuf message has a field {tag >> 3} of wire type {wire}")
        if at > len(message):
            raise ValueError("a field reaches beyond its message")
        yield tag >> 3, wire, message[begin:at]


def parts(message: bytes, number: int) -> list[bytes]:
    """What the fields `number` of wire type 2 hold, in order; raises as `fields`."""
    return [value for n, wire, value in fields(message) if (n, wire) == (number, 2)]


def field(number: int, value: int | bytes) -> bytes:
    """A field as `fields` reads it: of wire type 0 for an integer, of 2 for bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value
