"""Losses against NumPy, and the law that sums over parts add up."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax import objectives, train
from bertjax.config import Config, Objective
from bertjax.pretraining import Pretraining

B, P, V = 4, 3, 11
measure = functools.partial(train.measure, Pretraining(Config()))


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    outputs = {
        "masked_lm_logits": rng.normal(scale=3, size=(B, P, V)).astype(np.float32),
        "next_sentence_logits": rng.normal(size=(B, 2)).astype(np.float32),
    }
    batch = {
        "masked_lm_ids": rng.integers(0, V, (B, P)).astype(np.int32),
        "masked_lm_weights": rng.integers(0, 2, (B, P)).astype(np.float32),
        "next_sentence_labels": rng.integers(0, 2, B).astype(np.int32),
        "example_ids": np.arange(B, dtype=np.int32),
    }
    return outputs, batch


def log_softmax(logits):
    logits = logits.astype(np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def nll(logits, labels):
    return -np.take_along_axis(log_softmax(logits), labels[..., None], -1)[..., 0]


def test_cross_entropy_equals_numpy(data):
    logits, labels = data[0]["masked_lm_logits"], data[1]["masked_lm_ids"]
    np.testing.assert_allclose(
        objectives.cross_entropy(logits, labels), nll(logits, labels), rtol=1e-5
    )


def test_gradient_is_probability_minus_one_hot(data):
    outputs, batch = data
    weights, labels = batch["masked_lm_weights"], batch["masked_lm_ids"]

    def loss(logits):
        return objectives.loss(logits, labels, weights)

    expected = (np.exp(log_softmax(outputs["masked_lm_logits"])) - np.eye(V)[labels]) * weights[
        ..., None
    ]
    np.testing.assert_allclose(jax.grad(loss)(outputs["masked_lm_logits"]), expected, atol=1e-6)


def test_padding_columns_at_minus_infinity_are_as_if_absent(data):
    logits, labels = data[0]["masked_lm_logits"], data[1]["masked_lm_ids"]
    padded = np.concatenate([logits, np.full((B, P, 5), -np.inf, np.float32)], -1)
    values, grads = (
        f(padded)
        for f in (
            lambda x: objectives.cross_entropy(x, labels),
            jax.grad(lambda x: objectives.cross_entropy(x, labels).sum()),
        )
    )
    np.testing.assert_allclose(values, nll(logits, labels), rtol=1e-5)
    assert np.all(np.asarray(grads)[..., V:] == 0)


def test_large_logits_stay_finite():
    loss = objectives.cross_entropy(jnp.array([[1e4, -1e4]]), jnp.array([1]))
    np.testing.assert_allclose(loss, [2e4])


def test_measure_equals_numpy_with_weights(data):
    outputs, batch = data
    terms = measure(outputs, batch)
    weights, ids = batch["masked_lm_weights"], batch["masked_lm_ids"]
    logits, labels = outputs["next_sentence_logits"], batch["next_sentence_labels"]
    correct = outputs["masked_lm_logits"].argmax(-1) == ids
    expected = {
        "mlm_loss": ((nll(outputs["masked_lm_logits"], ids) * weights).sum(), weights.sum()),
        "mlm_accuracy": ((correct * weights).sum(), weights.sum()),
        "nsp_loss": (nll(logits, labels).sum(), B),
        "nsp_accuracy": ((logits.argmax(-1) == labels).sum(), B),
    }
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(terms[name], value, rtol=1e-5, err_msg=name)


def test_accuracy_counts_known_answers():
    logits = jnp.array([[0.0, 1.0, 2.0], [3.0, 1.0, 2.0], [0.0, 5.0, 1.0]])
    weights = jnp.array([1.0, 1.0, 0.0])
    assert float(objectives.correct(logits, jnp.array([2, 1, 1]), weights)) == 1.0


def test_padding_rows_weigh_nothing(data):
    outputs, batch = data
    batch["example_ids"][2] = -1
    rest = np.array([0, 1, 3])
    whole = measure(outputs, batch)
    kept = measure(*({k: v[rest] for k, v in tree.items()} for tree in (outputs, batch)))
    for name in kept:
        np.testing.assert_allclose(whole[name], kept[name], rtol=1e-6, err_msg=name)


def test_sums_and_weights_of_halves_add_up(data):
    halves = [
        measure(*({k: v[part] for k, v in tree.items()} for tree in data))
        for part in (slice(0, 1), slice(1, B))
    ]
    added = jax.tree.map(lambda a, b: a + b, *halves)
    for name, value in measure(*data).items():
        np.testing.assert_allclose(added[name], value, rtol=1e-6, err_msg=name)


def test_means_divide_once_and_survive_no_weight():
    values = objectives.means({"a": (jnp.float32(6), jnp.float32(4)), "b": (0.0, 0.0)})
    assert {k: float(v) for k, v in values.items()} == {"a": 1.5, "b": 0.0}


def test_total_weighs_the_terms():
    values = {"mlm_loss": 2.0, "nsp_loss": 3.0}
    assert objectives.total(Objective(mlm=0.5, nsp=2.0), values) == 7.0
    assert objectives.total(Objective(nsp=0.0), {"mlm_loss": 2.0}) == 2.0
