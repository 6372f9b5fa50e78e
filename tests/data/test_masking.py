import hashlib
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from reference_masks import (
    CLS,
    KEY,
    LENGTH,
    MASK,
    PREDICTIONS,
    SEP,
    TOKENIZER,
    VOCAB,
    assert_as_alone,
    assert_same,
    candidates_of,
    chosen_mask,
    draws,
    greedy_words,
    make_batch,
    pack,
    run,
    spans,
    stretches,
    within_four_sigma,
)

from bertjax.config import Masking
from bertjax.data import mask_units, masking
from bertjax.data.mask_counts import largest_counts
from bertjax.data.masking import mask_tokens
from bertjax.errors import UsageError

SIZE = 4000
BATCH = make_batch(SIZE)  # one shape for all tests, because compiling takes the time here
UNITS = ("token", "whole_word", "span")
FAIRSEQ = {"rounding": "probabilistic", "choose_special": True, "random_special": False}


def wanted_of(batch):
    counts = largest_counts(LENGTH, Masking(), PREDICTIONS)
    return counts[batch["attention_mask"].sum(1)]


def replaced(masked):
    """The tokens at the predictions, `(new, old)`."""
    used = masked["masked_lm_weights"] == 1
    new = np.take_along_axis(masked["input_ids"], masked["masked_lm_positions"], 1)
    return new[used], masked["masked_lm_ids"][used]


def repeated(size):
    """A batch that repeats the longest example under many ids."""
    batch = {name: np.repeat(values[:1], size, 0) for name, values in BATCH.items()}
    return batch | {"example_ids": np.arange(size, dtype=np.int32)}


def test_number_of_predictions_rounds_a_half_to_the_even_side():
    counts = largest_counts(128, Masking(), 20)
    # 1.5 -> 2, 4.5 -> 4, 7.5 -> 8, 10.5 -> 10, 13.5 -> 14; at least 1; at most 20.
    assert counts[[0, 5, 10, 30, 50, 70, 90, 128]].tolist() == [1, 1, 2, 4, 8, 10, 14, 19]
    assert largest_counts(512, Masking(), 20)[512] == 20
    assert largest_counts(512, Masking(), 77)[512] == 77
    counts = largest_counts(128, Masking(rounding="probabilistic"), 20)
    # 0, .75, 3, 4.5, 19.2, all but the whole ones up
    assert counts[[0, 5, 20, 30, 128]].tolist() == [0, 1, 3, 5, 20]


@pytest.mark.parametrize("unit", UNITS)
def test_form_of_a_masked_batch(unit):
    masked = run(BATCH, unit=unit)
    weights, positions = masked["masked_lm_weights"], masked["masked_lm_positions"]
    assert weights.dtype == np.float32
    assert weights.shape == positions.shape == masked["masked_lm_ids"].shape == (SIZE, PREDICTIONS)
    assert set(np.unique(weights)) <= {0.0, 1.0}
    assert (np.diff(weights) <= 0).all()
    used = weights == 1
    assert (np.diff(positions)[used[:, 1:]] > 0).all()
    assert (positions[~used] == 0).all()
    assert (masked["masked_lm_ids"][~used] == 0).all()
    labels = np.take_along_axis(BATCH["input_ids"], positions, 1)
    np.testing.assert_array_equal(masked["masked_lm_ids"][used], labels[used])
    chosen = chosen_mask(masked)
    assert not (chosen & ~candidates_of(BATCH)).any()
    np.testing.assert_array_equal(masked["input_ids"][~chosen], BATCH["input_ids"][~chosen])
    for name in BATCH.keys() - {"input_ids"}:
        np.testing.assert_array_equal(masked[name], BATCH[name])
    taken, wanted = weights.sum(1), wanted_of(BATCH)
    assert (taken <= wanted).all() if unit == "whole_word" else (taken == wanted).all()


def test_no_more_predictions_than_tokens_and_none_in_padding_rows():
    batch = make_batch(8, length=16)
    batch["example_ids"][3:5] = -1
    masked = run(batch, predictions=13, masked_lm_prob=1.0, unit="span")
    expected = candidates_of(batch) & (batch["example_ids"] >= 0)[:, None]
    np.testing.assert_array_equal(chosen_mask(masked), expected)
    np.testing.assert_array_equal(masked["input_ids"][3:5], batch["input_ids"][3:5])


# ---- replacements


