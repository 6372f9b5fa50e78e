import numpy as np
import pytest

from bertjax.data.mixture import BLOCK, Mixture


def make(weights, seed=0):
    return Mixture(weights, lambda block: np.random.default_rng((seed, block)))


def test_one_component_has_every_row():
    components, numbers = make([0.3]).locate(np.arange(5, 30_000, 7))
    assert not components.any()
    np.testing.assert_array_equal(numbers, np.arange(5, 30_000, 7))


@pytest.mark.parametrize("weights", [[0.7, 0.3], [1, 1, 1], [5, 0.001], [3, 2, 1, 1e-9]])
def test_every_component_is_read_in_order_without_a_gap(weights):
    components, numbers = make(weights).locate(np.arange(3 * BLOCK))
    shares = np.array(weights) / sum(weights)
    for component, share in enumerate(shares):
        mine = numbers[components == component]
        np.testing.assert_array_equal(mine, np.arange(len(mine)))
        assert abs(len(mine) / 3 - share * BLOCK) <= 1
    # Any stretch of rows holds about its share: no long runs of one component.
    stretch = components[1234:4234]
    for component, share in enumerate(shares):
        deviation = (share * (1 - share) * len(stretch)) ** 0.5
        assert abs((stretch == component).sum() - share * len(stretch)) <= 4 * deviation + 1


def test_rows_are_located_one_by_one_as_together():
    mixture = make([0.6, 0.25, 0.15])
    rows = np.array([0, 17, BLOCK - 1, BLOCK, 12 * BLOCK + 3, 10**9])
    together = mixture.locate(rows)
    for i, row in enumerate(rows):
        alone = make([0.6, 0.25, 0.15]).locate(np.array([row]))
        assert (alone[0][0], alone[1][0]) == (together[0][i], together[1][i])
    other = make([0.6, 0.25, 0.15], seed=1).locate(np.arange(BLOCK))[0]
    assert (other != mixture.locate(np.arange(BLOCK))[0]).any()
