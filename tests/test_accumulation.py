"""Micro-batches: the same update as the whole batch at once, on any mesh, in less memory."""

import dataclasses
import functools
import runpy
import types
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from bertjax import config as config_lib
from bertjax import models, optimizer, sharding, train
from bertjax.config import stages
from bertjax.plan import budget
from bertjax.plan import stage as plan_stage
from bertjax.pretraining import Pretraining

MODEL = config_lib.Model(
    vocab_size=500,
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=128,
    max_position_embeddings=32,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    scan_unroll=1,  # the form of TPUs; unrolled, gradients of blocks wait to be stacked
)
PHASE = config_lib.Phase(steps=100, sequence_length=32, batch_size=256, max_predictions_per_seq=5)
PARTS, STEPS = 8, 5


def make_config(name="bert_adamw", mesh=None, **model):
    return config_lib.Config(
        model=dataclasses.replace(MODEL, **model),
        phases={"phase1": PHASE},
        optimizer=config_lib.Optimizer(name=name, learning_rate=1e-3, warmup_steps=2),
        mesh=mesh or config_lib.Mesh(),
    )


def make_batch(step):
    """A batch masked already, whose parts `i % 8` differ in predictions and in rows that pad."""
    rng = np.random.default_rng(step)
    rows, length, predictions = PHASE.batch_size, 32, PHASE.max_predictions_per_seq
    part = np.arange(rows) % PARTS
    real = rng.random(rows) < (1 + part) / PARTS
    attended = np.arange(length) < rng.integers(8, length + 1, (rows, 1))
    positions = np.stack([rng.choice(8, predictions, replace=False) for _ in range(rows)])
    weights = (np.arange(predictions) <= part[:, None] * predictions // PARTS) & real[:, None]
    return {
        "input_ids": rng.integers(5, 500, (rows, length)).astype(np.int32) * attended,
        "token_type_ids": (np.arange(length) > 10).astype(np.int32) * attended,
        "attention_mask": attended.astype(np.int32),
        "next_sentence_labels": rng.integers(0, 2, rows).astype(np.int32),
        "example_ids": np.where(real, np.arange(rows), -1).astype(np.int32),
        "masked_lm_positions": np.sort(positions).astype(np.int32),
        "masked_lm_ids": rng.integers(5, 500, (rows, predictions)).astype(np.int32),
        "masked_lm_weights": weights.astype(np.float32),
    }


@functools.cache
def initial(name):
    """The state that every run with an optimizer starts from, on the host."""
    config = make_config(name)
    return jax.device_get(jax.jit(lambda: train.init_state(config, Pretraining(config).init))())


def run(config, num_devices, micro_batches):
    """Metrics of the last step, the parameters after it, and the compiled step."""
    mesh = sharding.make_mesh(config.mesh, jax.devices()[:num_devices])
    shardings = jax.tree.map(lambda x: x.sharding, train.abstract_state(Pretraining(config), mesh))
    state = jax.device_put(initial(config.optimizer.name), shardings)
    step_fn = train.compile_step(Pretraining(config), mesh, lambda batch: batch, micro_batches)
    for step in range(STEPS):
        batch = sharding.to_global(mesh, make_batch(step), PHASE.batch_size)
        if step == 0:
            step_fn = step_fn.lower(state, {}, batch).compile()
        state, metrics = step_fn(state, {}, batch)
    return jax.device_get(metrics), jax.device_get(state["params"]), step_fn


def assert_same_training(got, expected):
    """The same metrics, and parameters within 1e-6 of the norm of their tensor.

    Or of the way that Adam went, if that is longer: a bias that starts at 0 and whose gradients
    cancel ends near 0, where rounding is all there is (a key's bias gets nothing else, as softmax
    does not see it). Adam's step is about the learning rate in each element.
    """
    for name, value in expected[0].items():
        np.testing.assert_allclose(got[0][name], value, rtol=2e-6, err_msg=name)
    rates = optimizer.learning_rate(make_config("adamw"))(np.arange(STEPS))
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(got[1]), jax.tree.leaves(expected[1]), strict=True
    ):
        scale = max(np.linalg.norm(b), float(rates.sum()) * b.size**0.5)
        assert np.linalg.norm(a - b) < 1e-6 * scale, jax.tree_util.keystr(path)


@pytest.fixture(scope="module")
def whole():
    """`optimizer name -> run` of the whole batch on one device."""
    return functools.cache(lambda name: run(make_config(name), 1, 1))


@pytest.mark.slow
def test_micro_batches_are_the_whole_batch_and_take_less_memory(whole):
    expected, got = whole("adamw"), run(make_config("adamw"), 1, PARTS)
    assert_same_training(got, expected)
    assert np.abs(expected[1]["masked_lm"]["bias"]).max() > 1e-4  # from 0: there were updates
    # An eighth of the activations; one more copy of the gradients.
    size = sum(x.nbytes for x in jax.tree.leaves(expected[1]))
    at_once = expected[2].memory_analysis().temp_size_in_bytes
    assert got[2].memory_analysis().temp_size_in_bytes < at_once / PARTS + 4 * size < at_once / 2
    assert got[2].memory_analysis().alias_size_in_bytes > 3 * size  # the state is donated