def test_replacement_shares():
    new, old = replaced(run(BATCH))
    # A random id is sometimes [MASK] or the token itself: 0.1 / V each.
    assert within_four_sigma((new == MASK).sum(), len(new), 0.8 + 0.1 / VOCAB)
    assert within_four_sigma((new == old).sum(), len(new), 0.1 + 0.1 / VOCAB)
    counts = np.bincount(new[(new != MASK) & (new != old)], minlength=VOCAB)
    assert len(counts) == VOCAB
    for special in (0, CLS, SEP, VOCAB - 1):  # the whole vocabulary, and no more
        assert within_four_sigma(counts[special], len(new), 0.1 / VOCAB)


def test_the_draws_of_one_sequence_are_independent():
    """[MASK] at one prediction is independent of [MASK] at the next."""
    masked = run(BATCH)
    new = np.take_along_axis(masked["input_ids"], masked["masked_lm_positions"], 1)
    both = masked["masked_lm_weights"][:, 1] == 1
    pair = (new[both, 0] == MASK) & (new[both, 1] == MASK)
    assert within_four_sigma(pair.sum(), both.sum(), (0.8 + 0.1 / VOCAB) ** 2)


def test_a_run_of_a_span_is_replaced_as_one():
    masked = run(BATCH, unit="span")
    kinds, accidents = [], 0
    for row, chosen in enumerate(chosen_mask(masked)):
        places = np.flatnonzero(chosen)
        for place in np.split(places, np.flatnonzero(np.diff(places) > 1) + 1):
            new, old = masked["input_ids"][row, place], BATCH["input_ids"][row, place]
            kinds.append("mask" if (new == MASK).all() else "kept" if (new == old).all() else "id")
            if kinds[-1] == "id":
                accidents += ((new == MASK) | (new == old)).sum()
    # A random id is sometimes [MASK] or the token itself: 1 / V each.
    for kind, p in (("mask", 0.8), ("kept", 0.1), ("id", 0.1)):
        assert within_four_sigma(kinds.count(kind), len(kinds), p)
    assert accidents < 0.1 * kinds.count("id")
    assert len(kinds) < 0.6 * masked["masked_lm_weights"].sum()  # runs, not single tokens


def test_a_run_ends_with_its_example():
    places = jnp.array([1, 2, 3, 4, 6, 8, 8])
    shared = masking._first_of_run(jnp.arange(7), places, jnp.array([0, 1, 2, 0, 1, 2, 3, 4]))
    assert shared[:5].tolist() == [0, 0, 2, 2, 4]  # the last two slots are not used


# ---- choice


def test_positions_are_uniform():
    batch = repeated(SIZE)
    candidates = candidates_of(batch)[0]
    chosen = chosen_mask(run(batch))
    share = 10 / candidates.sum()  # round(0.15 * 64)
    counts = chosen[:, candidates].sum(0)
    deviation = (SIZE * share * (1 - share)) ** 0.5
    assert (abs(counts - SIZE * share) < 4.5 * deviation).all()  # the largest of 61
    # Pairs too: chosen without replacement.
    pairs = chosen[:, candidates].T.astype(int) @ chosen[:, candidates]
    p = share * 9 / (candidates.sum() - 1)
    off = pairs[~np.eye(len(pairs), dtype=bool)]
    assert (abs(off - SIZE * p) < 5.5 * (SIZE * p * (1 - p)) ** 0.5).all()  # of 1830


