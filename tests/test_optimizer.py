"""Schedules, AdamW and LAMB against plain NumPy, and the references' known values."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax import config as config_lib
from bertjax import models, optimizer, sharding
from bertjax.config import Config, Mesh, Model, Optimizer, Phase
from bertjax.errors import UsageError


def make_config(steps, **fields):
    return Config(optimizer=Optimizer(**fields), phases={"phase1": Phase(steps=steps)})


def test_warmup_replaces_the_start_of_the_decay():
    rate = optimizer.learning_rate(make_config(1_000_000))
    assert rate(0) == 0.0
    np.testing.assert_allclose(rate(5_000), 0.5e-4, rtol=1e-6)
    np.testing.assert_allclose(rate(9_999), 0.9999e-4, rtol=1e-6)
    np.testing.assert_allclose(rate(10_000), 0.99e-4, rtol=1e-6)
    np.testing.assert_allclose(rate(500_000), 0.5e-4, rtol=1e-6)
    assert rate(1_000_000) == rate(1_000_001) == 0.0


def test_warmup_then_decay_starts_at_the_peak():
    config = make_config(1100, schedule="warmup_then_decay", warmup_steps=100)
    rate = optimizer.learning_rate(config)
    np.testing.assert_allclose(rate(100), 1e-4, rtol=1e-6)
    np.testing.assert_allclose(rate(600), 0.5e-4, rtol=1e-6)
    assert rate(1100) == 0.0
    square = dataclasses.replace(config.optimizer, decay_power=2.0)
    rate = optimizer.learning_rate(dataclasses.replace(config, optimizer=square))
    np.testing.assert_allclose(rate(50), 0.5e-4, rtol=1e-6)  # the warm-up stays linear
    np.testing.assert_allclose(rate(600), 0.25e-4, rtol=1e-6)


def test_phases_with_schedules_of_their_own_start_anew_and_end_at_zero():
    """The re-warm-up of the 64K/32K recipe: each phase counts from its own first step."""
    phases = {
        "phase1": Phase(steps=7037, learning_rate=6e-3, warmup_steps=2000),
        "phase2": Phase(steps=0),
        "phase3": Phase(steps=1562, learning_rate=4e-3, warmup_steps=200),
    }
    rate = optimizer.learning_rate(Config(optimizer=Optimizer(decay_power=0.5), phases=phases))
    for step, expected in {
        0: 0.0,
        1000: 3e-3,
        1999: 6e-3 * 1999 / 2000,
        2000: 6e-3 * (1 - 2000 / 7037) ** 0.5,
        7036: 6e-3 * (1 / 7037) ** 0.5,
        7037: 0.0,
        7037 + 100: 2e-3,
        7037 + 200: 4e-3 * (1 - 200 / 1562) ** 0.5,
        8598: 4e-3 * (1 / 1562) ** 0.5,
        8599: 0.0,
        9000: 0.0,
    }.items():
        np.testing.assert_allclose(rate(step), expected, rtol=1e-5, err_msg=str(step))


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        (
            "phases.phase2.learning_rate",
            1e-3,
            r"phases.phase1.learning_rate=0.0: set a learning_rate for all phases",
        ),
        ("optimizer.decay_power", 0.0, r"optimizer.decay_power=0.0: must be positive"),
        ("optimizer.name", "lars", r"optimizer.name='lars': must be one of bert_adamw, adamw,"),
    ],
)
def test_schedules_that_cannot_be_are_named(field, value, said):
    tree = config_lib.default()
    tree.phases.phase2 = config_lib.phase(steps=10)
    tree.update_from_flattened_dict({field: value})
    with pytest.raises(UsageError, match=said.replace(".", r"\.")):
        config_lib.from_config_dict(tree)


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
    config = make_config(12, name=name, schedule=schedule, learning_rate=0.1, warmup_steps=3)
    rng = np.random.default_rng(0)
    params = {"kernel": rng.normal(size=(4, 3)), "bias": rng.normal(size=3), "scale": np.ones(3)}
    steps = [{k: rng.normal(size=v.shape) for k, v in params.items()} for _ in range(12)]
    transform = optimizer.make(config)
    ours = jax.tree.map(jnp.float32, params)
    state = transform.init(ours)
    for grads in steps:
        updates, state = transform.update(jax.tree.map(jnp.float32, grads), state, ours)
        ours = jax.tree.map(jnp.add, ours, updates)
    expected = numpy_adamw(config.optimizer, params, steps, 12)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5), ours, expected
    )


SMALL = Model(
    vocab_size=100,
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=16,
    max_position_embeddings=16,
)


def test_decay_spares_layer_norm_and_biases_and_nothing_else():
    mask = optimizer.decay_mask(models.abstract_params(SMALL))
    for path, decayed in jax.tree_util.tree_leaves_with_path(mask):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        assert decayed == (not name.endswith(("bias", "scale"))), name
    assert sum(jax.tree.leaves(mask)) == 3 + 6 + 3  # tables; block kernels; pooler, heads


def test_decay_all_spares_nothing():
    """fairseq hands every parameter to Adam in one group, biases and LayerNorm with the rest."""
    config = make_config(10, learning_rate=0.5, warmup_steps=0, weight_decay=0.1)
    everything = dataclasses.replace(config.optimizer, decay_all=True)
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2), "scale": jnp.ones(2)}
    for opt, spared in ((config.optimizer, 1.0), (everything, 0.95)):
        transform = optimizer.make(dataclasses.replace(config, optimizer=opt))
        zeros = jax.tree.map(jnp.zeros_like, params)
        updates, _ = transform.update(zeros, transform.init(params), params)
        moved = jax.tree.map(jnp.add, params, updates)
        np.testing.assert_allclose(moved["kernel"], 0.95, rtol=1e-6)
        np.testing.assert_allclose(moved["bias"], spared, rtol=1e-6)
        np.testing.assert_allclose(moved["scale"], spared, rtol=1e-6)


def unstacked(tree):
    """`{"blocks/3/query/kernel": array, ...}`: one entry for every array of every layer."""
    flat = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name.startswith("blocks/"):
            for layer, part in enumerate(np.asarray(leaf, np.float64)):
                flat[f"blocks/{layer}/{name.removeprefix('blocks/')}"] = part
        else:
            flat[name] = np.asarray(leaf, np.float64)
    return flat


def numpy_lamb(config, rates, params, grads_of_steps):
    """LAMB layer by layer in float64; `lamb` is Algorithm 2 of You et al. 2020 as printed there.

    Returns the parameters and the trust ratios of the last step.
    """
    params = dict(params)
    mu, nu, ratios = dict.fromkeys(params, 0.0), dict.fromkeys(params, 0.0), {}
    for step, grads in enumerate(grads_of_steps):
        for name, g in grads.items():
            mu[name] = config.b1 * mu[name] + (1 - config.b1) * g
            nu[name] = config.b2 * nu[name] + (1 - config.b2) * g**2
            m, v, weights = mu[name], nu[name], params[name]
            if config.name == "lamb":
                m = m / (1 - config.b1 ** (step + 1))
                v = v / (1 - config.b2 ** (step + 1))
            update = m / (np.sqrt(v) + config.eps)
            if not name.endswith(("bias", "scale")):
                update = update + config.weight_decay * weights
                norms = np.linalg.norm(weights), np.linalg.norm(update)
                ratios[name] = norms[0] / norms[1] if min(norms) > 0 else 1.0
                update = ratios[name] * update
            params[name] = weights - rates[step] * update
    return params, ratios


@pytest.mark.parametrize("mesh", [None, Mesh(data=2, fsdp=2, tensor=2)])
@pytest.mark.parametrize("name", ["bert_lamb", "lamb"])
def test_lamb_equals_numpy_layer_by_layer(name, mesh):
    config = make_config(12, name=name, learning_rate=0.05, warmup_steps=3, weight_decay=0.1)
    params = jax.tree.map(
        np.array, jax.jit(models.init, static_argnums=0)(SMALL, jax.random.key(0))
    )
    # Layers of different size, so that one ratio for a whole stack would show; a kernel of zeros.
    for leaf in jax.tree.leaves(params["blocks"]):
        leaf[1] *= 5
    params["pooler"]["dense"]["kernel"][:] = 0
    rng = np.random.default_rng(0)
    steps = [
        jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), params)
        for _ in range(12)
    ]
    transform = optimizer.make(config)
    ours, state = params, jax.jit(transform.init)(params)

    @jax.jit
    def step_fn(grads, state, params):
        updates, state = transform.update(grads, state, params)
        return jax.tree.map(jnp.add, params, updates), state

    if mesh is not None:
        placed = sharding.abstract(sharding.make_mesh(mesh), {"params": params, "state": state})
        ours, state = jax.device_put(
            (ours, state), jax.tree.map(lambda x: x.sharding, (placed["params"], placed["state"]))
        )
    for grads in steps:
        ours, state = step_fn(grads, state, ours)
    rate = optimizer.learning_rate(config)
    expected, ratios = numpy_lamb(
        config.optimizer, rate(np.arange(12)), unstacked(params), [unstacked(g) for g in steps]
    )
    for path, got in unstacked(ours).items():
        np.testing.assert_allclose(got, expected[path], rtol=2e-4, atol=2e-6, err_msg=path)
    assert ratios["blocks/1/query/kernel"] > 2 * ratios["blocks/0/query/kernel"]
    assert not any("bias" in path or "layer_norm" in path for path in ratios)


@pytest.mark.parametrize("name", ["bert_lamb", "lamb"])
def test_lamb_leaves_the_rows_that_pad_the_vocabulary_at_zero(name):
    params = {"embedding": jnp.array([[1.0, 2.0], [0.0, 0.0]])}
    transform = optimizer.make(make_config(10, name=name, learning_rate=0.1, warmup_steps=0))
    grads = {"embedding": jnp.array([[0.3, -0.2], [0.0, 0.0]])}
    updates, _ = transform.update(grads, transform.init(params), params)
    assert (updates["embedding"][1] == 0).all()
    assert (updates["embedding"][0] != 0).all()


def test_clip_is_exact_below_and_lands_on_the_norm_above():
    grads = {"a": jnp.array([3.0, 4.0])}
    assert (optimizer.clip(grads, 5.0, 5.0)["a"] == grads["a"]).all()
    assert (optimizer.clip(grads, 5.0, 0.0)["a"] == grads["a"]).all()
    np.testing.assert_allclose(optimizer.clip(grads, 5.0, 1.0)["a"], [0.6, 0.8], rtol=1e-6)


@pytest.mark.parametrize("decay", [0.9, 0.5])
def test_layer_decay_is_a_power_of_the_depth(decay):
    """Clark et al. 2020: with N blocks the top one has decay, the lowest decay^N, the tables one more.

    So each parameter of each block moves as with a rate of its own.
    """
    opt = {"name": "adamw", "learning_rate": 0.1, "warmup_steps": 0, "weight_decay": 0.1}
    params = jax.tree.map(
        np.array, jax.jit(models.init, static_argnums=0)(SMALL, jax.random.key(0))
    )
    rng = np.random.default_rng(0)
    grads = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), params)

    @functools.partial(jax.jit, static_argnums=0)
    def moved(layer_decay, grads, params):
        transform = optimizer.make(make_config(10, layer_decay=layer_decay, **opt))
        return transform.update(grads, transform.init(params), params)[0]

    alike, ours = (unstacked(moved(d, grads, params)) for d in (1.0, decay))
    power = {"embeddings": SMALL.num_hidden_layers + 1, "blocks/0": 2, "blocks/1": 1}
    for path, update in ours.items():
        above = [p for start, p in power.items() if path.startswith(start)]
        factor = decay ** (above[0] if above else 0)
        np.testing.assert_allclose(update, factor * alike[path], rtol=1e-5, err_msg=path)
    assert {p for path in ours for s, p in power.items() if path.startswith(s)} == {1, 2, 3}
