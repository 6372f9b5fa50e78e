"""The order of the rows, where batches are cut, and how they are padded."""

import itertools
from collections import Counter

import numpy as np
import pytest
from finetune_examples import EXAMPLES, SETTINGS, TOKENIZER, rows_of_lengths
from hypothesis import given, settings
from hypothesis import strategies as st

from bertjax.finetune.batches import (
    LENGTHS,
    Batches,
    HeldoutBatches,
    batch_shapes,
    bucket_lengths,
    num_steps,
)
from bertjax.finetune.encoding import encode
from bertjax.finetune.rows import Rows

RNG = np.random.default_rng(0)


def batches(lengths, batch_size=4, longest=64, pad_id=99, seed=3, **options):
    rows = lengths if isinstance(lengths, Rows) else rows_of_lengths(lengths)
    return Batches(
        rows, batch_size=batch_size, longest=longest, pad_id=pad_id, seed=seed, **options
    )


def heldout(lengths, batch_size=4, longest=64, **options):
    rows = lengths if isinstance(lengths, Rows) else rows_of_lengths(lengths)
    return HeldoutBatches(rows, batch_size=batch_size, longest=longest, pad_id=99, **options)


def ids(found, steps):
    return [found.batch(step)["example_ids"].tolist() for step in steps]


def test_a_batch_written_out():
    batch = batches([3, 20, 5, 2], batch_size=3, shuffle=False).batch(0)
    assert batch["input_ids"].shape == (3, 24)  # 20 made up
    assert batch["input_ids"][0].tolist() == [0] * 3 + [99] * 21
    assert batch["input_ids"][1].tolist() == [1] * 20 + [99] * 4
    assert batch["attention_mask"].sum(1).tolist() == [3, 20, 5]
    assert batch["attention_mask"][2].tolist() == [1] * 5 + [0] * 19
    assert batch["labels"].tolist() == batch["example_ids"].tolist() == [0, 1, 2]
    assert {array.dtype for array in batch.values()} == {np.dtype(np.int32)}


def test_the_files_order_is_kept_in_every_epoch():
    found = batches([5] * 10, shuffle=False, group_lengths=True)
    assert ids(found, range(4)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 1], [2, 3, 4, 5]]


def test_the_chain_of_epochs():
    found = batches([5] * 10, group_lengths=False)
    rows = np.concatenate(ids(found, range(15)))
    orders = [np.random.default_rng([3, epoch]).permutation(10) for epoch in range(6)]
    np.testing.assert_array_equal(rows, np.concatenate(orders))
    assert not np.array_equal(orders[0], orders[1])


def test_a_seed_is_an_order():
    def order(seed):
        return ids(batches(RNG.integers(2, 60, 500), seed=seed), range(100))

    assert order(1) != order(2)


@pytest.mark.parametrize("grouped", [True, False])
@settings(max_examples=80, deadline=None)
@given(
    rows=st.integers(1, 700),
    batch_size=st.integers(1, 33),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 2**63),
)
def test_every_row_comes_once_an_epoch(grouped, rows, batch_size, epochs, seed):
    """After the steps of so many whole epochs, all rows came so often, but for what is no batch."""
    lengths = np.random.default_rng(0).integers(2, 64, rows)
    found = batches(lengths, batch_size, seed=seed, group_lengths=grouped)
    steps = num_steps(rows, batch_size, epochs)
    count = Counter(np.concatenate([found.order(step) for step in range(steps)]).tolist())
    missing = rows * epochs - steps * batch_size  # negative where there is but one step
    assert sum(count.values()) == rows * epochs - missing
    if missing >= 0:
        assert max(count.values()) <= epochs
        assert rows * epochs - sum(count.values()) == missing < batch_size


def test_any_step_first_and_as_often_as_one_likes():
    lengths = RNG.integers(2, 64, 997)
    forward = [batches(lengths, 8).batch(step) for step in range(400)]
    found = batches(lengths, 8)
    for step in [399, 0, 123, 124, 125, 3, 399]:
        for name, array in found.batch(step).items():
            np.testing.assert_array_equal(array, forward[step][name])


