"""Writes the rows of a batch from an index of token ranges, in compiled code.

Writing a row takes about 0.2 microseconds, and waiting for its memory several times as long: the
examples lie anywhere in the index, and their tokens anywhere in the store. So `touch` first reads
everything that a batch needs, in loops so short that the processor waits for many rows at once.

No index is checked here, as none can be out of bounds: `build_index` refuses a store whose offsets do
not ascend from 0 to the number of its tokens and cuts its parts between them, `Epochs.examples` gives
numbers of its examples, and a gathered part is as long as it was asked for (`remote.Tokens`).
"""

import numba
import numpy as np

_LINE = 32  # tokens of 16 bits in a cache line of 64 bytes


@numba.njit(cache=True, nogil=True)
def touch(
    tokens: np.ndarray,
    part_start: np.ndarray,
    part_length: np.ndarray,
    first_part: np.ndarray,
    examples: np.ndarray,
) -> int:
    """Reads one token of every cache line of `examples` [n, E]; -1 is an unused slot.

    Returns:
      A number without meaning. Without a result the compiler would drop the reads.
    """
    total = 0
    for n in range(len(examples)):
        for slot in range(examples.shape[1]):
            if examples[n, slot] >= 0:
                part = first_part[examples[n, slot]]
                total += part_start[part] + part_length[part]
    for n in range(len(examples)):
        for slot in range(examples.shape[1]):
            example = examples[n, slot]
            if example >= 0:
                for k in range(first_part[example], first_part[example + 1]):
                    for i in range(part_start[k], part_start[k] + part_length[k], _LINE):
                        total += tokens[i]
    return total


@numba.njit(cache=True, nogil=True)
def write(
    tokens: np.ndarray,
    part_start: np.ndarray,
    part_length: np.ndarray,
    first_part: np.ndarray,
    examples: np.ndarray,
    places: np.ndarray,
    is_pair: bool,
    cls_id: int,
    sep_id: int,
    pad_id: int,
    input_ids: np.ndarray,
    token_type_ids: np.ndarray,
    attention_mask: np.ndarray,
    segment_ids: np.ndarray,
    position_ids: np.ndarray,
    cls_positions: np.ndarray,
) -> int:
    """Writes every element of the rows `places` [n] of a batch, which hold `examples` [n, E].

    Args:
      input_ids, token_type_ids, attention_mask: arrays of the batch, [B, L] int32.
      segment_ids, position_ids: [B, L] int32; [0, 0] if a row has one example.
      cls_positions: [B, E] int32; [0, 0] if a row has one example.

    Returns:
      The largest id written.
    """
    # Loops over a view, from 0 to its length, compile to vector instructions. Loops over a range
    # of a row do not, because their indices might be negative.
    largest, packed, length = np.uint32(0), len(segment_ids) > 0, input_ids.shape[1]
    for n in range(len(places)):
        row, at, second, end = places[n], 0, 0, 0  # B of the last example: [second, end)
        ids, types, attended = input_ids[row], token_type_ids[row], attention_mask[row]
        types[:] = 0
        for slot in range(examples.shape[1]):
            example, begin = examples[n, slot], at
            if example >= 0:
                at, second, end = _write_parts(
                    tokens, part_start, part_length, first_part, example, cls_id, sep_id, ids, at
                )
                if is_pair:
                    types[second:end] = 1
            if packed:
                cls_positions[row, slot] = begin if example >= 0 else 0
                segments, positions = segment_ids[row, begin:at], position_ids[row, begin:at]
                for i in range(len(segments)):
                    segments[i], positions[i] = slot + 1, i
        ids[at:] = pad_id
        for i in range(length):
            attended[i] = i < at
        if packed:
            segment_ids[row, at:] = 0
            position_ids[row, at:] = 0
        for i in range(length):
            largest = max(largest, np.uint32(ids[i]))
    return int(largest)


@numba.njit(cache=True, nogil=True)
def _write_parts(
    tokens: np.ndarray,
    part_start: np.ndarray,
    part_length: np.ndarray,
    first_part: np.ndarray,
    example: int,
    cls_id: int,
    sep_id: int,
    ids: np.ndarray,
    at: int,
) -> tuple[int, int, int]:
    """Writes one example into a row's `ids` from `at` on.

    Returns:
      The end of the example, and the start and end of its second part with the [SEP].
    """
    ids[at] = cls_id
    at += 1
    second, first = at, first_part[example]
    for k in range(first, first_part[example + 1]):
        if k == first + 1:
            second = at
        source = tokens[part_start[k] : part_start[k] + part_length[k]]
        target = ids[at : at + len(source)]
        for i in range(len(target)):
            target[i] = source[i]
        at += len(source)
        ids[at] = sep_id
        at += 1
    return at, second, at
