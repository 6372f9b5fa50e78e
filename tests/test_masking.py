import functools
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from bertjax.config import Masking
from bertjax.data import masking
from bertjax.data.masking import mask_tokens, prediction_counts

CLS, SEP, MASK, VOCAB = 1, 2, 3, 101
# Ids from 60 on continue a word.
TOKENIZER = SimpleNamespace(
    cls_id=CLS,
    sep_id=SEP,
    mask_id=MASK,
    vocab_size=VOCAB,
    word_starts=lambda: np.arange(VOCAB) < 60,
)
KEY = jax.random.key(7, impl="threefry2x32")


def make_batch(size, length=64, seed=0, epoch=0, continuations=0.4):
    rng = np.random.default_rng(seed)
    shape = size, length
    continues = rng.random(shape) < continuations
    ids = np.where(continues, rng.integers(60, VOCAB, shape), rng.integers(4, 60, shape))
    attended = rng.integers(length // 2, length + 1, size)
    attended[0] = length
    middle = rng.integers(2, attended - 2)
    rows, columns = np.arange(size), np.arange(length)
    ids[:, 0], ids[rows, middle], ids[rows, attended - 1] = CLS, SEP, SEP
    attention_mask = columns < attended[:, None]
    batch = {
        "input_ids": ids * attention_mask,
        "token_type_ids": attention_mask & (columns > middle[:, None]),
        "attention_mask": attention_mask,
        "next_sentence_labels": rng.integers(0, 2, size),
        "example_ids": np.arange(size),
        "epochs": np.full(size, epoch),
    }
    return {name: values.astype(np.int32) for name, values in batch.items()}


@functools.partial(jax.jit, static_argnums=(2, 3))
def _masked(key, batch, fields, predictions):
    return mask_tokens(key, batch, TOKENIZER, fields, predictions)


def run(batch, key=KEY, predictions=12, **fields):
    return jax.tree.map(np.asarray, _masked(key, batch, Masking(**fields), predictions))


def chosen_mask(masked):
    """bool [B, L]: the positions to predict."""
    result = np.zeros(masked["input_ids"].shape, bool)
    row, slot = np.nonzero(masked["masked_lm_weights"])
    result[row, masked["masked_lm_positions"][row, slot]] = True
    return result


def candidates_of(batch):
    ids = batch["input_ids"]
    return (batch["attention_mask"] == 1) & (ids != CLS) & (ids != SEP)


def four_sigma(count, total, p):
    return abs(count / total - p) < 4 * (p * (1 - p) / total) ** 0.5


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_number_of_predictions_rounds_a_half_to_the_even_side():
    counts = prediction_counts(128, 0.15, 20)
    # 1.5 -> 2, 4.5 -> 4, 7.5 -> 8, 10.5 -> 10, 13.5 -> 14; at least 1; at most 20.
    assert counts[[0, 5, 10, 30, 50, 70, 90, 128]].tolist() == [1, 1, 2, 4, 8, 10, 14, 19]
    assert prediction_counts(512, 0.15, 20)[512] == 20
    assert prediction_counts(512, 0.15, 77)[512] == 77


@pytest.mark.parametrize("whole_word", [False, True])
def test_form_of_a_masked_batch(whole_word):
    batch = make_batch(200)
    masked = run(batch, whole_word=whole_word)
    weights, positions = masked["masked_lm_weights"], masked["masked_lm_positions"]
    assert weights.dtype == np.float32
    assert weights.shape == positions.shape == masked["masked_lm_ids"].shape == (200, 12)
    assert set(np.unique(weights)) <= {0.0, 1.0}
    assert (np.diff(weights) <= 0).all()
    used = weights == 1
    assert (np.diff(positions)[used[:, 1:]] > 0).all()
    assert (positions[~used] == 0).all()
    assert (masked["masked_lm_ids"][~used] == 0).all()
    labels = np.take_along_axis(batch["input_ids"], positions, 1)
    np.testing.assert_array_equal(masked["masked_lm_ids"][used], labels[used])
    chosen = chosen_mask(masked)
    assert not (chosen & ~candidates_of(batch)).any()
    np.testing.assert_array_equal(masked["input_ids"][~chosen], batch["input_ids"][~chosen])
    for name in batch.keys() - {"input_ids"}:
        np.testing.assert_array_equal(masked[name], batch[name])
    wanted = prediction_counts(64, 0.15, 12)[batch["attention_mask"].sum(1)]
    taken = weights.sum(1)
    assert (taken <= wanted).all() if whole_word else (taken == wanted).all()


def test_no_more_predictions_than_tokens_and_none_in_padding_rows():
    batch = make_batch(8, length=16)
    masked = run(batch, predictions=13, masked_lm_prob=1.0)
    np.testing.assert_array_equal(chosen_mask(masked), candidates_of(batch))
    batch["example_ids"][3:5] = -1
    masked = run(batch, predictions=13)
    assert (masked["masked_lm_weights"].sum(1) > 0).tolist() == [True] * 3 + [False] * 2 + [
        True
    ] * 3
    np.testing.assert_array_equal(masked["input_ids"][3:5], batch["input_ids"][3:5])


@pytest.mark.parametrize("whole_word", [False, True])
def test_replacement_shares(whole_word):
    batch = make_batch(4000)
    masked = run(batch, whole_word=whole_word)
    used = masked["masked_lm_weights"] == 1
    new = np.take_along_axis(masked["input_ids"], masked["masked_lm_positions"], 1)[used]
    old = masked["masked_lm_ids"][used]
    total = used.sum()
    # A random id hits [MASK] or the token itself now and then: 0.1 / V each.
    assert four_sigma((new == MASK).sum(), total, 0.8 + 0.1 / VOCAB)
    assert four_sigma((new == old).sum(), total, 0.1 + 0.1 / VOCAB)
    random = new[(new != MASK) & (new != old)]
    counts = np.bincount(random, minlength=VOCAB)
    assert len(counts) == VOCAB
    for special in (0, CLS, SEP, VOCAB - 1):  # the whole vocabulary, and nothing beyond it
        assert four_sigma(counts[special], total, 0.1 / VOCAB)


def test_the_draws_of_one_sequence_are_independent():
    """[MASK] at one prediction says nothing of [MASK] at the next."""
    masked = run(make_batch(4000))
    new = np.take_along_axis(masked["input_ids"], masked["masked_lm_positions"], 1)
    both = masked["masked_lm_weights"][:, 1] == 1
    pair = (new[both, 0] == MASK) & (new[both, 1] == MASK)
    assert four_sigma(pair.sum(), both.sum(), (0.8 + 0.1 / VOCAB) ** 2)


def test_positions_are_uniform():
    size = 4000
    batch = make_batch(1)
    batch = {name: np.repeat(values, size, 0) for name, values in batch.items()}
    batch["example_ids"] = np.arange(size, dtype=np.int32)
    candidates = candidates_of(batch)[0]
    chosen = chosen_mask(run(batch))
    share = 10 / candidates.sum()  # round(0.15 * 64)
    counts = chosen[:, candidates].sum(0)
    deviation = (size * share * (1 - share)) ** 0.5
    assert (abs(counts - size * share) < 4.5 * deviation).all()  # the largest of 61
    # Pairs too: chosen without replacement.
    pairs = chosen[:, candidates].T.astype(int) @ chosen[:, candidates]
    p = share * 9 / (candidates.sum() - 1)
    off = pairs[~np.eye(len(pairs), dtype=bool)]
    assert (abs(off - size * p) < 5.5 * (size * p * (1 - p)) ** 0.5).all()  # of 1830


@pytest.mark.parametrize("whole_word", [False, True])
def test_mask_depends_on_key_epoch_and_id_alone(whole_word):
    batch = make_batch(48)
    masked = run(batch, whole_word=whole_word)
    order = np.random.default_rng(0).permutation(48)
    shuffled = run({n: v[order] for n, v in batch.items()}, whole_word=whole_word)
    assert_same(shuffled, {n: v[order] for n, v in masked.items()})
    rows = slice(16, 24)  # what one of several processes holds
    part = run({n: v[rows] for n, v in batch.items()}, whole_word=whole_word)
    assert_same(part, {n: v[rows] for n, v in masked.items()})
    for other in (
        run(make_batch(48, epoch=1), whole_word=whole_word),
        run(batch, key=jax.random.fold_in(KEY, 1), whole_word=whole_word),
        run(batch | {"example_ids": batch["example_ids"] + 48}, whole_word=whole_word),
    ):
        same = (chosen_mask(other) == chosen_mask(masked)).all(1)
        assert same.mean() < 0.1


def greedy_words(batch, row, order, wanted):
    """The rule in a plain loop: `order` holds first positions of words."""
    candidates, ids = candidates_of(batch)[row], batch["input_ids"][row]
    words = {}
    for position in np.flatnonzero(candidates):
        if ids[position] < 60 or not candidates[position - 1]:
            start = position
        words.setdefault(start, []).append(position)
    chosen = []
    for start in order:
        if len(chosen) + len(words[start]) <= wanted:
            chosen += words[start]
    return words, sorted(chosen)


def test_whole_words_only():
    batch = make_batch(500, continuations=0.8)
    masked = run(batch, whole_word=True)
    wanted = prediction_counts(64, 0.15, 12)[batch["attention_mask"].sum(1)]
    chosen = chosen_mask(masked)
    for row in range(500):
        words, _ = greedy_words(batch, row, [], 0)
        taken = [chosen[row, word] for word in words.values()]
        assert all(part.all() or not part.any() for part in taken)
        missing = wanted[row] - chosen[row].sum()
        # The rule ends only when no word that is left fits.
        assert all(len(part) > missing for part in taken if not part.any())
    assert (chosen.sum(1) < wanted).any()  # a skipped word leaves fewer, so this was tried


def test_whole_words_follow_the_order_of_the_draws():
    """With the sort's own order of words, the plain loop takes the same ones."""
    size, length = 48, 64
    batch = make_batch(size, continuations=0.8)
    wanted = prediction_counts(length, 0.15, 12)[batch["attention_mask"].sum(1)]
    chosen = chosen_mask(run(batch, whole_word=True))
    bits = jax.vmap(masking._example_bits, (None, 0, 0, None))(
        KEY, batch["epochs"], batch["example_ids"], length + 2 * 12
    )
    starts = [sorted(greedy_words(batch, row, [], 0)[0]) for row in range(size)]
    valid = np.arange(length) < np.array([[len(s)] for s in starts])
    orders = np.asarray(jax.vmap(masking._shuffle)(bits[:, :length], valid))
    for row in range(size):
        order = orders[row, : len(starts[row])]
        assert sorted(order) == list(range(len(starts[row])))
        assert (orders[row, len(starts[row]) :] == length).all()
        _, expected = greedy_words(batch, row, [starts[row][i] for i in order], wanted[row])
        assert np.flatnonzero(chosen[row]).tolist() == expected


def test_where_every_word_has_one_token_whole_words_are_tokens():
    batch = make_batch(48, continuations=0.0)
    weights = run(batch, whole_word=True)["masked_lm_weights"]
    np.testing.assert_array_equal(weights, run(batch)["masked_lm_weights"])
    chosen = chosen_mask(run(batch, whole_word=True))
    assert not (chosen & ~candidates_of(batch)).any()


# ---- sharded over devices


@pytest.mark.parametrize("whole_word", [False, True])
def test_sharded_masks_are_the_same_and_need_no_communication(whole_word):
    """Every device makes the bits of its own rows: read in the compiled program."""
    size = 56  # 7 rows a device; no other dimension is 56
    batch = make_batch(size)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows, copies = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    step = jax.jit(
        lambda key, batch: mask_tokens(key, batch, TOKENIZER, Masking(whole_word=whole_word), 12),
        in_shardings=(copies, rows),
        out_shardings=rows,
    )
    compiled = step.lower(KEY, batch).compile().as_text()
    for collective in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert collective not in compiled
    assert "[7,64]" in compiled
    assert "[56," not in compiled
    assert_same(jax.tree.map(np.asarray, step(KEY, batch)), run(batch, whole_word=whole_word))
