"""The compiled decoder of `tf.train.Example`: some microseconds a record, and only yes or no.

    Example   field 1: Features
    Features  field 1, repeated: an entry of a map: field 1 its name, field 2 a Feature
    Feature   field 2: FloatList, field 3: Int64List
    lists     field 1: the values, packed or one a field

A varint has 7 bits a byte, the lowest first; the high bit says that another byte follows
(protobuf.dev/programming-guides/encoding).
"""

import numba
import numpy as np

_ONE = 0x3F800000  # the bits of 1.0
_MOST = 1 << 32  # beyond all tags and values


@numba.njit(cache=True, nogil=True)
def _varint(data: np.ndarray, at: int, end: int) -> tuple[np.uint64, int]:
    """The number at `at` and the place after it, -1 where it does not end before `end`."""
    value = np.uint64(0)
    for i in range(10):
        if at + i >= end:
            break
        byte = data[at + i]
        value |= np.uint64(byte & 0x7F) << np.uint64(7 * i)
        if byte < 0x80 and (i < 9 or byte < 2):  # within 64 bits
            return value, at + i + 1
    return value, -1


@numba.njit(cache=True, nogil=True)
def _field(data: np.ndarray, at: int, end: int) -> tuple[int, int, int]:
    """Tag, begin and end of the field of a message at `at`; the end is -1 where it is damaged."""
    tag, begin = _varint(data, at, end)
    if begin < 0 or tag < 8 or tag >= _MOST:
        return 0, 0, -1
    wire = tag & np.uint64(7)
    if wire == 2:
        length, begin = _varint(data, begin, end)
        if begin < 0 or length > np.uint64(end - begin):
            return 0, 0, -1
        return int(tag), begin, begin + int(length)
    if wire == 0:
        return int(tag), begin, _varint(data, begin, end)[1]
    size = 4 if wire == 5 else 8
    if (wire != 5 and wire != 1) or size > end - begin:
        return 0, 0, -1
    return int(tag), begin, begin + size


@numba.njit(cache=True, nogil=True)
def _feature(data: np.ndarray, begin: int, end: int, names: np.ndarray, lengths: np.ndarray) -> int:
    """The number of the name `data[begin:end]`; -1 of any other."""
    for feature in range(len(lengths)):
        if lengths[feature] == end - begin:
            same = True
            for i in range(end - begin):
                same &= data[begin + i] == names[feature, i]
            if same:
                return feature
    return -1


@numba.njit(cache=True, nogil=True)
def _integers(data: np.ndarray, at: int, end: int, bound: int, out: np.ndarray) -> bool:
    """Reads an Int64List, packed or not, into `out`; False where it does not fill it in range."""
    count = 0
    while at < end:
        tag, first, at = _field(data, at, end)
        if at < 0 or (tag != 10 and tag != 8):
            return False
        if at - first == len(out) and count == 0:  # one byte each, most likely: vector instructions
            largest, source = np.uint8(0), data[first:at]
            for i in range(len(out)):
                out[i] = source[i]
                largest = max(largest, source[i])
            if largest < 0x80:
                if largest >= bound:
                    return False
                count = len(out)
                continue
        while first < at:
            low = np.int64(data[first])
            high = np.int64(data[first + 1]) if first + 1 < at else _MOST
            if low < 0x80:
                value, first = low, first + 1
            elif high < 0x80:  # most ids
                value, first = low & 0x7F | high << 7, first + 2
            else:
                long, first = _varint(data, first, at)
                value = np.int64(min(long, np.uint64(_MOST)))
            if first < 0 or count == len(out) or value >= bound:
                return False
            out[count] = value
            count += 1
    return count == len(out)


@numba.njit(cache=True, nogil=True)
def _zeros_and_ones(data: np.ndarray, at: int, end: int, out: np.ndarray) -> bool:
    """As `_integers`, of a FloatList of 0.0 and 1.0."""
    count = 0
    while at < end:
        tag, first, at = _field(data, at, end)
        if at < 0 or (tag != 10 and tag != 13) or (at - first) % 4:
            return False
        for i in range(first, at, 4):
            bits = (
                np.uint32(data[i])
                | np.uint32(data[i + 1]) << np.uint32(8)
                | np.uint32(data[i + 2]) << np.uint32(16)
                | np.uint32(data[i + 3]) << np.uint32(24)
            )
            if count == len(out) or (bits != 0 and bits != _ONE):
                return False
            out[count] = bits == _ONE
            count += 1
    return count == len(out)


@numba.njit(cache=True, nogil=True)
def _list(data: np.ndarray, at: int, end: int, is_float: bool, bound: int, out: np.ndarray) -> bool:
    """Reads a tf.train.Feature into `out`; an empty one does not fill it."""
    done = False
    while at < end:
        tag, begin, at = _field(data, at, end)
        if at < 0 or tag != (18 if is_float else 26):
            return False
        if is_float:
            done = _zeros_and_ones(data, begin, at, out)
        else:
            done = _integers(data, begin, at, bound, out)
    return done


@numba.njit(cache=True, nogil=True)
def _features(
    data: np.ndarray,
    at: int,
    end: int,
    names: np.ndarray,
    lengths: np.ndarray,
    floats: np.ndarray,
    bounds: np.ndarray,
    row: int,
    columns: tuple,
) -> int:
    """Reads a tf.train.Features into a row; a bit for each feature found, -1 where one is wrong."""
    found = 0
    while at < end:
        tag, entry, at = _field(data, at, end)
        if at < 0:
            return -1
        feature, begin, stop = -1, 0, 0
        while tag == 10 and entry < at:
            inner, first, entry = _field(data, entry, at)
            if entry < 0:
                return -1
            if inner == 10:
                feature = _feature(data, first, entry, names, lengths)
            elif inner == 18:
                begin, stop = first, entry
        if feature >= 0:
            out = columns[feature][row]
            if not _list(data, begin, stop, floats[feature], bounds[feature], out):
                return -1
            found |= 1 << feature
    return found


@numba.njit(cache=True, nogil=True)
def decode(
    data: np.ndarray,
    begins: np.ndarray,
    ends: np.ndarray,
    names: np.ndarray,
    lengths: np.ndarray,
    floats: np.ndarray,
    bounds: np.ndarray,
    columns: tuple,
) -> int:
    """Decodes the examples `data[begins[i] : ends[i]]` into rows of arrays.

    Args:
      names, lengths: of the F features: uint8 [F, longest name], and the length of each.
      floats: which features are lists of floats, bool [F]: of 0.0 and 1.0, written as integers.
      bounds: what the integers of each feature are below, int64 [F].
      columns: an int32 array `[n, size]` for each feature, which an example must fill.

    Returns:
      The first record that is no such example, or -1.
    """
    for row in range(len(begins)):
        at, end, found = begins[row], ends[row], 0
        while at < end:
            tag, begin, at = _field(data, at, end)
            if at < 0:
                return row
            if tag == 10:
                some = _features(data, begin, at, names, lengths, floats, bounds, row, columns)
                if some < 0:
                    return row
                found |= some
        if found != (1 << len(lengths)) - 1:
            return row
    return -1
