"""Percentiles of known numbers, and in which order programs take turns."""

import itertools

import numpy as np
import pytest

from bertjax.device import latency


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        (range(1, 101), 0.99, 99),
        (range(100, 0, -1), 0.99, 99),
        (range(1, 1001), 0.99, 990),
        (range(1, 1001), 0.999, 999),
        (range(1, 31), 0.99, 30),
        ([5.0], 0.99, 5.0),
        ([3, 1, 2], 0.5, 2),
        ([4, 1, 2, 3], 0.5, 2),
        ([1, 2], 0.0, 1),
        ([1, 2], 1.0, 2),
    ],
)
def test_percentile_is_the_nearest_rank(values, share, expected):
    assert latency.percentile(list(values), share) == expected


def test_at_least_that_share_does_not_exceed_a_percentile():
    values = np.random.default_rng(0).exponential(size=321)
    for share in (0.01, 0.5, 0.9, 0.99, 0.999):
        found = latency.percentile(list(values), share)
        assert (values <= found).mean() >= share
        assert (values < found).mean() < share


class Recorder:
    """Programs that take a known time on a clock of their own, and a log of their calls."""

    def __init__(self, costs):
        self.now, self.log = 0.0, []
        self.calls = [self.call(name, cost) for name, cost in costs.items()]

    def call(self, name, cost):
        def program():
            self.log.append(name)
            self.now += cost

        return program

    def clock(self):
        return self.now


def runs_of(log):
    return [(name, len(list(group))) for name, group in itertools.groupby(log)]


def test_programs_alternate_in_blocks_each_after_a_call_that_is_not_timed():
    recorder = Recorder({"a": 1.0, "b": 10.0, "c": 100.0})
    found = latency.alternate(recorder.calls, 5, block=2, clock=recorder.clock)
    assert found == [[1.0] * 5, [10.0] * 5, [100.0] * 5]
    # Rounds of 2, 2 and 1 calls; each begins with the next program.
    rounds = [("abc", 3), ("bca", 3), ("cab", 2)]
    expected = "".join(name * count for order, count in rounds for name in order)
    assert "".join(recorder.log) == expected
    assert runs_of(expected)[:2] == [("a", 3), ("b", 3)]


def test_without_warm_up_every_call_is_timed():
    recorder = Recorder({"a": 1.0, "b": 2.0})
    found = latency.alternate(recorder.calls, 3, block=1, warm=False, clock=recorder.clock)
    assert found == [[1.0] * 3, [2.0] * 3]
    assert "".join(recorder.log) == "abbaab"


def test_a_pause_of_the_machine_meets_all_programs_alike():
    """A machine that is slow from 30 s on, all along: the medians keep their ratio."""
    recorder = Recorder({})

    def program(cost):
        def run():
            recorder.now += cost * (3 if recorder.now > 30 else 1)

        return run

    one, two = latency.alternate([program(1.0), program(2.0)], 40, block=2, clock=recorder.clock)
    assert np.median(two) / np.median(one) == 2