def test_far_steps_cost_what_near_ones_do():
    found = batches(RNG.integers(2, 64, 1000), 8)
    assert found.batch(10**12)["input_ids"].shape[0] == 8


def test_a_pool_is_sorted_and_its_batches_shuffled():
    lengths = RNG.integers(2, 65, 5000)
    found = batches(lengths, 10)
    spreads, longest = [], []
    for step in range(50):  # the first pool
        each = lengths[found.order(step)]
        spreads.append(np.ptp(each))
        longest.append(each.max())
    assert np.mean(spreads) < 3
    assert longest != sorted(longest)
    together = np.sort(np.concatenate([found.order(step) for step in range(50)]))
    chain = np.random.default_rng([3, 0]).permutation(5000)[:500]
    np.testing.assert_array_equal(together, np.sort(chain))


def test_the_order_of_batches_is_drawn_anew_for_every_pool():
    lengths = np.arange(2, 62).repeat(100)
    found = batches(lengths, 10)
    pools = [
        [int(lengths[found.order(step)].max()) for step in range(start, start + 50)]
        for start in (0, 50, 600)
    ]
    assert len({tuple(np.argsort(pool, kind="stable")) for pool in pools}) == 3


def test_grouping_saves_padding():
    lengths = np.random.default_rng(1).geometric(0.05, 3000).clip(4, 64)
    share = {
        name: batches(lengths, 32, **options).padding_share(90)
        for name, options in {
            "plain": {"buckets": 0},
            "buckets": {"group_lengths": False},
            "grouped": {},
        }.items()
    }
    assert share["grouped"] < 0.32 < 0.5 < share["buckets"] <= share["plain"]


def test_padding_is_counted():
    found = batches([3, 20, 5, 2, 7, 16], batch_size=2, shuffle=False)
    # (3, 20) in 24; (5, 2) in 16; (7, 16) in 16
    assert found.padding_share(3) == pytest.approx(1 - 53 / 112)
    assert found.lengths(3).tolist() == [24, 16, 16]
    assert found.describe() == "6 rows, 53% padding"
    mask = [found.batch(step)["attention_mask"] for step in range(3)]
    assert 1 - sum(m.sum() for m in mask) / sum(m.size for m in mask) == found.padding_share(3)


@pytest.mark.parametrize(("longest", "length", "expected"), [
    (64, 16, 16), (64, 17, 24), (64, 49, 64), (60, 49, 60), (60, 60, 60), (10, 3, 10),
    (512, 129, 192), (512, 385, 512), (600, 513, 600), (40, 33, 40),
])  # fmt: skip
def test_lengths_of_buckets(longest, length, expected):
    found = batches([length] * 3, 2, longest=longest)
    assert found.batch(0)["input_ids"].shape == (2, expected)
    assert expected in (*LENGTHS, longest)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 512), min_size=1, max_size=60),
    st.sampled_from([64, 100, 128, 512]),
    st.integers(1, 5),
)
def test_buckets_pad_least(lengths, longest, most):
    """Against every choice of lengths that takes all rows."""
    lengths = np.minimum(lengths, longest)
    candidates = sorted({min(n, longest) for n in LENGTHS if n <= longest} | {longest})

    def tokens(chosen):
        return sum(min(n for n in chosen if n >= length) for length in lengths)

    found = bucket_lengths(lengths, longest, most)
    choices = (c for k in range(1, most + 1) for c in itertools.combinations(candidates, k))
    assert tokens(found) == min(tokens(c) for c in choices if c[-1] >= lengths.max())
    assert len(found) <= most
    assert found == sorted(found)


def test_without_buckets_every_batch_is_as_long_as_can_be():
    assert batches([3] * 5, longest=48, buckets=0).batch(1)["input_ids"].shape == (4, 48)


