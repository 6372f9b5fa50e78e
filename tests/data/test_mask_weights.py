"""Tokens are drawn by the counts of their ids: the published rule of DistilBERT, as a race.

The reference draws one token at a time in float64, from the same bits as `masking`.
"""

# ruff: noqa: F811 (a fixture of another module)

import dataclasses
import itertools
import json
from collections import Counter
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from corpora import VOCAB as WORDS
from corpora import change, config, corpus, write_jsonl  # noqa: F401 (a fixture)
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
    chosen_mask,
    draws,
    make_batch,
    pack,
    within_four_sigma,
)

from bertjax import pretraining, sharding, train
from bertjax.config import Config, Masking, Phase, checks, stages
from bertjax.data import mask_counts, mask_units, mask_weights, prepare, store
from bertjax.data.masking import mask_tokens
from bertjax.data.tokenize import share
from bertjax.errors import DataError, UsageError

SIZE = 160
BATCH = make_batch(SIZE)
BATCH["input_ids"][:, 3] = 0  # a special id in the text
BATCH["input_ids"][1::2, 4] = MASK
COUNTS = np.random.default_rng(1).zipf(1.3, VOCAB).clip(0, 10**7)
COUNTS[70:74] = 0
WEIGHTS = mask_weights.smoothed(COUNTS, 0.7)
SPECIAL = [0, CLS, SEP, MASK, 50]
ALL = LENGTH - 3  # enough predictions for any row
RULES = [
    {"smoothing": 0.7},
    {"budget": "batch"},
    {"smoothing": 0.7, "budget": "batch"},
]


def run(batch, predictions=ALL, weights=WEIGHTS, components=1, **fields):
    weights = weights if fields.get("smoothing") else None
    masked = jax.jit(
        lambda batch: mask_tokens(
            KEY, batch, TOKENIZER, Masking(**fields), predictions, components, weights
        )
    )(batch)
    return jax.tree.map(np.asarray, masked)


def budget(tokens):
    return -(-3 * int(tokens) // 20)  # ceil(0.15 * tokens) in integers


def candidates_of(batch):
    return (batch["attention_mask"] == 1) & ~np.isin(batch["input_ids"], SPECIAL)


# ---- weights and counts


def test_weights_of_the_published_rule():
    """An id that was never seen has the weight of an id seen once."""
    weights = mask_weights.smoothed(np.array([0, 1, 16, 10**9]), 0.75)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, [1, 1, 1 / 8, 10**-6.75], rtol=1e-6)


def test_a_mixture_counts_its_components_as_often_as_they_are_read():
    a, b = np.array([6, 2, 0]), np.array([1, 0, 1])  # 8 and 2 tokens
    np.testing.assert_array_equal(mask_weights.mixed([a], [7.0]), a)
    np.testing.assert_allclose(mask_weights.mixed([a, b], [4.0, 1.0]), a + b)
    # Each corpus gives half of the 10 tokens: 5 in the shares of the first, 5 of the second.
    np.testing.assert_allclose(mask_weights.mixed([a, b], [1, 1]), a * 5 / 8 + b * 5 / 2)


def by_hand(texts):
    """The tokens of corpora.py's text: words, full stops, and numbers digit by digit."""
    found = Counter()
    for text in texts:
        for word in text.lower().replace(".", " .").split():
            found.update([word[0], *(f"##{d}" for d in word[1:])] if word.isdigit() else [word])
    return np.array([found[word] for word in WORDS])


def test_prepare_counts_the_training_text_once(config, tmp_path):
    texts = corpus(400)
    texts += texts[:7]  # repeated documents are read twice and counted twice
    write_jsonl(tmp_path / "corpus.jsonl", texts)
    manifest = prepare.prepare(config, tmp_path / "w", progress=False)
    counts = store.read_unigrams(tmp_path / "w" / "store")
    training = [t for t in texts if share(t) >= config.data.heldout_fraction]
    assert 300 < len(training) < 400
    np.testing.assert_array_equal(counts, by_hand(training))
    assert counts.sum() == manifest["splits"]["train"]["tokens"]
    opened = store.open_store(tmp_path / "w" / "store", "train")
    np.testing.assert_array_equal(counts, np.bincount(opened.tokens, minlength=len(WORDS)))


