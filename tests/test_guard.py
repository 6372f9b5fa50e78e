"""The guard against non-finite updates, as a branch on CPUs and as a choice on accelerators; and
the two forms of the scan over blocks."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from bertjax import config as config_lib
from bertjax import models, sharding, train
from bertjax.pretraining import Pretraining

STEPS, ROWS = 20, 8
PLATFORMS = "cpu", "gpu"


def make_config(scan_unroll):
    return config_lib.Config(
        model=config_lib.Model(
            vocab_size=200,
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=32,
            scan_unroll=scan_unroll,
        ),
        phases={"phase1": config_lib.Phase(STEPS, 32, ROWS, max_predictions_per_seq=5)},
        optimizer=config_lib.Optimizer(learning_rate=1e-3, warmup_steps=2),
    )


def make_batch(step):
    """A batch masked already; every row has five predictions."""
    rng = np.random.default_rng(step)
    ids = rng.integers(5, 200, (ROWS, 32)).astype(np.int32)
    places = np.stack([rng.choice(32, 5, replace=False) for _ in range(ROWS)])
    return {
        "input_ids": ids,
        "token_type_ids": np.zeros_like(ids),
        "attention_mask": np.ones_like(ids),
        "next_sentence_labels": rng.integers(0, 2, ROWS).astype(np.int32),
        "example_ids": np.arange(ROWS, dtype=np.int32),
        "masked_lm_positions": np.sort(places).astype(np.int32),
        "masked_lm_ids": rng.integers(5, 200, (ROWS, 5)).astype(np.int32),
        "masked_lm_weights": np.ones((ROWS, 5), np.float32),
    }


def make_step(monkeypatch, platform, scan_unroll=1):
    """`(state at step 0, step function)` of a mesh that says that it is of a platform."""
    device = types.SimpleNamespace(platform=platform, device_kind="NVIDIA H100")
    monkeypatch.setattr(sharding.Placement, "device", device)
    config = make_config(scan_unroll)
    mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
    job = Pretraining(config)
    state, _ = train.start(job, train.abstract_state(job, mesh), {})
    step = train.compile_step(job, mesh, lambda batch: batch)
    # Now, while the mesh says so.
    compiled = step.lower(state, {}, sharding.to_global(mesh, make_batch(0), ROWS)).compile()
    return state, lambda state, batch: compiled(state, {}, sharding.to_global(mesh, batch, ROWS))


def flat(state):
    return jax.tree_util.tree_leaves_with_path(jax.device_get(state))


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_step_that_is_not_finite_leaves_all_but_its_number(monkeypatch, platform):
    state, step = make_step(monkeypatch, platform)
    state, metrics = step(state, make_batch(0))
    assert metrics["skipped"] == 0
    before = flat(state)
    bad = make_batch(1)
    bad["masked_lm_weights"] = bad["masked_lm_weights"] * np.float32(np.nan)
    state, metrics = step(state, bad)
    assert metrics["skipped"] == 1
    assert state["step"] == 2
    for (path, old), (_, new) in zip(before, flat(state), strict=True):
        if "step" not in jax.tree_util.keystr(path):
            assert np.array_equal(old, new), jax.tree_util.keystr(path)
    state, metrics = step(state, make_batch(2))
    assert metrics["skipped"] == 0
    assert not np.array_equal(before[0][1], flat(state)[0][1])


def test_every_form_trains_alike_and_one_goes_on_in_the_other(monkeypatch):
    """Losses within 1e-6 over 20 steps; the second half on the other form's state."""
    forms = [make_step(monkeypatch, "cpu", 1), make_step(monkeypatch, "gpu", "auto")]
    losses = []
    for (state, step), (_, other) in (forms, forms[::-1]):
        losses.append([])
        for number in range(STEPS):
            if number == STEPS // 2:
                step = other
            state, metrics = step(state, make_batch(number))
            losses[-1].append(float(metrics["loss"]))
    first, second = losses
    np.testing.assert_allclose(first, second, rtol=1e-6)
    assert abs(first[-1] - first[0]) > 0.01


@pytest.mark.parametrize(("platform", "expected"), [("gpu", "select"), ("cpu", "cond")])
def test_the_update_is_chosen_or_branched(monkeypatch, platform, expected):
    device = types.SimpleNamespace(platform=platform, device_kind="NVIDIA H100")
    monkeypatch.setattr(sharding.Placement, "device", device)
    config = make_config(1)
    mesh, job = sharding.make_mesh(config.mesh, jax.devices()[:1]), Pretraining(config)
    batch = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in make_batch(0).items()}
    step = train.compile_step(job, mesh, lambda batch: batch)
    names = {
        e.primitive.name for e in step.trace(train.abstract_state(job, mesh), {}, batch).jaxpr.eqns
    }
    assert ("cond" in names) == (expected == "cond")


@pytest.mark.parametrize(("asked", "expected"), [("auto", 12), (0, 12), (1, 1), (5, 5)])
def test_blocks_at_once(asked, expected):
    model = dataclasses.replace(config_lib.Model(), scan_unroll=asked)
    device = types.SimpleNamespace(platform="gpu", device_kind="NVIDIA H100")
    assert models.blocks_at_once(model, device) == expected