def test_the_rule_of_fairseq():
    """Numbers, places and random ids agree with fairseq's rule on NumPy's own draws.

    `floor(p * n + u)` of all n tokens, special tokens included, are taken without replacement.
    Random ids are uniform over the ids that are not special (fairseq would draw <mask> too).
    """
    rng = np.random.default_rng(5)
    lengths = BATCH["attention_mask"].sum(1)
    theirs = np.zeros_like(BATCH["attention_mask"])
    for row, n in enumerate(lengths):
        theirs[row, rng.choice(n, int(0.15 * n + rng.random()), replace=False)] = 1
    masked = run(BATCH, **FAIRSEQ)
    ours = chosen_mask(masked)
    numbers = ours.sum(1)
    exact = 0.15 * lengths
    assert ((numbers == np.floor(exact)) | (numbers == np.ceil(exact))).all()
    fraction = exact - np.floor(exact)
    deviation = (fraction * (1 - fraction)).sum() ** 0.5
    for total in (numbers.sum(), theirs.sum()):
        assert abs(total - exact.sum()) < 4 * deviation
    special = (BATCH["input_ids"] == CLS) | (BATCH["input_ids"] == SEP)
    for places in (special, np.arange(LENGTH) == np.zeros((SIZE, 1)), np.arange(LENGTH) < 20):
        a, b = ((chosen & places).sum() for chosen in (ours, theirs))
        assert abs(a - b) < 4 * (a + b) ** 0.5
    new, old = replaced(masked)
    random = new[(new != MASK) & (new != old)]
    counts = np.bincount(random, minlength=VOCAB)
    allowed = np.setdiff1d(np.arange(VOCAB), TOKENIZER.special_ids)
    assert counts.sum() == counts[allowed].sum()
    assert (
        abs(counts[allowed] - counts[allowed].mean()) < 4.5 * counts[allowed].mean() ** 0.5
    ).all()
    # A special token becomes one of the three as well.
    at_special = np.isin(old, (CLS, SEP))
    assert within_four_sigma((new[at_special] == MASK).sum(), at_special.sum(), 0.8)


@pytest.mark.parametrize("unit", UNITS)
def test_mask_depends_on_key_epoch_and_id_alone(unit):
    masked = run(BATCH, unit=unit)
    order = np.random.default_rng(0).permutation(SIZE)
    shuffled = run({n: v[order] for n, v in BATCH.items()}, unit=unit)
    assert_same(shuffled, {n: v[order] for n, v in masked.items()})
    for other in (
        run(BATCH | {"mask_epochs": BATCH["mask_epochs"] + 1}, unit=unit),
        run(BATCH, key=jax.random.fold_in(KEY, 1), unit=unit),
        run(BATCH | {"example_ids": BATCH["example_ids"] + SIZE}, unit=unit),
    ):
        same = (chosen_mask(other) == chosen_mask(masked)).all(1)
        assert same[BATCH["attention_mask"].sum(1) > 32].mean() < 0.1


# ---- whole words and spans


def examples(rows):
    """`(row, words of each stretch, order, span draws, wanted)` of the first examples."""
    wanted = wanted_of(BATCH)
    for row in range(rows):
        text = stretches(BATCH["input_ids"][row], BATCH["attention_mask"][row].sum())
        yield row, text, *draws(BATCH, row), wanted[row]


def test_words_lie_between_special_tokens():
    """A special token is a word of its own, and the piece behind it begins a word, cut or not."""
    ids = np.array([CLS, 70, 5, 60, 61, SEP, 80, SEP, 0, CLS, 9, SEP])
    special = (ids == CLS) | (ids == SEP)
    for candidates in (ids > 0, (ids > 0) & ~special):
        words = mask_units.number_words(ids < 60, special, candidates)
        assert words.word.tolist() == [0, 1, 2, 2, 2, 3, 4, 5, 6, 7, 8, 9]
        assert words.stretch.tolist() == [0, 1, 1, 1, 1, 2, 3, 4, 5, 6, 7, 8]


def test_whole_words_follow_the_plain_loop():
    chosen = chosen_mask(run(BATCH, unit="whole_word"))
    skipped = 0
    for row, text, order, _, wanted in examples(400):
        expected = greedy_words([word for words in text for word in words], order, wanted)
        assert np.flatnonzero(chosen[row]).tolist() == expected
        skipped += len(expected) < wanted
    assert skipped  # some word did not fit, so skipping was tested


def test_spans_follow_the_plain_loop():
    chosen = chosen_mask(run(BATCH, unit="span"))
    lengths = []
    for row, text, order, draw, wanted in examples(400):
        expected, drawn = spans(text, order, draw / 2**32, wanted)
        assert np.flatnonzero(chosen[row]).tolist() == expected
        lengths += drawn
    total = sum(0.8**k for k in range(10))
    for number, count in enumerate(np.bincount(lengths, minlength=11)[1:]):
        assert within_four_sigma(count, len(lengths), 0.8**number / total)