@pytest.mark.parametrize("part", [slice(2, 4), np.array([3, 0]), slice(0, 1)])
def test_processes_have_parts_of_one_batch_in_one_shape(part):
    found = batches([3, 60, 5, 2, 30, 4, 3, 3], batch_size=4, shuffle=False)
    for step in range(2):
        whole, mine = found.batch(step), found.batch(step, part)
        for name in whole:
            np.testing.assert_array_equal(mine[name], whole[name][part])
    last = heldout([3, 60, 5, 2, 30, 4, 3])
    for name, array in last.batch(1).items():
        np.testing.assert_array_equal(last.batch(1, part)[name], array[part])


def test_multiple_choice_has_a_sequence_for_each_option():
    rows = rows_of_lengths([3, 4, 5, 20, 2, 2, 2, 2, 2], "multiple_choice", choices=3)
    batch = batches(rows, batch_size=3, shuffle=False).batch(0)
    assert batch["input_ids"].shape == (3, 3, 24)
    assert batch["input_ids"][1, 0].tolist() == [3] * 20 + [99] * 4
    assert batch["labels"].tolist() == [0, 1, 2]
    assert batches(rows, batch_size=3, shuffle=False).padding_share(1) == 1 - 42 / (9 * 24)


def test_labels_of_tokens_and_numbers():
    tags = rows_of_lengths([3, 2], "token", labels=np.array([-1, 7, -1, 8, 9], np.int32))
    batch = batches(tags, batch_size=2, shuffle=False, longest=4).batch(0)
    assert batch["labels"].tolist() == [[-1, 7, -1, -1], [8, 9, -1, -1]]
    numbers = rows_of_lengths([3, 2], "regression", labels=np.array([0.5, 2], np.float32))
    batch = heldout(numbers, batch_size=4, longest=4, buckets=0).batch(0)
    assert batch["labels"].dtype == np.float32
    assert batch["labels"].tolist() == [0.5, 2.0, 0.0, 0.0]
    assert batch["example_ids"].tolist() == [0, 1, -1, -1]


@pytest.mark.parametrize("buckets", [4, 0])
@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 64), min_size=1, max_size=90), st.integers(1, 20))
def test_held_out_rows_come_once(buckets, lengths, batch_size):
    found = heldout(lengths, batch_size, buckets=buckets)
    all_batches = [found.batch(step) for step in range(found.num_batches)]
    seen = np.concatenate([batch["example_ids"] for batch in all_batches])
    assert len(seen) - len(lengths) < batch_size
    assert sorted(seen[seen >= 0]) == list(range(len(lengths)))
    for batch in all_batches:
        assert batch["input_ids"].shape[0] == batch_size
        assert batch["attention_mask"].any(-1).all()
        assert (batch["labels"][batch["example_ids"] < 0] == -1).all()
        for row, mask in zip(batch["example_ids"], batch["attention_mask"], strict=True):
            assert row < 0 or mask.sum() == lengths[row]
    if not buckets:
        assert seen[: len(lengths)].tolist() == list(range(len(lengths)))


def test_held_out_padding_counts_the_rows_that_fill_up():
    found = heldout([16, 3, 16], batch_size=2)
    assert [found.batch(s)["example_ids"].tolist() for s in (0, 1)] == [[1, 0], [2, -1]]
    assert found.padding_share() == 1 - 35 / 64
    assert found.describe() == "3 rows, 45% padding"


@pytest.mark.parametrize("kind", EXAMPLES)
def test_shapes_are_those_of_batches(kind):
    rows = encode(EXAMPLES[kind], TOKENIZER, SETTINGS[kind])
    batch = batches(rows, batch_size=3, longest=16, buckets=0).batch(0)
    shapes = {name: array.shape for name, array in batch.items()}
    assert shapes == batch_shapes(kind, 3, 16, rows.choices)
    assert heldout(rows, batch_size=3, longest=16).batch(0).keys() == shapes.keys()
    floats = {name for name, array in batch.items() if array.dtype != np.int32}
    assert floats == ({"labels"} if kind == "regression" else set())


def test_number_of_steps():
    # run_classifier.py: int(len(train_examples) / train_batch_size * num_train_epochs)
    assert num_steps(3668, 32, 3.0) == 343
    assert num_steps(10, 4, 2.5) == 6
    assert num_steps(3, 32, 1) == 1
