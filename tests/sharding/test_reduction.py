"""Gradients of several devices are summed once a step, to where they are needed."""

import dataclasses
import functools
import types

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from states import assert_same

from bertjax import config as config_lib
from bertjax import models, sharding, train
from bertjax.checkpoints.manager import Checkpoints
from bertjax.plan import hlo
from bertjax.plan import stage as plan_stage
from bertjax.pretraining import Pretraining
from bertjax.sharding import table

MODEL = config_lib.Model(
    vocab_size=250,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=16,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    scan_unroll=1,  # the form of TPUs; a compiler gathers for unrolled blocks once in all
)
ROWS, LENGTH, PREDICTIONS = 16, 16, 3
ONE = config_lib.Mesh(data=1)
ZERO = config_lib.Mesh(data=4, fsdp=2, shard_optimizer_over_data=True)


def make_config(mesh, **optimizer):
    optimizer = {"name": "bert_lamb", "learning_rate": 1e-2, "warmup_steps": 2} | optimizer
    phase = config_lib.Phase(steps=100, sequence_length=LENGTH, batch_size=ROWS)
    return config_lib.Config(
        model=MODEL,
        phases={"phase1": phase},
        optimizer=config_lib.Optimizer(**optimizer),
        mesh=mesh,
    )


def make_batch(step):
    """A batch that is masked already; its rows and its micro-batches count differently."""
    rng = np.random.default_rng(step)
    positions = [rng.choice(LENGTH, PREDICTIONS, replace=False) for _ in range(ROWS)]
    return {
        "input_ids": rng.integers(5, 250, (ROWS, LENGTH)).astype(np.int32),
        "token_type_ids": np.zeros((ROWS, LENGTH), np.int32),
        "attention_mask": np.ones((ROWS, LENGTH), np.int32),
        "next_sentence_labels": rng.integers(0, 2, ROWS).astype(np.int32),
        "example_ids": np.arange(ROWS, dtype=np.int32),
        "masked_lm_positions": np.sort(positions).astype(np.int32),
        "masked_lm_ids": rng.integers(5, 250, (ROWS, PREDICTIONS)).astype(np.int32),
        "masked_lm_weights": rng.integers(0, 2, (ROWS, PREDICTIONS)).astype(np.float32),
    }


class Training:
    """A compiled step of a config on as many of the devices as its mesh has."""

    def __init__(self, config, micro_batches):
        size = config.mesh.data * config.mesh.fsdp * config.mesh.tensor
        job, self.mesh = Pretraining(config), sharding.make_mesh(config.mesh, jax.devices()[:size])
        self.abstract = train.abstract_state(job, self.mesh)
        shardings = jax.tree.map(lambda x: x.sharding, self.abstract)
        init = functools.partial(train.init_state, config, job.init)
        self.fresh = jax.jit(init, out_shardings=shardings)
        step = train.compile_step(job, self.mesh, lambda batch: batch, micro_batches)
        self.step = step.lower(self.abstract, {}, self._put(make_batch(0))).compile()
        self.collectives = hlo.Program(self.step.as_text(), size).collectives()

    def _put(self, batch):
        return sharding.to_global(self.mesh, batch, ROWS)

    def run(self, state, first, last):
        """`(state, losses)` of the steps from `first` to before `last`."""
        losses = []
        for number in range(first, last):
            state, metrics = self.step(state, {}, self._put(make_batch(number)))
            losses.append(float(metrics["loss"]))
        return state, losses

    def large(self, kind):
        """Executions in a step of the collectives that send more than a few sums."""
        return [c.count for c in self.collectives if c.kind == kind and c.bytes > 64]


@functools.cache
def training(mesh, micro_batches=1, **optimizer):
    return Training(make_config(mesh, **optimizer), micro_batches)


@pytest.fixture(scope="module")
def zero():
    return training(ZERO, micro_batches=2)


@pytest.fixture(scope="module")
def one():
    return training(ONE)


def assert_close(state, expected):
    def compare(a, b):
        assert np.linalg.norm(a - b) <= 2e-5 * max(np.linalg.norm(b), b.size**0.5 * 1e-2)

    jax.tree.map(compare, jax.device_get(state["params"]), jax.device_get(expected["params"]))


def continued(tmp_path, saver, reader):
    """Losses and state of 5 steps, the first 3 by one training, the others by another."""
    state, first = saver.run(saver.fresh(), 0, 3)
    checkpoints = Checkpoints(tmp_path / "checkpoints", 2)
    checkpoints.save(3, state)
    checkpoints.wait()
    step, restored = checkpoints.restore(reader.abstract)
    checkpoints.close()
    assert step == 3
    assert_same(jax.device_get(restored), jax.device_get(state))
    state, last = reader.run(restored, 3, 5)
    return first + last, state


def test_a_checkpoint_goes_on_with_another_placement_and_with_equal_losses(tmp_path, zero, one):
    """LAMB, clipped: norms of layers and of the whole gradient are those of whole arrays."""
    expected, losses = one.run(one.fresh(), 0, 5)
    assert losses[0] != losses[4]
    for name, saver, reader in (("there", zero, one), ("back", one, zero)):
        found, state = continued(tmp_path / name, saver, reader)
        np.testing.assert_allclose(found, losses, rtol=2e-6)
        assert_close(state, expected)


def test_a_step_reduces_and_gathers_once_whatever_its_micro_batches(zero):
    state = jax.tree_util.tree_leaves_with_path(zero.abstract)
    moments = [x for path, x in state if "opt_state/0/mu" in sharding.leaf_name(path)]
    split = [x for x in moments if "data" in str(x.sharding.spec)]
    reduced, gathered = zero.large("reduce-scatter"), zero.large("all-gather")
    assert len(split) == len(moments) - 1  # all but the bias [2]
    assert len(reduced) >= len(split)
    assert set(reduced) == set(gathered) == {1}
    assert not zero.large("all-to-all")
    assert not zero.large("collective-permute")