def test_counts_are_kept_whole_or_refused(config, tmp_path):
    prepare.prepare(config, tmp_path / "w", progress=False)
    place = tmp_path / "w" / "store"
    smooth = change(config, masking={"smoothing": 0.7})
    expected = mask_weights.smoothed(store.read_unigrams(place), 0.7)
    np.testing.assert_array_equal(mask_weights.read(smooth, tmp_path / "w"), expected)
    assert mask_weights.read(config, tmp_path / "w") is None
    path = place / "train" / "unigrams.bin"
    data = path.read_bytes()
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(DataError, match=r"train/unigrams.bin: bytes differ"):
        store.verify(place)
    path.write_bytes(data[:-8])
    with pytest.raises(DataError, match=rf"{len(data) - 8} bytes, the manifest says {len(data)}"):
        mask_weights.read(smooth, tmp_path / "w")
    manifest = json.loads((place / "manifest.json").read_text())
    del manifest["files"]["train/unigrams.bin"]  # like a store of an earlier version
    (place / "manifest.json").write_text(json.dumps(manifest))
    path.unlink()
    store.verify(place)
    with pytest.raises(DataError) as caught:
        pretraining.open(smooth, tmp_path / "w", build=False).prepare(stages.of(smooth)[0])
    assert str(caught.value) == (
        f"{place}: has no token counts, which config.masking.smoothing=0.7 needs (an earlier "
        "version made it); run bertjax prepare again, or set the field to 0"
    )
    pretraining.open(config, tmp_path / "w", build=False).prepare(stages.of(config)[0])


def test_a_pretraining_masks_by_the_counts_of_its_store(config, tmp_path):
    rule = {"smoothing": 0.7, "budget": "batch"}
    config = change(config, masking=rule)
    job = pretraining.open(config, tmp_path / "w", build=True)
    stage = stages.of(job.config)[0]
    batch = job.batches(stage).batch(0)
    prepared = job.prepare(stage)
    weights = mask_weights.smoothed(store.read_unigrams(tmp_path / "w" / "store"), 0.7)

    def mask(batch):
        key = prepared.args[0]
        return mask_tokens(key, batch, job.tokenizer, Masking(**rule), 20, weights=weights)

    masked, expected = jax.jit(prepared)(batch), jax.jit(mask)(batch)
    assert_same(*(jax.tree.map(np.asarray, each) for each in (masked, expected)))
    assert masked["masked_lm_weights"].sum() == budget(batch["attention_mask"].sum())


def test_held_out_examples_can_have_a_share_of_predictions_of_their_own(config, tmp_path):
    config = change(config, masking={"masked_lm_prob": 0.4}, evaluation={"masked_lm_prob": 0.15})
    job = pretraining.open(config, tmp_path / "w", build=True)
    stage = stages.of(job.config)[0]
    batch = job.batches(stage).batch(0)
    training, heldout = (
        jax.jit(job.prepare(stage, heldout=heldout))(batch)["masked_lm_weights"].sum(-1)
        for heldout in (False, True)
    )
    tokens = batch["attention_mask"].sum(-1)
    most = stage.phase.max_predictions_per_seq
    np.testing.assert_array_equal(training, np.minimum(most, [round(0.4 * n) for n in tokens]))
    np.testing.assert_array_equal(heldout, np.minimum(most, [round(0.15 * n) for n in tokens]))
    assert heldout.sum() < training.sum()


