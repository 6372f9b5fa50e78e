import itertools

import numpy as np
import pytest

from bertjax.data.packing import pack


def rows_of(members, first):
    return [members[i:j].tolist() for i, j in itertools.pairwise(first)]


def pack_lengths(lengths, predictions=None, order=None, **limits):
    lengths = np.array(lengths)
    predictions = np.ones_like(lengths) if predictions is None else np.array(predictions)
    order = np.arange(len(lengths), dtype=np.int32) if order is None else np.array(order, np.int32)
    limits = {"sequence_length": 10, "max_predictions": 10, "max_per_row": 8} | limits
    return pack(order, lengths, predictions, **limits)


def test_each_example_goes_into_the_fullest_row_that_holds_it():
    # 6 and 7 open a row each. 3 fits both, and 7's row is fuller. 4 fits 6's row. 2 opens a third.
    assert rows_of(*pack_lengths([6, 7, 3, 4, 2])) == [[0, 3], [1, 2], [4]]


def test_rows_end_with_their_slots_and_their_predictions():
    assert rows_of(*pack_lengths([2, 2, 2, 2], max_per_row=3)) == [[0, 1, 2], [3]]
    assert rows_of(*pack_lengths([2, 2, 2, 2], [4, 4, 2, 1])) == [[0, 1, 2], [3]]
    assert rows_of(*pack_lengths([2, 2, 2, 2], [6, 6, 4, 4])) == [[0, 2], [1, 3]]
    assert rows_of(*pack_lengths([2, 2], order=[7, 5])) == [[7, 5]]


@pytest.mark.parametrize("max_per_row", [2, 4, 16])
@pytest.mark.parametrize("max_predictions", [20, 24])
def test_laws_of_packing(max_per_row, max_predictions):
    rng = np.random.default_rng(0)
    lengths = np.minimum(3 + rng.geometric(1 / 40, 5000), 128)
    predictions = np.maximum(1, (0.15 * lengths).round().astype(int))
    order = rng.permutation(5000).astype(np.int32)
    limits = {
        "sequence_length": 128,
        "max_predictions": max_predictions,
        "max_per_row": max_per_row,
    }
    members, first = pack(order, lengths[order], predictions[order], **limits)
    assert sorted(members) == list(range(5000))
    rows = rows_of(members, first)
    assert all(1 <= len(row) <= max_per_row for row in rows)
    assert max(lengths[row].sum() for row in rows) == 128
    assert max(predictions[row].sum() for row in rows) <= max_predictions
    # Examples of a row are in the order of arrival, and rows in the order of their first example.
    place = np.argsort(order)
    assert all((np.diff(place[row]) > 0).all() for row in rows)
    assert (np.diff(place[members[first[:-1]]]) > 0).all()
    again = pack(order, lengths[order], predictions[order], **limits)
    np.testing.assert_array_equal(members, again[0])
    if max_per_row == 16 and max_predictions == 24:
        assert lengths.sum() / (128 * len(rows)) > 0.98
    # No two neighboring rows would fit into one, except the rows left open at the end.
    full = np.add.reduceat(lengths[members], first[:-1])
    if max_per_row == 16:
        assert np.mean(full[:-200] < 64) < 0.01


def test_long_examples_stay_alone():
    members, first = pack_lengths([10, 9, 10, 8])
    assert rows_of(members, first) == [[0], [1], [2], [3]]