def test_devices_hold_their_share_of_the_moments(zero, one):
    whole = plan_stage.bytes_per_device(one.abstract["opt_state"])
    assert plan_stage.bytes_per_device(zero.abstract["opt_state"]) < whole / 8 * 1.05
    specs = [x.sharding.spec for x in jax.tree.leaves(zero.abstract["params"])]
    assert not any("data" in str(spec) for spec in specs)
    state = jax.eval_shape(zero.fresh)
    assert jax.tree.structure(state) == jax.tree.structure(one.abstract)


def test_a_step_that_is_not_finite_leaves_the_state_as_it_was(zero):
    before, _ = zero.run(zero.fresh(), 0, 1)
    kept = jax.device_get(before)
    batch = make_batch(1)
    batch["masked_lm_weights"] *= np.nan
    after, metrics = zero.step(before, {}, zero._put(batch))
    assert metrics["skipped"] == 1
    assert_same(jax.device_get(after), kept | {"step": kept["step"] + 1})


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimizer",
    [
        {"name": "adamw", "clip_norm": 0.1},
        {"name": "bert_adamw", "clip_mode": "per_shard", "clip_norm": 0.1},
    ],
)
@pytest.mark.parametrize("mesh", [(8, 1, 1), (2, 2, 2)])
def test_zero_1_trains_as_one_device_does(mesh, optimizer):
    data, fsdp, tensor = mesh
    mesh = config_lib.Mesh(data, fsdp, tensor, shard_optimizer_over_data=True)
    optimizer = {"learning_rate": 1e-3} | optimizer
    one, zero = training(ONE, **optimizer), training(mesh, **optimizer)
    expected, losses = one.run(one.fresh(), 0, 5)
    state, found = zero.run(zero.fresh(), 0, 5)
    np.testing.assert_allclose(found, losses, rtol=2e-6)
    assert_close(state, expected)


@pytest.mark.slow
def test_micro_batches_do_not_multiply_what_fsdp_sends():
    def sent(gather, micro_batches):
        found = training(config_lib.Mesh(1, 8, fsdp_gather=gather), micro_batches).collectives
        return sum(c.count * c.bytes for c in found)

    assert sent("step", 2) == pytest.approx(sent("step", 1), rel=0.01)
    assert sent("layer", 2) > 1.8 * sent("layer", 1)


@pytest.mark.parametrize(
    ("own", "shape", "expected"),
    [
        (P(None, "fsdp", "tensor"), (12, 768, 3072), P(None, ("fsdp", "data"), "tensor")),
        (P(None, "tensor", "fsdp"), (12, 6, 64), P(None, "tensor", ("fsdp", "data"))),
        (P(None, None), (24, 8), P("data", None)),  # the last only where no other divides
        (P(None, None), (12, 8), P(None, "data")),
        (P(None, None), (12, 12), P(None, None)),
        (P("fsdp"), (8,), P("fsdp")),
        (P(), (), P()),
    ],
)
def test_data_splits_a_dimension_that_it_divides(own, shape, expected):
    mesh = types.SimpleNamespace(shape={"data": 8, "fsdp": 2, "tensor": 2})
    assert table.over_data(own, shape, mesh) == expected


def test_a_mesh_maps_over_fsdp_where_that_saves_bytes():
    mesh = types.SimpleNamespace(shape={"data": 2, "fsdp": 4, "tensor": 1})
    for gather, micro_batches, expected in (
        ("auto", 1, ("data",)),
        ("auto", 2, ("data", "fsdp")),
        ("layer", 2, ("data",)),
        ("step", 1, ("data", "fsdp")),
    ):
        config = config_lib.Mesh(fsdp_gather=gather)
        assert sharding.mapped_axes(config, mesh, micro_batches) == expected
    assert sharding.fsdp_gather(config_lib.Mesh(), mesh, 2) == "step"
    mesh.shape["fsdp"] = 1
    assert sharding.fsdp_gather(config_lib.Mesh(), mesh, 2) is None
    assert sharding.mapped_axes(config_lib.Mesh(fsdp_gather="step"), mesh, 8) == ("data",)


def test_kernels_in_the_compute_type_give_the_same_outputs():
    config = dataclasses.replace(MODEL, dtype="bfloat16", num_hidden_layers=1)
    params = models.init(config, jax.random.key(0))
    cast = models.cast_kernels(config, params)
    assert cast["blocks"]["query"]["kernel"].dtype == "bfloat16"
    assert cast["blocks"]["query"]["bias"].dtype == "float32"
    apply = jax.jit(functools.partial(models.apply, config))
    assert_same(apply(cast, make_batch(0)), apply(params, make_batch(0)))


@pytest.mark.parametrize("mesh", [config_lib.Mesh(data=4, fsdp=2), ZERO])
def test_sums_by_block_are_the_same_numbers_in_the_same_places(mesh):
    made = sharding.make_mesh(mesh)
    rng = np.random.default_rng(0)
    shapes = models.abstract_params(MODEL)
    parts = jax.tree.map(lambda x: rng.standard_normal((4, *x.shape)).astype(np.float32), shapes)

    def summed(by_block):
        over = mesh.shard_optimizer_over_data
        return jax.jit(
            lambda x: sharding.summed(
                made, x, ("data",), optimizer_over_data=over, by_block=by_block
            )
        )(parts)

    whole, blocks = summed(False), summed(True)
    for mine, expected in zip(jax.tree.leaves(blocks), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(mine, expected)
        assert mine.sharding.is_equivalent_to(expected.sharding, mine.ndim)