def test_held_out_examples_have_no_more_predictions_than_fit():
    config = change(Config(), evaluation={"masked_lm_prob": 0.2})
    with pytest.raises(UsageError) as caught:
        checks.check(config)
    assert str(caught.value) == (
        "config.evaluation.masked_lm_prob=0.2: rows have room for the predictions of training "
        "alone; set it to at most masking.masked_lm_prob=0.15"
    )


# ---- the race


def waits(bits, ids, weights):
    """The arrival times of tokens in float64: -log(u) / w, from the bits of `draws`."""
    u = 1 - (np.array(bits, np.float64) + 1) / 2**32
    return -np.log(u) / (1.0 if weights is None else weights[ids].astype(np.float64))


def test_the_logarithm_of_integers():
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32 - 1, 10**5) >> rng.integers(0, 32, 10**5)
    bits = np.unique([*bits, *(2**32 - 2 - bits), 0, 2**31 - 1, 2**31, 2**32 - 2])
    found = np.asarray(mask_weights._minus_log(jnp.asarray(bits, jnp.uint32))) / 2**26
    exact = -np.log2(1 - (bits + 1.0) / 2**32)
    assert (np.diff(found) >= 0).all()
    assert (abs(found - exact) <= exact / 4000 + 2**-25).all()
    assert np.asarray(mask_weights._minus_log(jnp.uint32([2**32 - 1]))) == 32 << 26  # u is not 0


def test_the_order_is_that_of_log_u_over_w():
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32 - 1, 10**5).astype(np.uint32)
    weights = (10.0 ** -rng.uniform(0, 8, 10**5)).astype(np.float32)
    ids = np.arange(10**5)
    order = np.argsort(np.asarray(mask_weights.arrivals(bits, ids, weights)), kind="stable")
    times = waits(bits, ids, weights)[order]
    within = times / 2000 + 2.0**-26 / weights[order]  # the steps of the integers
    assert (times + within >= np.maximum.accumulate(times - within)).all()
    # Equal weights leave the order of the draws.
    same = np.full(10**5, 0.01, np.float32)
    sorted_bits = bits[np.argsort(np.asarray(mask_weights.arrivals(bits, ids, same)))]
    assert (np.diff(sorted_bits.astype(np.int64)) > -(2**10)).all()


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("predictions", [ALL, 9])
def test_the_first_to_arrive_are_chosen(rule, predictions):
    """Every choice agrees with float64, except for tokens that arrive together (1 in 1,000)."""
    batch = BATCH | {"components": np.arange(SIZE, dtype=np.int32) % 3}
    batch["mask_epochs"] = np.arange(SIZE, dtype=np.int32) % 2
    epochs = batch["mask_epochs"] * 3 + batch["components"]
    masked = run(batch, predictions, components=3, **rule)
    chosen = chosen_mask(masked)
    numbered = BATCH | {"mask_epochs": epochs}
    bits = np.array([draws(numbered, row)[0] for row in range(SIZE)])
    times = waits(bits, BATCH["input_ids"], WEIGHTS if "smoothing" in rule else None)
    times[~candidates_of(BATCH)] = np.inf
    attended = BATCH["attention_mask"].sum(1)
    if "budget" in rule:
        last = np.sort(times.ravel())[budget(attended.sum()) - 1]
        wanted = np.minimum((times <= last).sum(1), predictions)
        assert abs(chosen.sum() - wanted.sum()) <= 1  # a tie may go to another row
    else:
        last = np.inf
        wanted = mask_counts.largest_counts(LENGTH, Masking(), predictions)[attended]
        np.testing.assert_array_equal(chosen.sum(1), wanted)
    for row in range(SIZE):
        latest = min(last, np.sort(times[row])[wanted[row] - 1] if wanted[row] else 0)
        clear = abs(times[row] - latest) > 1e-3 * latest + 1e-6
        np.testing.assert_array_equal(chosen[row, clear], times[row, clear] < latest)
    assert (masked["masked_lm_weights"].sum(1) <= predictions).all()
    assert not chosen[~candidates_of(BATCH)].any()


