"""Packing on the host: which examples share a row. (The model keeps their attention apart.)"""

import numba
import numpy as np

OPEN_ROWS = 128  # rows that still take examples; more pack no better, and every one is searched


def pack(
    order: np.ndarray,
    lengths: np.ndarray,
    predictions: np.ndarray,
    *,
    sequence_length: int,
    max_predictions: int,
    max_per_row: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Puts each example into the fullest open row that has room for it (best fit).

    A pure function of its arguments. Rows are numbered in the order in which they are opened, so
    examples in random order give rows in random order. The last few rows stay emptier.

    Args:
      order: ids of the examples, [n] int32, in the order in which they are placed.
      lengths: tokens of each example, [n].
      predictions: the most tokens that masking may choose in each example, [n], each at most
        `max_predictions`. Their sum over a row stays within `max_predictions`, so no prediction
        is cut off.

    Returns:
      `members` [n] int32, the ids row by row, and `first` [R + 1] int64: row r has
      `members[first[r] : first[r + 1]]`, between 1 and `max_per_row` of them.
    """
    row_of, count = _assign(
        lengths.astype(np.int32),
        predictions.astype(np.int32),
        sequence_length,
        max_predictions,
        max_per_row,
    )
    first = np.zeros(count + 1, np.int64)
    np.cumsum(np.bincount(row_of, minlength=count), out=first[1:])
    return order[np.argsort(row_of, kind="stable")], first


@numba.njit(cache=True, nogil=True)
def _assign(
    lengths: np.ndarray,
    predictions: np.ndarray,
    sequence_length: int,
    max_predictions: int,
    max_per_row: int,
) -> tuple[np.ndarray, int]:
    """The row of each example, and the number of rows."""
    row_of = np.empty(len(lengths), np.int32)
    # Open rows: the number of each row, and the tokens, predictions and examples it has room for.
    rows = np.empty(OPEN_ROWS, np.int32)
    tokens, masks, slots = np.empty(OPEN_ROWS, np.int32), rows.copy(), rows.copy()
    opened = held = 0
    for i in range(len(lengths)):
        best = -1
        for k in range(held):
            fits = tokens[k] >= lengths[i] and masks[k] >= predictions[i]
            if fits and (best < 0 or tokens[k] < tokens[best]):
                best = k
        if best < 0:
            if held < OPEN_ROWS:
                best = held
                held += 1
            else:  # the new row takes the place of the fullest open row
                best = tokens.argmin()
            rows[best], opened = opened, opened + 1
            tokens[best], masks[best], slots[best] = sequence_length, max_predictions, max_per_row
        row_of[i] = rows[best]
        tokens[best] -= lengths[i]
        masks[best] -= predictions[i]
        slots[best] -= 1
        if slots[best] == 0:  # the row is closed; the last open row takes its place
            held -= 1
            for column in (rows, tokens, masks, slots):
                column[best] = column[held]
    return row_of, opened
