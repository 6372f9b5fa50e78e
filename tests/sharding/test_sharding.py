"""Placement: every mesh trains the same model, FSDP saves memory, the table covers all."""

import dataclasses
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from bertjax import config as config_lib
from bertjax import keys, models, sharding, train
from bertjax.errors import UsageError
from bertjax.pretraining import Pretraining

MODEL = config_lib.Model(
    vocab_size=500,
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=128,
    max_position_embeddings=64,
)
PHASE = config_lib.Phase(steps=100, sequence_length=32, batch_size=16, max_predictions_per_seq=5)
OPTIMIZER = config_lib.Optimizer(learning_rate=1e-3, warmup_steps=2)


def make_config(**fields):
    return config_lib.Config(model=MODEL, phases={"phase1": PHASE}, optimizer=OPTIMIZER, **fields)


def make_batch(step, rows=PHASE.batch_size):
    """A batch that is masked already, with rows of different lengths."""
    rng = np.random.default_rng(step)
    length, predictions = PHASE.sequence_length, PHASE.max_predictions_per_seq
    attended = np.arange(length) < rng.integers(8, length + 1, (rows, 1))
    positions = np.stack([rng.choice(8, predictions, replace=False) for _ in range(rows)])
    return {
        "input_ids": rng.integers(5, 500, (rows, length)).astype(np.int32) * attended,
        "token_type_ids": (np.arange(length) > 10).astype(np.int32) * attended,
        "attention_mask": attended.astype(np.int32),
        "next_sentence_labels": rng.integers(0, 2, rows).astype(np.int32),
        "example_ids": np.arange(rows, dtype=np.int32),
        "masked_lm_positions": np.sort(positions).astype(np.int32),
        "masked_lm_ids": rng.integers(5, 500, (rows, predictions)).astype(np.int32),
        "masked_lm_weights": np.ones((rows, predictions), np.float32),
    }


def run(config, num_devices, steps=10):
    """Losses and final parameters of `steps` steps on a mesh of the first devices."""
    mesh = sharding.make_mesh(config.mesh, jax.devices()[:num_devices])
    shardings = jax.tree.map(lambda x: x.sharding, train.abstract_state(Pretraining(config), mesh))
    state = jax.jit(
        lambda: train.init_state(config, Pretraining(config).init), out_shardings=shardings
    )()
    step_fn = train.compile_step(Pretraining(config), mesh, lambda batch: batch)
    losses = []
    for _ in range(steps):
        batch = sharding.to_global(mesh, make_batch(0), PHASE.batch_size)
        state, metrics = step_fn(state, {}, batch)
        losses.append(float(metrics["loss"]))
    return np.array(losses), jax.device_get(state["params"])


@pytest.fixture(scope="module")
def single():
    return run(make_config(), 1)


@pytest.mark.parametrize(
    ("data", "fsdp", "tensor"),
    [(2, 2, 2)]
    + [
        pytest.param(*mesh, marks=pytest.mark.slow)
        for mesh in ((8, 1, 1), (1, 8, 1), (1, 1, 4), (1, 4, 2))
    ],
)
def test_every_mesh_gives_the_single_device_losses(single, data, fsdp, tensor):
    config = make_config(mesh=config_lib.Mesh(data=data, fsdp=fsdp, tensor=tensor))
    losses, _ = run(config, data * fsdp * tensor)
    assert single[0][-1] < single[0][0]  # it does learn, so the equality says something
    np.testing.assert_allclose(losses, single[0], atol=1e-5)


def compiled(config):
    mesh = sharding.make_mesh(config.mesh)
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding.batch_sharding(mesh)),
        make_batch(0),
    )
    step_fn = train.compile_step(Pretraining(config), mesh, lambda batch: batch)
    return step_fn.lower(train.abstract_state(Pretraining(config), mesh), {}, batch).compile()


@pytest.mark.slow
def test_fsdp_divides_the_bytes_of_the_state():
    whole = compiled(make_config()).memory_analysis().argument_size_in_bytes
    parts = compiled(make_config(mesh=config_lib.Mesh(data=1, fsdp=8))).memory_analysis()
    # What stays whole: LayerNorms, biases, the [D, 2] head, and the batch's share.
    assert parts.argument_size_in_bytes < whole / 8 * 1.25


def shapes_of(text, op):
    """Element counts of the results of every `op` in the text of a compiled program."""
    found = re.findall(rf"= \(?\w+\[([\d,]*)\][^=]*? {op}(?:-start)?\(", text)
    return [int(np.prod([int(d) for d in dims.split(",") if d])) for dims in found]


def test_data_parallel_step_gathers_nothing_and_makes_random_bits_where_they_are_used():
    text = compiled(make_config()).as_text()
    assert not shapes_of(text, "all-gather")
    assert shapes_of(text, "all-reduce")  # the gradients, so the pattern above can match
    # Dropout of [B, H, L, L] takes 16 bits an element; a device may make its eighth of the
    # words, and twice that where two words come from one call.
    whole = PHASE.batch_size * MODEL.num_attention_heads * PHASE.sequence_length**2 // 2
    made = [
        int(np.prod([int(d) for d in dims.split(",") if d]))
        for dims in re.findall(r"u32\[([\d,]+)\]", text)
    ]
    assert max(made) <= whole // 4


def test_fsdp_with_tensor_parallelism_gathers_weights_and_never_the_batch():
    """What is gathered is at most the largest weight; hidden states of the batch are larger."""
    text = compiled(make_config(mesh=config_lib.Mesh(data=2, fsdp=2, tensor=2))).as_text()
    gathered = shapes_of(text, "all-gather")
    table = 512 * MODEL.hidden_size // 2  # the padded vocabulary, split in two by `tensor`
    assert max(gathered) <= table
    reduced = shapes_of(text, "all-reduce")
    assert reduced
    assert PHASE.batch_size * PHASE.sequence_length * MODEL.hidden_size not in reduced