def inclusion(weights, number):
    """The probability of each token to be among the first `number`, by enumeration."""
    exact, total = [Fraction(0)] * len(weights), sum(weights)
    for drawn in itertools.permutations(range(len(weights)), number):
        p, left = Fraction(1), total
        for i in drawn:
            p, left = p * weights[i] / left, left - weights[i]
        for i in drawn:
            exact[i] += p
    return [float(p) for p in exact]


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_shares_are_those_of_drawing_without_replacement(rule):
    """20,000 batches of two rows, 5 and 4 tokens of text: each token's share of the choices."""
    counts = np.ones(VOCAB)
    counts[[11, 12, 13, 14, 15]] = 2, 8, 50, 3, 200
    weights = mask_weights.smoothed(counts, 0.7)
    ids = np.array([[CLS, 11, 12, 13, 14, 15, SEP, 0], [CLS, 15, 11, 12, 16, SEP, 0, 0]], np.int32)
    attended = (ids > 0).astype(np.int32)
    times, shape = 20_000, (20_000, *ids.shape)
    batches = {
        "input_ids": np.broadcast_to(ids, shape),
        "attention_mask": np.broadcast_to(attended, shape),
        "example_ids": np.arange(2 * times, dtype=np.int32).reshape(times, 2),
        "mask_epochs": np.zeros((times, 2), np.int32),
    }
    fields = Masking(masked_lm_prob=0.3, **rule)
    given = weights if "smoothing" in rule else None
    mask = jax.vmap(lambda batch: mask_tokens(KEY, batch, TOKENIZER, fields, 5, weights=given))
    masked = jax.tree.map(np.asarray, jax.jit(mask)(batches))
    rows = {name: values.reshape(2 * times, -1) for name, values in masked.items()}
    shares = chosen_mask(rows).reshape(shape).sum(0)
    exact = [Fraction(float(w)) if given is not None else Fraction(1) for w in weights]
    text = ids > SEP
    if "budget" in rule:  # of 13 attended tokens, 9 may be chosen: ceil(3.9) of them are
        expected = [inclusion([exact[i] for i in ids[text]], 4)]
        parts = [shares[text]]
    else:  # round(0.3 * 7) and round(0.3 * 6)
        expected = [inclusion([exact[i] for i in row[row > SEP]], 2) for row in ids]
        parts = [found[row > SEP] for row, found in zip(ids, shares, strict=True)]
    assert shares[~text].sum() == 0
    for found, probabilities in zip(parts, expected, strict=True):
        for count, p in zip(found, probabilities, strict=True):
            assert within_four_sigma(count, times, p)
    if given is not None:
        assert max(expected[0]) > 3 * min(expected[0])  # the weights matter


@pytest.mark.parametrize("budget", ["example", "batch"])
def test_equal_weights_are_no_weights(budget):
    """The exception: [UNK], [MASK] and other special ids are left out."""
    batch = make_batch(SIZE, seed=3)
    batch["input_ids"][
        np.isin(batch["input_ids"], [0, MASK, 50]) & (batch["attention_mask"] == 1)
    ] = 9
    equal = np.full(VOCAB, 0.25, np.float32)
    smooth = run(batch, 14, equal, smoothing=0.7, budget=budget)
    plain = run(batch, 14, budget=budget)
    same = (chosen_mask(smooth) == chosen_mask(plain)).all(1)
    assert same.mean() > 0.97  # close draws may change places
    assert smooth["masked_lm_weights"].sum() == pytest.approx(
        plain["masked_lm_weights"].sum(), abs=2
    )


