"""The mask of attention dropout: a known rule, and the statistics of fair coins.

`benchmarks/attention_dropout.py` draws a hundred times as many masks.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.models import attention_dropout

RATE, SHAPE = 0.1, (12, 256, 256)  # heads, queries, keys


def row_keys(*numbers):
    root = jax.random.key(11, impl="threefry2x32")
    return jax.vmap(jax.random.fold_in, (None, 0))(root, jnp.array(numbers))


def dropped(keys, shape=SHAPE, rate=RATE):
    ones = jnp.ones((len(keys), *shape))
    return np.asarray(jax.jit(attention_dropout.dropout, static_argnums=1)(ones, rate, keys) == 0)


@pytest.fixture(scope="module")
def masks():
    """The dropped entries of four rows, `[4, H, L, L]`."""
    return dropped(row_keys(0, 1, 2, 3))


def deviations(counts, draws, share):
    return np.abs((counts - draws * share) / math.sqrt(draws * share * (1 - share)))


def reference(key, heads, length):
    """The mask of one row, computed one number at a time: True if dropped, `[H, L, L]`."""
    words = 2**32

    def mix(x):
        x = (x ^ (x >> 16)) * 0x7FEB352D % words
        x = (x ^ (x >> 15)) * 0x846CA68B % words
        return x ^ (x >> 16)

    data = [[int(word) for word in jax.random.key_data(k)] for k in jax.random.split(key, 3)]

    def word(use, index):
        k0, k1 = data[use]
        return mix(mix(index ^ k0) ^ k1)

    def is_dropped(head, query, position):
        at = head * length + query
        score = (word(2, position) ^ word(0, at)) * (word(1, at) | 1) % words
        signed = score - words if score >= words // 2 else score
        return signed < round(RATE * words) - words // 2

    places = np.ndindex(heads, length, length)
    return np.array([is_dropped(*place) for place in places]).reshape(heads, length, length)


def test_the_mask_is_that_of_the_rule():
    keys = row_keys(3, 8)
    found = dropped(keys, (2, 9, 9))
    np.testing.assert_array_equal(found, [reference(key, 2, 9) for key in keys])


def test_a_row_drops_the_same_whatever_lies_beside_it(masks):
    np.testing.assert_array_equal(dropped(row_keys(2)), masks[2:3])


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.5])
def test_kept_probabilities_are_scaled(rate):
    key = row_keys(0)
    found = np.asarray(attention_dropout.dropout(jnp.ones((1, 2, 64, 64)), rate, key))
    np.testing.assert_allclose(np.unique(found), [0, 1 / (1 - rate)], rtol=1e-6)


@pytest.mark.parametrize("axes", [(), (0,), (1,), (2,), (3,), (2, 3)])
def test_the_share_is_that_of_the_rate_at_every_row_head_query_and_key(masks, axes):
    """Within four standard deviations, or five for the largest of hundreds of figures."""
    over = tuple(axis for axis in range(4) if axis not in axes)
    counts = masks.sum(over)
    if axes == (2, 3):  # diagonals
        at = np.arange(SHAPE[1])
        counts = np.bincount(((at[:, None] - at) % SHAPE[1]).ravel(), counts.ravel())
    found = deviations(counts, masks.size / np.size(counts), RATE)
    assert found.max() < (4 if np.size(counts) < 100 else 5)


def test_neighbors_heads_and_rows_are_dropped_independently(masks):
    for axis in range(4):
        for shift in (1, 2, 3, 16, 64, 128):
            if 2 * shift <= masks.shape[axis]:
                both = (masks & np.roll(masks, shift, axis)).sum()
                assert deviations(both, masks.size, RATE**2) < 4.5, (axis, shift)


def test_rectangles_are_dropped_independently(masks):
    """The products over all pairs of queries of all heads, and of keys, have a variance of 1.

    Masks are scaled by the share that was really dropped, because the products of all pairs vary
    with that share. A word is the exclusive or of a query's word and a key's word. Without further
    mixing, the four corners of every rectangle would depend on each other.
    """
    unit = (masks[0] - RATE).reshape(-1, SHAPE[2])
    unit /= math.sqrt((unit**2).mean())
    for rows in (unit, unit.T):
        products = rows.astype(np.float32) @ rows.T.astype(np.float32) / math.sqrt(rows.shape[1])
        of_pairs = products[np.triu_indices(len(rows), 1)].astype(float)
        assert abs(of_pairs.mean()) < 4.5 / math.sqrt(of_pairs.size)
        # 2.5: 2 for a normal variable, and a little for the kurtosis of coins with this rate.
        assert abs((of_pairs**2).mean() - 1) < 5 * math.sqrt(2.5 / of_pairs.size)
