"""The model agrees with its published sizes and with BERT written out in NumPy."""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices import device
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from bertjax import models, objectives, train
from bertjax.config import Config, Model
from bertjax.models import attention, encoder, layer_norm
from bertjax.models.dropout import dropout, random_words
from bertjax.models.placement import Unplaced
from bertjax.pretraining import Pretraining

TINY = Model(
    vocab_size=61,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=32,
    max_position_embeddings=24,
)
SILENT = dataclasses.replace(TINY, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
BATCH, LENGTH, PREDICTIONS = 3, 12, 4


@pytest.fixture(scope="module")
def params():
    """Parameters far from their initial values, so that every bias and scale matters."""
    rng = np.random.default_rng(1)
    params = models.init(TINY, jax.random.key(0))
    params = jax.tree.map(lambda x: x + 0.2 * rng.standard_normal(x.shape, np.float32), params)
    table_VD = params["embeddings"]["word"]["embedding"]
    params["embeddings"]["word"]["embedding"] = table_VD.at[TINY.vocab_size :].set(0)
    params["masked_lm"]["bias"] = params["masked_lm"]["bias"].at[TINY.vocab_size :].set(0)
    return params


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(2)
    lengths_B = np.array([LENGTH, 9, 7])
    shape = (BATCH, PREDICTIONS)
    return {
        "input_ids": rng.integers(0, TINY.vocab_size, (BATCH, LENGTH)),
        "token_type_ids": (np.arange(LENGTH) >= 5).astype(int)[None].repeat(BATCH, 0),
        "attention_mask": (np.arange(LENGTH) < lengths_B[:, None]).astype(int),
        "masked_lm_positions": np.stack([rng.permutation(7)[:PREDICTIONS] for _ in range(BATCH)]),
        "masked_lm_ids": rng.integers(0, TINY.vocab_size, shape),
        "masked_lm_weights": np.ones(shape, np.float32),
        "next_sentence_labels": rng.integers(0, 2, BATCH),
        "example_ids": np.arange(BATCH),
    }


@functools.partial(jax.jit, static_argnums=0)
def apply(config, params, batch, dropout_key=None):
    return models.apply(config, params, batch, dropout_key=dropout_key)


@functools.partial(jax.jit, static_argnums=0)
def value_and_grad(config, params, batch, dropout_key):
    def loss(params):
        outputs = models.apply(config, params, batch, dropout_key=dropout_key)
        values = objectives.means(train.measure(Pretraining(Config()), outputs, batch))
        return values["mlm_loss"] + values["nsp_loss"]

    return jax.value_and_grad(loss)(params)


def _normalize(x, p, eps):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * p["scale"] + p["bias"]


def _dense(x, p):
    return x @ p["kernel"] + p["bias"]


def _gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def reference(config, params, batch):
    """BERT in float64, a head, an example at a time (Devlin et al. 2018, Vaswani et al. 2017)."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    eps, tables, ids_BL = config.layer_norm_eps, p["embeddings"], batch["input_ids"]
    x_BLD = tables["word"]["embedding"][ids_BL] + tables["position"]["embedding"][: ids_BL.shape[1]]
    x_BLD = x_BLD + tables["token_type"]["embedding"][batch["token_type_ids"]]
    x_BLD = _normalize(x_BLD, tables["layer_norm"], eps)
    width = config.hidden_size // config.num_attention_heads
    for n in range(config.num_hidden_layers):
        layer = jax.tree.map(lambda x, n=n: x[n], p["blocks"])
        q, k, v = (_dense(x_BLD, layer[name]) for name in ("query", "key", "value"))
        mixed_BLD = np.zeros_like(x_BLD)
        for b in range(len(ids_BL)):
            real = batch["attention_mask"][b] == 1
            for h in range(config.num_attention_heads):
                part = slice(h * width, (h + 1) * width)
                weights = np.exp(q[b][:, part] @ k[b][real, part].T / math.sqrt(width))
                weights /= weights.sum(-1, keepdims=True)
                mixed_BLD[b][:, part] = weights @ v[b][real, part]
        mixed_BLD = _dense(mixed_BLD, layer["attention_output"])
        x_BLD = _normalize(x_BLD + mixed_BLD, layer["attention_layer_norm"], eps)
        inner_BLD = _dense(_gelu(_dense(x_BLD, layer["intermediate"])), layer["output"])
        x_BLD = _normalize(x_BLD + inner_BLD, layer["output_layer_norm"], eps)
    masked_BPD = x_BLD[np.arange(len(ids_BL))[:, None], batch["masked_lm_positions"]]
    masked_BPD = _gelu(_dense(masked_BPD, p["masked_lm"]["transform"]))
    masked_BPD = _normalize(masked_BPD, p["masked_lm"]["layer_norm"], eps)
    logits_BPV = masked_BPD @ tables["word"]["embedding"].T + p["masked_lm"]["bias"]
    pooled_BD = np.tanh(_dense(x_BLD[:, 0], p["pooler"]["dense"]))
    return {
        "hidden": x_BLD,
        "masked_lm_logits": logits_BPV[..., : config.vocab_size],
        "pooled": pooled_BD,
        "next_sentence_logits": _dense(pooled_BD, p["next_sentence"]["dense"]),
    }


def test_parameter_counts_are_the_published_ones():
    base = Model()
    size = {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    }
    large = dataclasses.replace(base, **size)
    distilbert = Model(head="none", num_hidden_layers=6, type_vocab_size=0)
    roberta = Model(
        head="masked_lm",
        vocab_size=50265,
        max_position_embeddings=514,
        position_offset=2,
        type_vocab_size=1,
    )
    roberta_large = dataclasses.replace(roberta, **size)
    counts = {
        base: 110_106_428,
        large: 336_226_108,
        distilbert: 66_362_880,
        dataclasses.replace(distilbert, head="masked_lm"): 66_985_530,
        roberta: 124_697_433,
        roberta_large: 355_412_057,
    }
    assert {model: models.num_parameters(model) for model in counts} == counts


def test_forward_equals_numpy_reference(params, batch):
    outputs = apply(TINY, params, batch)
    padding = outputs["masked_lm_logits"][..., TINY.vocab_size :]
    assert padding.size
    assert jnp.all(padding == -jnp.inf)
    outputs["masked_lm_logits"] = outputs["masked_lm_logits"][..., : TINY.vocab_size]
    expected = reference(TINY, params, batch)
    assert outputs.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(outputs[name], value, atol=2e-5, err_msg=name)


def test_padding_of_the_vocabulary_gets_no_gradient(params, batch):
    _, grads = value_and_grad(SILENT, params, batch, None)
    table_VD = np.asarray(grads["embeddings"]["word"]["embedding"])
    assert table_VD.shape[0] == TINY.padded_vocab_size == 128
    assert np.all(table_VD[TINY.vocab_size :] == 0)
    assert np.all(np.asarray(grads["masked_lm"]["bias"])[TINY.vocab_size :] == 0)
    assert np.all(np.any(table_VD[: TINY.vocab_size] != 0, axis=1))


def test_padding_of_the_vocabulary_does_not_change_the_loss(params, batch):
    """The reference normalizes over the real vocabulary only."""
    expected = reference(TINY, params, batch)
    nll = 0.0
    for name, labels in (
        ("masked_lm_logits", batch["masked_lm_ids"]),
        ("next_sentence_logits", batch["next_sentence_labels"]),
    ):
        log_probs = expected[name] - np.log(np.exp(expected[name]).sum(-1, keepdims=True))
        nll -= np.take_along_axis(log_probs, labels[..., None], -1).mean()
    loss, _ = value_and_grad(SILENT, params, batch, None)
    np.testing.assert_allclose(loss, nll, rtol=1e-5)


@pytest.mark.parametrize(
    "change",
    [{"scan_unroll": 0}, {"remat": "dots"}, {"remat": "full"}],
    ids=str,
)
def test_unroll_and_remat_change_nothing(params, batch, change):
    """Dropout bits, loss and gradients are the same for every way to run the stack."""

    plain = dataclasses.replace(TINY, scan_unroll=1, remat="none")
    expected, found = (
        value_and_grad(config, params, batch, jax.random.key(3))
        for config in (plain, dataclasses.replace(plain, **change))
    )
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-4)


def test_padding_tokens_do_not_influence_real_positions(params, batch):
    real_BL = batch["attention_mask"] == 1
    other = batch | {"input_ids": np.where(real_BL, batch["input_ids"], 7)}
    assert np.any(other["input_ids"] != batch["input_ids"])
    a, b = (np.asarray(apply(TINY, params, x)["hidden"]) for x in (batch, other))
    np.testing.assert_array_equal(a[real_BL], b[real_BL])
    assert np.any(a[~real_BL] != b[~real_BL])


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_rate_and_mean_within_four_sigma(rate):
    shape = (64, 32, 257)
    dropped = np.asarray(dropout(jnp.ones(shape), rate, jax.random.key(5)))
    sigma = math.sqrt(rate * (1 - rate) / dropped.size)
    assert abs((dropped == 0).mean() - rate) < 4 * sigma
    assert abs(dropped.mean() - 1) < 4 * sigma / (1 - rate)
    np.testing.assert_allclose(dropped[dropped != 0], 1 / (1 - rate), rtol=1e-6)


def test_dropout_bits_are_independent_of_neighbors_keys_and_rows():
    """Correlations with shifts along every axis, and between keys, are sampling noise."""
    shape, rate = (48, 40, 384), 0.1

    def kept(key):
        bits = np.asarray(dropout(jnp.ones(shape), rate, key) != 0, np.float64)
        return (bits - (1 - rate)) / math.sqrt(rate * (1 - rate))

    keys = jax.random.split(jax.random.key(6), 3)
    first = kept(keys[0])
    others = [kept(key) for key in keys[1:]] + [kept(jax.random.fold_in(keys[0], 1))]
    for shift in (1, 2, 3, 16, 64, 128):
        others += [np.roll(first, shift, axis) for axis in range(3) if shift < shape[axis]]
    for other in others:
        assert abs((first * other).mean()) < 4.5 / math.sqrt(first.size)
    for axes in ((0, 1), (0, 2), (1, 2)):  # every slice along an axis has the rate
        means = first.mean(axes) * math.sqrt(first.size / first.shape[3 - sum(axes)])
        assert np.abs(means).max() < 5


def test_random_words_pass_a_chi_square_on_every_byte():
    words = np.asarray(random_words(jax.random.key(8), (1 << 10, 1 << 10)))
    for byte in range(4):
        counts = np.bincount((words >> (8 * byte)).ravel() & 255, minlength=256)
        chi = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
        assert chi < 255 + 5 * math.sqrt(2 * 255)


def test_no_key_or_rate_zero_is_no_dropout(params, batch):
    plain = apply(TINY, params, batch)["hidden"]
    keyed = apply(SILENT, params, batch, jax.random.key(0))["hidden"]
    np.testing.assert_array_equal(plain, keyed)
    dropped = apply(TINY, params, batch, jax.random.key(0))["hidden"]
    assert np.abs(dropped - plain).max() > 0.1


def test_layers_and_sites_draw_different_bits(monkeypatch):
    """Every dropout of a step has a key of its own."""
    seen = []
    config = dataclasses.replace(TINY, scan_unroll=0)

    def spy(x, rate, key):
        jax.debug.callback(lambda k: seen.append(tuple(k.tolist())), jax.random.key_data(key))
        return x

    for module in (attention, encoder, layer_norm):
        monkeypatch.setattr(module, "dropout", spy)
    ids = np.zeros((2, 8), int)
    batch = {"input_ids": ids, "token_type_ids": ids, "attention_mask": ids + 1}
    params = models.init(config, jax.random.key(0))
    models.apply(config, params, batch, dropout_key=jax.random.key(0))
    jax.effects_barrier()
    assert len(seen) == 1 + 3 * config.num_hidden_layers
    assert len(set(seen)) == len(seen)


def test_dropout_is_sharded_like_its_input():
    """Each device draws for its own rows. Nothing is replicated or gathered; bits stay the same."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, P("data"))
    key = jax.random.key(9)

    def drop(x, key):
        return dropout(x, 0.1, key)

    compiled = jax.jit(drop, in_shardings=(sharding, None)).lower(jnp.ones((16, 48, 64)), key)
    text = compiled.compile().as_text()
    assert not re.search(r"all-(gather|reduce|to-all)|collective-permute", text)
    shapes = {tuple(map(int, s.split(","))) for s in re.findall(r"[us]32\[(\d+,\d+,\d+)\]", text)}
    assert {shape[0] for shape in shapes} == {2}, shapes  # not empty: the program draws bits
    x = jax.device_put(jnp.ones((16, 48, 64)), sharding)
    np.testing.assert_array_equal(jax.jit(drop)(x, key), dropout(jnp.ones(x.shape), 0.1, key))


@pytest.mark.parametrize(("platform", "dtype"), [("cpu", "float32"), ("tpu", "bfloat16")])
def test_bfloat16_is_close_to_float32(params, batch, platform, dtype):
    config = dataclasses.replace(TINY, dtype="bfloat16", attention="xla")
    half = models.apply(config, params, batch, placement=Unplaced(device(platform)))
    full = apply(TINY, params, batch)
    assert half["hidden"].dtype == dtype
    assert half["masked_lm_logits"].dtype == half["next_sentence_logits"].dtype == jnp.float32
    difference = np.asarray(half["hidden"], np.float32) - np.asarray(full["hidden"])
    assert 0 < np.sqrt((difference**2).mean()) < 0.03 * np.asarray(full["hidden"]).std()


def test_initial_values():
    """Zero biases, unit scales; weights are normal .02, cut at two deviations as in TensorFlow."""
    deviation = 0.02 * 0.87962566103423978  # after the cut
    config = Model(num_hidden_layers=2, vocab_size=1000)
    params = models.init(config, jax.random.key(4))
    for path, value in jax.tree_util.tree_leaves_with_path(params):
        name, value = path[-1].key, np.asarray(value)
        if name == "bias":
            assert not value.any()
        elif name == "scale":
            assert (value == 1).all()
        else:
            value = value[: config.vocab_size] if path[-2].key == "word" else value
            assert abs(value.mean()) < 5 * 0.02 / math.sqrt(value.size)
            assert abs(value.std() / deviation - 1) < 5 / math.sqrt(2 * value.size)
            assert np.abs(value).max() <= 0.04 + 1e-6
    kernels_NDD = np.asarray(params["blocks"]["query"]["kernel"])
    assert abs(np.corrcoef(kernels_NDD.reshape(2, -1))[0, 1]) < 0.01  # the layers differ
    assert not np.asarray(params["embeddings"]["word"]["embedding"])[config.vocab_size :].any()


# ---- packed rows


def pack_rows(batch, rows, length):
    """The examples of `batch` packed into `rows` (lists of example numbers) of `length` tokens."""
    slots = max(map(len, rows))
    shape, P_ = (len(rows), length), PREDICTIONS * slots
    packed = {
        name: np.zeros(shape, int)
        for name in ("input_ids", "token_type_ids", "attention_mask", "segment_ids", "position_ids")
    }
    packed |= {
        name: np.zeros((len(rows), P_))
        for name in ("masked_lm_positions", "masked_lm_ids", "masked_lm_weights")
    }
    packed |= {
        name: np.zeros((len(rows), slots), int)
        for name in ("cls_positions", "next_sentence_labels")
    }
    packed["example_ids"] = np.full((len(rows), slots), -1)
    for r, row in enumerate(rows):
        at = 0
        for slot, i in enumerate(row):
            count = batch["attention_mask"][i].sum()
            tokens = slice(at, at + count)
            for name in ("input_ids", "token_type_ids", "attention_mask"):
                packed[name][r, tokens] = batch[name][i, :count]
            packed["segment_ids"][r, tokens] = slot + 1
            packed["position_ids"][r, tokens] = range(count)
            packed["cls_positions"][r, slot] = at
            packed["example_ids"][r, slot] = i
            packed["next_sentence_labels"][r, slot] = batch["next_sentence_labels"][i]
            spot = slice(slot * PREDICTIONS, (slot + 1) * PREDICTIONS)
            packed["masked_lm_positions"][r, spot] = at + batch["masked_lm_positions"][i]
            packed["masked_lm_ids"][r, spot] = batch["masked_lm_ids"][i]
            packed["masked_lm_weights"][r, spot] = batch["masked_lm_weights"][i]
            at += count
    dtypes = {"masked_lm_weights": np.float32}
    return {name: x.astype(dtypes.get(name, np.int32)) for name, x in packed.items()}


def test_a_packed_example_is_computed_as_alone(params, batch):
    """Hidden states, the logits of both heads, and the batch's losses with all gradients agree."""
    packed = pack_rows(batch, [[1, 2], [0]], 20)
    alone, together = apply(SILENT, params, batch), apply(SILENT, params, packed)
    for row, slot, i in ((0, 0, 1), (0, 1, 2), (1, 0, 0)):
        count, at = batch["attention_mask"][i].sum(), packed["cls_positions"][row, slot]
        spot = slice(slot * PREDICTIONS, (slot + 1) * PREDICTIONS)
        for found, expected in (
            (together["hidden"][row, at : at + count], alone["hidden"][i, :count]),
            (together["masked_lm_logits"][row, spot], alone["masked_lm_logits"][i]),
            (together["pooled"][row, slot], alone["pooled"][i]),
            (together["next_sentence_logits"][row, slot], alone["next_sentence_logits"][i]),
        ):
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    losses = [value_and_grad(SILENT, params, b, None) for b in (batch, packed)]
    np.testing.assert_allclose(losses[1][0], losses[0][0], rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        losses[1][1],
        losses[0][1],
    )


def test_examples_of_a_row_do_not_see_each_other(params, batch):
    packed = pack_rows(batch, [[1, 2], [0]], 20)
    changed = dict(packed, input_ids=packed["input_ids"].copy())
    changed["input_ids"][0, 9:16] = 5  # the second example of the first row
    before, after = apply(SILENT, params, packed), apply(SILENT, params, changed)
    np.testing.assert_array_equal(before["hidden"][0, :9], after["hidden"][0, :9])
    assert (before["hidden"][0, 9:16] != after["hidden"][0, 9:16]).any()
    assert np.isfinite(before["hidden"]).all()  # padding included
