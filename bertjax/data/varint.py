"""Numbers of 7 bits a byte, at most 64 bits, as protobuf and LevelDB write them."""


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """An unsigned number of 7 bits a byte, lowest first, and where it ends; or ValueError."""
    if at < len(data) and data[at] < 0x80:  # most have one byte
        return data[at], at + 1
    value = 0
    for index, byte in enumerate(data[at : at + 10]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80 and value < 1 << 64:
            return value, at + index + 1
    raise ValueError("a number in it does not end within 64 bits")


def varint(value: int) -> bytes:
    """`value` in the encoding that `read_varint` reads."""
    result = bytearray()
    while value > 0x7F:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*result, value))