def test_micro_batches_on_eight_devices_stay_where_their_rows_are(whole):
    got = run(make_config("adamw"), 8, PARTS)
    assert_same_training(got, whole("adamw"))
    text = got[2].as_text()
    assert " all-reduce(" in text
    for collective in ("all-gather", "all-to-all", "collective-permute"):
        assert f" {collective}(" not in text, collective


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert_adamw", "lamb"])
@pytest.mark.parametrize(
    ("num_devices", "micro_batches", "mesh"),
    [
        (1, 8, None),
        (8, 8, config_lib.Mesh(data=1, fsdp=8)),
        (8, 4, config_lib.Mesh(data=2, fsdp=2, tensor=2)),
    ],
)
def test_every_optimizer_and_mesh(whole, name, num_devices, micro_batches, mesh):
    assert_same_training(run(make_config(name, mesh), num_devices, micro_batches), whole(name))


@pytest.mark.slow
def test_parts_add_up_to_the_whole_with_dropout_and_are_not_averaged():
    """Every part counts by its weights, and a row drops the same in a part as in the whole."""
    config = make_config(hidden_dropout_prob=0.1)
    job = Pretraining(config)
    params, batch = initial("adamw")["params"], make_batch(0)
    keys = jax.random.split(jax.random.key(3), PHASE.batch_size)
    place = sharding.Placement(sharding.make_mesh(config.mesh, jax.devices()[:1]))
    reduced = jax.jit(lambda p, b, k: train.reduced_gradients(job, p, {}, b, k, place, PARTS))
    gradients = jax.jit(lambda p, b, k: train.gradients(job, p, {}, b, k, place))
    parts = [jax.tree.map(lambda x, m=m: x[m::PARTS], (batch, keys)) for m in range(PARTS)]
    got, metrics = jax.device_get(reduced(params, batch, keys))
    expected, expected_metrics = jax.device_get(gradients(params, batch, keys))
    wrong, _ = jax.tree.map(lambda *x: np.mean(x, axis=0), *[gradients(params, *p) for p in parts])
    other, _ = jax.device_get(gradients(params, batch, keys[::-1]))

    def distance(a, b):
        return float(optax.tree.norm(jax.tree.map(np.subtract, a, b)) / optax.tree.norm(b))

    assert distance(got, expected) < 1e-6
    assert distance(wrong, expected) > 0.1
    assert distance(other, expected) > 0.01  # there is dropout
    for name, value in metrics.items():
        np.testing.assert_allclose(value, expected_metrics[name], rtol=1e-6, err_msg=name)


LARGE = {  # name: (parameters, steps, tokens in a step of each phase)
    "roberta_base": (124_697_433, 500_000, [4_194_304]),
    "roberta_large": (355_412_057, 500_000, [4_194_304]),
    "bert_large_lamb": (336_226_108, 8_599, [8_388_608, 16_777_216]),
    "distilbert_base": (66_985_530, 6_000, [2_097_152]),
    "distilroberta_base": (82_170_201, 6_000, [2_097_152]),
}


def load(name):
    path = Path(__file__).parents[1] / "configs" / f"{name}.py"
    return config_lib.from_config_dict(runpy.run_path(str(path))["get_config"]())


@pytest.mark.parametrize("name", LARGE)
def test_large_configs_have_the_published_sizes_and_fit_any_mesh_up_to_256_devices(name):
    config, (parameters, steps, tokens) = load(name), LARGE[name]
    assert models.num_parameters(config.model) == parameters
    assert config.num_steps == steps
    sizes = [stage.phase.batch_size * stage.phase.sequence_length for stage in stages.of(config)]
    assert sizes == tokens
    shape = {"data": 64, "fsdp": 4, "tensor": 1}
    sharding.check(config, types.SimpleNamespace(shape=shape))


@pytest.mark.slow
def test_a_large_config_compiles_for_eight_devices():
    config = load("bert_large_lamb")
    config = dataclasses.replace(config, mesh=config_lib.Mesh(fsdp=4))
    mesh, stage = sharding.make_mesh(config.mesh), stages.of(config)[0]
    compiled = plan_stage.compile_stage(
        Pretraining(config, budget.AnyTokenizer(30_522)), mesh, stage
    )
    state = sum(
        x.size * x.dtype.itemsize
        for x in jax.tree.leaves(
            jax.eval_shape(lambda: train.init_state(config, Pretraining(config).init))
        )
    )
    batch = 65_536 // 8 * (3 * 128 + 3) * 4
    arguments = compiled.memory_analysis().argument_size_in_bytes
    # What stays whole on every device: LayerNorms, biases, the [D, 2] head.
    assert state / 4 + batch < arguments < state / 4 * 1.02 + batch