@pytest.mark.parametrize("seed", range(3))
def test_rare_tokens_are_chosen_before_common_ones(seed):
    """Ids of negligible weight are chosen only after all the others."""
    weights = np.full(VOCAB, 1e-9, np.float32)
    weights[80:] = 1
    batch = make_batch(40, seed=seed)
    chosen = chosen_mask(run(batch, 61, weights, smoothing=0.7))
    rare = candidates_of(batch) & (batch["input_ids"] >= 80)
    wanted = mask_counts.largest_counts(LENGTH, Masking(), 61)[batch["attention_mask"].sum(1)]
    np.testing.assert_array_equal((chosen & rare).sum(1), np.minimum(wanted, rare.sum(1)))


# ---- one number for the batch


def test_the_number_of_a_batch_is_exact():
    counts = [*range(500), 4096 * 512, 2**31 - 1 - 2**15]
    for prob in (0.15, 0.1, 0.4, 0.55, 0.1234, 1.0, 0.0, 1e-4):
        found = np.asarray(mask_counts._ceil(prob, jnp.asarray(counts, jnp.int32)))
        exact = [-((-Fraction(str(prob)) * n) // 1) for n in counts]
        np.testing.assert_array_equal(found, [int(n) for n in exact])


def test_the_smallest_values_are_found():
    rng = np.random.default_rng(0)
    for values in (
        rng.integers(0, 2**32, (37, 11)),
        rng.integers(0, 9, (37, 11)) << 28,
        np.full((4, 4), 2**32 - 1),
    ):
        ordered = np.sort(values.ravel())
        for number in (1, 2, ordered.size // 2, ordered.size):
            found = mask_counts._smallest(jnp.asarray(values, jnp.uint32), jnp.int32(number))
            assert int(found) == ordered[number - 1]
        assert int(mask_counts._smallest(jnp.asarray(values, jnp.uint32), jnp.int32(0))) == 0


def test_tokens_that_arrive_together_are_taken_from_the_first_rows():
    """If all draws are equal, 15% are still chosen, in order of place, then of row."""
    draws, segments = np.zeros((6, 10), np.uint32), np.zeros((6, 10), np.int32)
    tokens = mask_units.Tokens(draws, np.ones((6, 10), bool), segments, None)
    shared = mask_counts.share(tokens, np.arange(6)[:, None], 0.15, 10)
    assert shared.wanted.tolist() == [[2], [2], [2], [1], [1], [1]]


@pytest.mark.parametrize("rule", RULES[1:], ids=str)
@pytest.mark.parametrize("prob", [0.15, 0.4, 1.0])
def test_a_batch_has_its_number_whatever_its_rows_have(rule, prob):
    masked = run(BATCH, masked_lm_prob=prob, **rule)
    attended = int(BATCH["attention_mask"].sum())
    wanted = -((-Fraction(str(prob)) * attended) // 1)
    chosen = chosen_mask(masked)
    assert chosen.sum() == min(wanted, candidates_of(BATCH).sum())
    assert not chosen[~candidates_of(BATCH)].any()
    if prob < 1:
        alone = mask_counts.largest_counts(LENGTH, Masking(masked_lm_prob=prob), ALL)
        assert (chosen.sum(1) != alone[BATCH["attention_mask"].sum(1)]).mean() > 0.5


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_rows_that_only_fill_the_batch_do_not_count(rule):
    filled = {name: np.concatenate([values, values[:24]]) for name, values in BATCH.items()}
    filled["example_ids"][SIZE:] = -1
    masked, expected = run(filled, **rule), run(BATCH, **rule)
    assert_same({name: values[:SIZE] for name, values in masked.items()}, expected)
    np.testing.assert_array_equal(masked["input_ids"][SIZE:], BATCH["input_ids"][:24])
    assert not masked["masked_lm_weights"][SIZE:].any()
    none = run(BATCH | {"example_ids": np.full(SIZE, -1, np.int32)}, **rule)
    assert not none["masked_lm_weights"].any()


def test_a_row_keeps_those_of_its_choices_that_come_first():
    rule = {"smoothing": 0.7, "budget": "batch"}
    every, few = run(BATCH, **rule), run(BATCH, 6, **rule)
    counts = every["masked_lm_weights"].sum(1)
    assert (counts > 6).mean() > 0.2
    np.testing.assert_array_equal(few["masked_lm_weights"].sum(1), np.minimum(counts, 6))
    assert not (chosen_mask(few) & ~chosen_mask(every)).any()


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_packed_rows_have_the_masks_of_their_examples(rule):
    """Also with one number for the batch, if the same examples are packed differently."""
    packed = pack(BATCH, 90, 4, np.random.default_rng(0))
    used = packed["example_ids"] >= 0
    alone = {name: values[packed["example_ids"][used]] for name, values in BATCH.items()}
    # An example that was drawn twice gets two ids, because its draws would be equal otherwise.
    alone["example_ids"] = packed["example_ids"][used] = np.arange(used.sum(), dtype=np.int32)
    masked, expected = run(packed, **rule), run(alone, **rule)
    assert masked["masked_lm_weights"].sum() > 500
    assert_as_alone(masked, expected)


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("per_row", [1, 4])
def test_the_mesh_does_not_matter(rule, per_row):
    """8 devices agree with one, and exchange only a few numbers."""
    size = 152  # 19 rows a device; no other dimension is 152 or 19
    batch = {name: values[:size] for name, values in BATCH.items()}
    if per_row > 1:
        batch = pack(BATCH, size, per_row, np.random.default_rng(0))
    expected = run(batch, PREDICTIONS, **rule)
    given = WEIGHTS if "smoothing" in rule else None
    for shape in ((8, 1), (2, 4)):
        mesh = jax.make_mesh(shape, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
        rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
        step = jax.jit(
            lambda batch: mask_tokens(
                KEY, batch, TOKENIZER, Masking(**rule), PREDICTIONS, weights=given
            ),
            in_shardings=rows,
            out_shardings=rows,
        )
        compiled = step.lower(batch).compile()
        assert_same(jax.tree.map(np.asarray, compiled(batch)), expected)
        text = compiled.as_text()
        assert "[19,64]" in text
        assert "[152,64" not in text
        if "budget" not in rule:
            assert "all-reduce" not in text


@pytest.mark.slow
def test_a_step_of_parts_on_a_mesh_is_a_step_of_the_whole(config, tmp_path):
    """The budget is drawn before the batch is split: micro-batches on 8 devices agree with one."""
    small = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    phase = Phase(steps=5, sequence_length=32, batch_size=32, max_predictions_per_seq=6)
    config = change(config, masking={"smoothing": 0.7, "budget": "batch"}, model=small)
    config = dataclasses.replace(config, phases={"phase1": phase})
    job = pretraining.open(config, tmp_path / "w", build=True)
    stage = stages.of(job.config)[0]
    batch, losses = job.batches(stage).batch(0), []
    for devices, parts in ((1, 1), (8, 2)):
        mesh = sharding.make_mesh(config.mesh, jax.devices()[:devices])
        shardings = jax.tree.map(lambda x: x.sharding, train.abstract_state(job, mesh))
        state = jax.jit(lambda: train.init_state(job.config, job.init), out_shardings=shardings)()
        step = train.compile_step(job, mesh, job.prepare(stage), parts)
        rows = sharding.to_global(mesh, batch, phase.batch_size)
        _, metrics = step(state, {}, rows)
        losses.append(jax.device_get(metrics))
    for name in ("mlm_loss", "mlm_accuracy", "grad_norm"):
        np.testing.assert_allclose(losses[1][name], losses[0][name], rtol=1e-5)


def test_weights_and_smoothing_go_together():
    with pytest.raises(ValueError, match=r"smoothing=0.7, weights=None"):
        mask_tokens(KEY, BATCH, TOKENIZER, Masking(smoothing=0.7), ALL)
    with pytest.raises(ValueError, match=r"smoothing=0.0, weights="):
        mask_tokens(KEY, BATCH, TOKENIZER, Masking(), ALL, weights=WEIGHTS)