def test_table_covers_every_parameter_and_moment():
    config = make_config(mesh=config_lib.Mesh(data=2, fsdp=2, tensor=2))
    mesh = sharding.make_mesh(config.mesh)
    state = train.abstract_state(Pretraining(config), mesh)
    kernel = state["params"]["blocks"]["query"]["kernel"]
    assert kernel.sharding.spec == P(None, "fsdp", "tensor")
    assert state["opt_state"][0].mu["blocks"]["query"]["kernel"].sharding == kernel.sharding
    with pytest.raises(ValueError, match="no row of"):
        sharding.spec("blocks/gate/kernel", 3)


@pytest.mark.parametrize(
    ("mesh", "said"),
    [
        (config_lib.Mesh(data=3), "does not fit 8 devices"),
        (config_lib.Mesh(tensor=8), "config.mesh.tensor=8: must divide config.model.num_attention"),
    ],
)
def test_meshes_that_do_not_fit_are_named(mesh, said):
    config = make_config(mesh=mesh)
    with pytest.raises(UsageError, match=said.replace(".", r"\.")):
        sharding.check(config, sharding.make_mesh(config.mesh))


def test_tensor_parallelism_splits_the_padded_vocabulary_too():
    """30,592 = 2^7 * 239, though 3 divides the heads and the hidden sizes of Base."""
    phases = {"phase1": config_lib.Phase(steps=1, batch_size=64)}
    mesh = types.SimpleNamespace(shape={"data": 1, "fsdp": 1, "tensor": 3})
    said = r"mesh\.tensor=3: must divide config\.model\.vocab_size, padded to=30592"
    with pytest.raises(UsageError, match=said):
        sharding.check(config_lib.Config(phases=phases), mesh)


def test_axes_that_are_no_products_of_a_slices_sides_split_them(monkeypatch):
    """JAX raises NotImplementedError for 8 x 8 on a slice of 4x4x4 chips, unless it may."""

    def create_device_mesh(sizes, devices, allow_split_physical_axes=False):
        if not allow_split_physical_axes:
            raise NotImplementedError(
                "Failed to find assignment for logical_axis_index 1 of size 4"
            )
        return np.array(devices).reshape(sizes)

    monkeypatch.setattr("jax.experimental.mesh_utils.create_device_mesh", create_device_mesh)
    assert sharding.make_mesh(config_lib.Mesh(fsdp=4)).shape == {"data": 2, "fsdp": 4, "tensor": 1}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"batch_size": 12}, "batch_size=12: does not divide by .* 8 devices; take 16"),
        (
            {"batch_size": 64, "ramp_from": 4, "ramp_steps": 50},
            "ramp_from=4: does not divide by .* 8 devices; take 8",
        ),
        (
            {"batch_size": 8, "ramp_from": 2, "ramp_steps": 50},
            "ramp_from=2: does not divide by .*; take 0",
        ),
        (
            {"batch_size": 48, "micro_batch_size": 12},
            "micro_batch_size=12: does not divide by .*; take 16",
        ),
        ({"batch_size": 96, "ramp_from": 24, "ramp_steps": 50, "micro_batch_size": 32}, None),
        (
            {"batch_size": 96, "ramp_from": 24, "ramp_steps": 50, "micro_batch_size": 12},
            "micro_batch_size=12: does not divide by .*; take 16",
        ),
    ],
)
def test_batches_that_do_not_divide_are_named_with_the_next_that_do(fields, said):
    phases = {
        "phase1": config_lib.Phase(steps=0, batch_size=3),
        "phase2": dataclasses.replace(PHASE, **fields),
    }
    config = config_lib.Config(model=MODEL, phases=phases)
    mesh = sharding.make_mesh(config.mesh)
    if said is None:
        return sharding.check(config, mesh)
    with pytest.raises(UsageError, match=rf"config\.phases\.phase2\.{said}$"):
        sharding.check(config, mesh)


@pytest.mark.slow
def test_per_shard_clipping_is_the_mean_of_clipped_parts_on_any_mesh():
    """Against the rule written out: gradient of each eighth, clipped alone, averaged."""
    model = dataclasses.replace(MODEL, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    opt = dataclasses.replace(OPTIMIZER, clip_mode="per_shard", clip_shards=8, clip_norm=0.5)
    config = config_lib.Config(model=model, phases={"phase1": PHASE}, optimizer=opt)
    job = Pretraining(config)
    params = job.init(keys.root(config.seed, keys.INIT))
    batch = make_batch(0)
    shard_clipped_gradients = jax.jit(
        lambda p, b: train.shard_clipped_gradients(job, p, {}, b, None, models.Unplaced())
    )
    gradients = jax.jit(lambda p, b: train.gradients(job, p, {}, b, None, models.Unplaced()))
    got, _ = shard_clipped_gradients(params, batch)
    total, clipped = jax.tree.map(jnp.zeros_like, params), 0
    for part in range(8):
        rows = jax.tree.map(lambda x, part=part: x[2 * part : 2 * part + 2], batch)
        grads, _ = gradients(params, rows)
        norm = float(jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(grads))))
        clipped += norm > 0.5
        total = jax.tree.map(lambda t, g, n=norm: t + g * min(1, 0.5 / n) / 8, total, grads)
    assert clipped == 8
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), got, total)
    text = compiled(dataclasses.replace(config, mesh=config_lib.Mesh())).as_text()
    assert not shapes_of(text, "all-gather")
