"""Schedules and AdamW against plain NumPy, and the reference's known values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax import models, optimizer
from bertjax.config import Model, Optimizer


def test_warmup_replaces_the_start_of_the_decay():
    rate = optimizer.learning_rate(Optimizer(), 1_000_000)
    assert rate(0) == 0.0
    np.testing.assert_allclose(rate(5_000), 0.5e-4, rtol=1e-6)
    np.testing.assert_allclose(rate(9_999), 0.9999e-4, rtol=1e-6)
    np.testing.assert_allclose(rate(10_000), 0.99e-4, rtol=1e-6)
    np.testing.assert_allclose(rate(500_000), 0.5e-4, rtol=1e-6)
    assert rate(1_000_000) == 0.0


def test_warmup_then_decay_starts_at_the_peak():
    config = Optimizer(schedule="warmup_then_decay", warmup_steps=100)
    rate = optimizer.learning_rate(config, 1100)
    np.testing.assert_allclose(rate(100), 1e-4, rtol=1e-6)
    np.testing.assert_allclose(rate(600), 0.5e-4, rtol=1e-6)
    assert rate(1100) == 0.0


def numpy_adamw(config, params, grads_of_steps, num_steps):
    """Both Adams as the papers write them, in float64."""
    mu = {k: np.zeros_like(v) for k, v in params.items()}
    nu = {k: np.zeros_like(v) for k, v in params.items()}
    for step, grads in enumerate(grads_of_steps):
        start = 0 if config.schedule == "warmup_replaces_decay" else config.warmup_steps
        rate = config.learning_rate * (
            step / config.warmup_steps
            if step < config.warmup_steps
            else (num_steps - step) / (num_steps - start)
        )
        for k, g in grads.items():
            mu[k] = config.b1 * mu[k] + (1 - config.b1) * g
            nu[k] = config.b2 * nu[k] + (1 - config.b2) * g**2
            m, v = mu[k], nu[k]
            if config.name == "adamw":
                m, v = m / (1 - config.b1 ** (step + 1)), v / (1 - config.b2 ** (step + 1))
            update = m / (np.sqrt(v) + config.eps)
            if k == "kernel":
                update = update + config.weight_decay * params[k]
            params = {**params, k: params[k] - rate * update}
    return params


@pytest.mark.parametrize("name", ["bert_adamw", "adamw"])
@pytest.mark.parametrize("schedule", ["warmup_replaces_decay", "warmup_then_decay"])
def test_adamw_equals_numpy(name, schedule):
    config = Optimizer(name=name, schedule=schedule, learning_rate=0.1, warmup_steps=3)
    rng = np.random.default_rng(0)
    params = {"kernel": rng.normal(size=(4, 3)), "bias": rng.normal(size=3), "scale": np.ones(3)}
    steps = [{k: rng.normal(size=v.shape) for k, v in params.items()} for _ in range(12)]
    transform = optimizer.make(config, 12)
    ours = jax.tree.map(jnp.float32, params)
    state = transform.init(ours)
    for grads in steps:
        updates, state = transform.update(jax.tree.map(jnp.float32, grads), state, ours)
        ours = jax.tree.map(jnp.add, ours, updates)
    expected = numpy_adamw(config, params, steps, 12)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5), ours, expected
    )


def test_decay_spares_layer_norm_and_biases_and_nothing_else():
    config = Model(vocab_size=100, hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
                   intermediate_size=16)  # fmt: skip
    mask = optimizer.decay_mask(models.abstract_params(config))
    for path, decayed in jax.tree_util.tree_leaves_with_path(mask):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        assert decayed == (not name.endswith(("bias", "scale"))), name
    assert sum(jax.tree.leaves(mask)) == 3 + 6 + 3  # tables; block kernels; pooler, heads


def test_clip_is_exact_below_and_lands_on_the_norm_above():
    grads = {"a": jnp.array([3.0, 4.0])}
    assert (optimizer.clip(grads, 5.0, 5.0)["a"] == grads["a"]).all()
    assert (optimizer.clip(grads, 5.0, 0.0)["a"] == grads["a"]).all()
    np.testing.assert_allclose(optimizer.clip(grads, 5.0, 1.0)["a"], [0.6, 0.8], rtol=1e-6)