def test_span_lengths_of_the_paper():
    """p = 0.2 and at most 10 words: 3.8 words on average (Joshi et al. 2020, section 3.1)."""
    even = np.arange(1 << 16, dtype=np.uint32) << 16
    lengths = np.asarray(mask_units.span_lengths(even, 0.2, 10))
    assert lengths.mean() == pytest.approx(3.8, abs=0.01)
    shares = np.bincount(lengths)[1:] / len(lengths)
    assert len(shares) == 10
    assert shares[1:] / shares[:-1] == pytest.approx(0.8, abs=1e-3)
    assert (mask_units.span_lengths(even, 0.2, 1) == 1).all()
    assert (mask_units.span_lengths(even, 1 - 1e-9, 10) == 1).all()


def test_where_every_word_has_one_token_whole_words_are_tokens():
    batch = make_batch(SIZE, continuations=0.0)
    assert_same(run(batch, unit="whole_word"), run(batch))


# ---- several examples a row, sharded over devices


@pytest.mark.parametrize(
    ("per_row", "fields"),
    [
        (1, {"unit": "token"}),
        (1, {"unit": "span"}),
        (4, {"unit": "token"}),
        (4, {"unit": "whole_word"}),
        (4, {"unit": "span"} | FAIRSEQ),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else value["unit"],
)
def test_shards_and_packed_rows_have_the_same_masks_without_communication(per_row, fields):
    """The compiled program shows that every device makes the bits of its own rows."""
    alone = run(BATCH, **fields)
    size = 232  # 29 rows a device; no other dimension is 232 or 29
    batch = {name: values[:size] for name, values in BATCH.items()}
    if per_row > 1:
        batch = pack(BATCH, size, per_row, np.random.default_rng(0))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows, copies = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    step = jax.jit(
        lambda key, batch: mask_tokens(key, batch, TOKENIZER, Masking(**fields), PREDICTIONS),
        in_shardings=(copies, rows),
        out_shardings=rows,
    )
    compiled = step.lower(KEY, batch).compile()
    text = compiled.as_text()
    for collective in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert collective not in text
    assert "[29,64]" in text
    assert "[232," not in text
    masked = jax.tree.map(np.asarray, compiled(KEY, batch))
    if per_row > 1:
        assert_as_alone(masked, alone)
    else:
        assert_same(masked, {name: values[:size] for name, values in alone.items()})


@pytest.mark.parametrize("unit", UNITS)
def test_an_added_special_token_is_not_predicted(unit):
    """Unless BERT's special tokens may be predicted too."""
    marker = 50
    tokenizer = SimpleNamespace(**vars(TOKENIZER) | {"marker_ids": (marker,)})
    batch = {name: values[:200] for name, values in BATCH.items()}
    assert (batch["input_ids"] == marker).sum() > 20
    masked = mask_tokens(KEY, batch, tokenizer, Masking(unit=unit), PREDICTIONS)
    used = np.asarray(masked["masked_lm_weights"]) == 1
    assert used.sum() > 500
    assert marker not in np.asarray(masked["masked_lm_ids"])[used]
    chosen = Masking(unit=unit, choose_special=True)
    masked = mask_tokens(KEY, batch, tokenizer, chosen, PREDICTIONS)
    assert marker in np.asarray(masked["masked_lm_ids"])


def test_more_predictions_than_places_are_refused_in_one_line():
    with pytest.raises(UsageError, match=rf"=999: a row has {LENGTH} places; use at most {LENGTH}"):
        mask_tokens(KEY, BATCH, TOKENIZER, Masking(), 999)


@pytest.mark.parametrize(
    ("fields", "alone", "packed"),
    [
        ({}, "3eb0d1bf541ade7d", "4841d1c9409f2cbe"),
        ({"unit": "whole_word"}, "c8764f8a43e104a0", "14664889cd0d8c35"),
        ({"unit": "span"}, "7cea20d956a79819", "aa53cda822863b5b"),
        (FAIRSEQ, "4e39b98671f89f83", None),
    ],
    ids=["token", "whole_word", "span", "fairseq"],
)
def test_masks_of_before(fields, alone, packed):
    """The bits are those of commit 1a94006, before weights and budgets of a batch existed."""
    few = make_batch(300)
    batches = {alone: few}
    if packed:
        batches[packed] = pack(few, 80, 4, np.random.default_rng(0))
    for expected, batch in batches.items():
        masked, found = run(batch, **fields), hashlib.sha256()
        for name in ("input_ids", "masked_lm_positions", "masked_lm_ids", "masked_lm_weights"):
            found.update(np.ascontiguousarray(masked[name]).tobytes())
        assert found.hexdigest()[:16] == expected
