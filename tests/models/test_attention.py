"""Attention: which kernel is chosen, and that the fused TPU kernel computes what the plain form does.

The kernel runs here in JAX's interpreter of kernels; that it compiles for TPUs is shown where
programs are compiled for them.
"""

import dataclasses
import functools
import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax import config as config_lib
from bertjax import models, pretraining, sharding, train
from bertjax.config import Model
from bertjax.errors import UsageError
from bertjax.models import attention, splash
from bertjax.pretraining import Pretraining

INTERPRETED = functools.partial(splash.attention, interpret=True)


# ---- the choice


KINDS = {"cpu": "cpu", "gpu": "NVIDIA H100", "tpu": "TPU v4"}


def device(platform, kind=None, capability=None):
    device = types.SimpleNamespace(platform=platform, device_kind=kind or KINDS[platform])
    if capability:
        device.compute_capability = capability
    return device


def choose(name, rate, dtype, where, length, unsplit=None, **fields):
    model = Model(attention=name, attention_probs_dropout_prob=rate, dtype=dtype, **fields)
    placement = models.Unplaced(device(*where.split(": ")), unsplit)
    return models.attention_kernel(model, placement, length)


def test_cudnn_takes_heads_that_it_has():
    """It raises while tracing on others."""
    for heads, kernel in ((12, "cudnn"), (6, "cudnn"), (96, "cudnn"), (4, "xla"), (128, "xla")):
        assert choose("auto", 0.0, "bfloat16", "gpu", 128, num_attention_heads=heads) == kernel


@pytest.mark.parametrize(
    ("arguments", "kernel"),
    [
        (("auto", 0.0, "float32", "tpu", 128), "splash"),
        (("auto", 0.0, "bfloat16", "tpu", 512), "splash"),
        (("splash", 0.0, "bfloat16", "tpu", 384), "splash"),
        (("auto", 0.1, "bfloat16", "tpu", 512), "xla"),  # dropout on probabilities
        (("auto", 0.0, "bfloat16", "tpu", 200), "xla"),
        (("auto", 0.0, "bfloat16", "tpu", 64), "xla"),
        (("auto", 0.0, "bfloat16", "tpu", 512, "rows together"), "xla"),
        (("auto", 0.0, "bfloat16", "tpu: TPU v5 lite", 512), "splash"),
        (("auto", 0.0, "bfloat16", "tpu: TPU v3", 512), "xla"),  # its compiler refuses splash
        (("xla", 0.0, "bfloat16", "tpu", 512), "xla"),
        (("auto", 0.0, "float32", "cpu", 512), "xla"),
        (("auto", 0.0, "bfloat16", "gpu", 200), "cudnn"),
        (("auto", 0.0, "bfloat16", "gpu", 201), "xla"),
        (("auto", 0.0, "bfloat16", "gpu: Tesla V100: 7.0", 200), "xla"),
        (("auto", 0.0, "bfloat16", "gpu: AMD Instinct MI300X: gfx942", 200), "xla"),
        (("auto", 0.0, "bfloat16", "gpu: NVIDIA B200: 10.0", 200), "cudnn"),
        (("auto", 0.1, "bfloat16", "gpu", 512), "xla"),
        (("auto", 0.0, "float32", "gpu", 512), "xla"),
        (("cudnn", 0.0, "bfloat16", "gpu", 512), "cudnn"),
        (("xla", 0.0, "bfloat16", "gpu", 512), "xla"),
    ],
)
def test_auto_takes_a_fused_kernel_where_it_computes_the_same(arguments, kernel):
    assert choose(*arguments) == kernel


@pytest.mark.parametrize(
    ("arguments", "lacking"),
    [
        (
            ("splash", 0.1, "bfloat16", "tpu", 512),
            "config.model.attention_probs_dropout_prob=0 (here: 0.1)",
        ),
        (("splash", 0.0, "float32", "cpu", 512), "a TPU v4 or later (here: cpu)"),
        (
            ("splash", 0.0, "bfloat16", "tpu", 200),
            "a sequence length that divides by 128 (here: 200)",
        ),
        (
            ("splash", 0.0, "bfloat16", "tpu", 512, "rows together"),
            "rows together",
        ),
        (
            ("splash", 0.1, "bfloat16", "gpu", 512),
            "config.model.attention_probs_dropout_prob=0 (here: 0.1) and a TPU v4 or later (here: NVIDIA H100)",
        ),
        (("cudnn", 0.0, "float32", "gpu", 512), "config.model.dtype=bfloat16 (here: float32)"),
        (
            ("cudnn", 0.1, "bfloat16", "gpu", 512),
            "config.model.attention_probs_dropout_prob=0 (here: 0.1)",
        ),
        (("cudnn", 0.0, "bfloat16", "tpu", 512), "an NVIDIA GPU, Ampere or later (here: TPU v4)"),
        (("cudnn", 0.0, "bfloat16", "gpu", 201), "an even sequence length (here: 201)"),
    ],
)
def test_a_kernel_asked_for_by_name_is_refused_where_it_cannot_run(arguments, lacking):
    with pytest.raises(UsageError) as refused:
        choose(*arguments)
    assert str(refused.value) == (
        f"config.model.attention='{arguments[0]}': needs {lacking}; "
        "or set config.model.attention=xla"
    )


def test_one_block_up_to_512_and_then_the_longest_that_divides():
    lengths = (128, 256, 384, 512, 640, 1024, 1152)
    assert [splash.block_length(n) for n in lengths] == [128, 256, 384, 512, 128, 512, 384]


# ---- what the kernel computes


def example(shape, dtype, *, packed):
    """`(arrays, batch)`: query, key, value and a cotangent `[B, L, H, K]`; rows end in padding."""
    rng = np.random.default_rng(sum(shape))
    arrays = [jnp.asarray(rng.standard_normal(shape), dtype) for _ in range(4)]
    rows, length = shape[:2]
    at_BL = np.arange(length)[None]
    real_BL = at_BL < rng.integers(length // 2, length, (rows, 1))
    names = ("input_ids", "attention_mask") + ("segment_ids",) * packed
    batch = dict.fromkeys(names, real_BL.astype(np.int32))
    if packed:
        batch["segment_ids"] = real_BL * (1 + (at_BL > length // 5) + (at_BL > length // 2))
    return arrays, jax.tree.map(lambda x: jnp.asarray(x, jnp.int32), batch)


def values_and_gradients(attend, arrays, batch):
    """What `attend` makes of real tokens, and the gradients of its product with the cotangent."""
    *qkv, cotangent_BLHK = arrays
    real_BL11 = batch["attention_mask"][..., None, None]

    def product(*qkv):
        mixed_BLHK = attend(*qkv).astype(jnp.float32) * real_BL11
        return jnp.sum(mixed_BLHK * cotangent_BLHK.astype(jnp.float32)), mixed_BLHK

    (_, mixed_BLHK), grads = jax.jit(jax.value_and_grad(product, argnums=(0, 1, 2), has_aux=True))(
        *qkv
    )
    return mixed_BLHK, *grads


def plain(arrays, batch):
    """In float32, whatever the arrays are."""
    arrays = [x.astype(jnp.float32) for x in arrays]
    mask_BLM = attention.attention_mask(batch)
    attend = functools.partial(
        attention.xla_attention, mask_BLM=mask_BLM, rate=0.0, dropout_key=None
    )
    return values_and_gradients(attend, arrays, batch)


def ids_of(batch):
    return batch.get("segment_ids", batch["attention_mask"])


def assert_equal(found, expected, tolerance):
    """Up to `tolerance` of the largest value of each array."""
    for a, b in zip(found, expected, strict=True):
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        assert np.abs(a - b).max() <= tolerance * np.abs(b).max()


SHAPES = [(128, 2, 64), (128, 3, 32), (512, 1, 64), (640, 1, 26)]  # 640: five blocks of 128
CASES = list(itertools.product(SHAPES, [False, True], ["float32", "bfloat16"]))
QUICK = [CASES[0], CASES[7], CASES[10], CASES[14]]  # every shape, float32 of each kind, bfloat16


@pytest.mark.parametrize(
    ("shape", "packed", "dtype"),
    QUICK + [pytest.param(*case, marks=pytest.mark.slow) for case in CASES if case not in QUICK],
)
def test_splash_is_the_plain_form_with_its_gradients(shape, packed, dtype):
    """bfloat16 keeps 8 bits: one rounding of a result is 0.4% of it."""
    length, heads, width = shape
    tolerance = {"float32": 2e-6, "bfloat16": 1e-2}[dtype]
    arrays, batch = example((2, length, heads, width), dtype, packed=packed)

    def attend(*qkv):
        return INTERPRETED(*qkv, ids_of(batch))

    found = values_and_gradients(attend, arrays, batch)
    assert all(x.dtype == dtype for x in found[1:])
    assert_equal(found, plain(arrays, batch), tolerance)


@pytest.mark.parametrize(
    "mesh",
    [(2, 2, 2)]
    + [
        pytest.param(m, marks=pytest.mark.slow)
        for m in ((1, 1, 1), (8, 1, 1), (1, 8, 1), (1, 1, 2))
    ],
    ids=lambda mesh: "x".join(map(str, mesh)),
)
def test_every_mesh_computes_the_same(mesh):
    devices = jax.devices()[: np.prod(mesh)]
    placement = sharding.Placement(sharding.make_mesh(config_lib.Mesh(*mesh), devices))
    arrays, batch = example((8, 128, 2, 16), jnp.float32, packed=True)
    kernel = placement.per_shard(INTERPRETED)

    def attend(*qkv):
        return kernel(*qkv, ids_of(batch))

    assert_equal(values_and_gradients(attend, arrays, batch), plain(arrays, batch), 2e-6)
    text = jax.jit(attend).lower(*arrays[:3]).compile().as_text()
    assert "all-gather" not in text  # each device computes its rows and heads alone
    assert "all-to-all" not in text


# ---- the kernel in a model

SILENT = Model(
    vocab_size=61,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=128,
    hidden_dropout_prob=0.1,
    attention_probs_dropout_prob=0.0,
)


@pytest.fixture
def tpu(monkeypatch):
    """Meshes say that they are of TPUs; the kernel is interpreted."""
    monkeypatch.setattr(sharding.Placement, "device", device("tpu"))
    monkeypatch.setattr(splash, "attention", INTERPRETED)


def make_config(**fields):
    phase = config_lib.Phase(steps=10, sequence_length=128, batch_size=8)
    return config_lib.Config(model=SILENT, phases={"phase1": phase}, **fields)


def make_batch(rows=8, predictions=5):
    rng = np.random.default_rng(3)
    _, batch = example((rows, 128, 1, 1), np.float32, packed=True)
    return batch | {
        "input_ids": rng.integers(5, 61, (rows, 128)).astype(np.int32),
        "token_type_ids": np.zeros((rows, 128), np.int32),
        "position_ids": np.tile(np.arange(128, dtype=np.int32), (rows, 1)),
        "cls_positions": np.tile(np.array([0, 26], np.int32), (rows, 1)),
        "next_sentence_labels": rng.integers(0, 2, (rows, 2)).astype(np.int32),
        "example_ids": np.arange(2 * rows, dtype=np.int32).reshape(rows, 2),
        "masked_lm_positions": rng.integers(0, 60, (rows, predictions)).astype(np.int32),
        "masked_lm_ids": rng.integers(5, 61, (rows, predictions)).astype(np.int32),
        "masked_lm_weights": np.ones((rows, predictions), np.float32),
    }


@pytest.mark.slow
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_a_training_step_is_the_same_with_either_kernel(tpu, micro_batches):
    def step(kernel):
        config = make_config(mesh=config_lib.Mesh(data=2, fsdp=2, tensor=2))
        config = dataclasses.replace(config, model=dataclasses.replace(SILENT, attention=kernel))
        mesh = sharding.make_mesh(config.mesh)
        state = jax.jit(lambda: train.init_state(config, Pretraining(config).init))()
        state["step"] += 1  # at step 0 warm-up leaves nothing to compare
        run = train.compile_step(Pretraining(config), mesh, lambda batch: batch, micro_batches)
        state, metrics = run(state, {}, sharding.to_global(mesh, make_batch(), 8))
        moments = jax.device_get(state["opt_state"][0].mu)
        return {k: float(v) for k, v in metrics.items()}, moments

    (plain_metrics, plain_moments), (metrics, moments) = step("xla"), step("auto")
    assert metrics == pytest.approx(plain_metrics, rel=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max() + 1e-9),
        moments,
        plain_moments,
    )


def gradient_program(**fields):
    """The text of one gradient's program, before it is compiled."""
    config = make_config()
    config = dataclasses.replace(config, model=dataclasses.replace(SILENT, **fields))
    place = train.placement_of(config, sharding.make_mesh(config_lib.Mesh(), jax.devices()[:1]))
    params = models.abstract_params(config.model)
    gradient = functools.partial(
        train.gradients, Pretraining(config), frozen={}, dropout_key=None, placement=place
    )
    return jax.jit(gradient).lower(params, batch=make_batch()).as_text()


def test_the_mask_is_not_written_out_where_ids_do(tpu):
    whole = "tensor<8x128x128xi1>"
    assert whole in gradient_program(attention="xla")
    assert whole not in gradient_program(attention="splash")


def test_the_kernel_is_run_again_only_where_nothing_is_kept(tpu):
    """`dots` keeps the results of matrix products, the kernel's among them.

    The interpreter makes a loop of every run of a kernel.
    """
    none, dots, full = (
        gradient_program(remat=remat).count("stablehlo.while") for remat in ("none", "dots", "full")
    )
    assert none == dots < full


def test_parts_that_are_clipped_alone_take_the_plain_form(tpu):
    """vmap walks over the parts, which no shard_map can place."""
    clipping = config_lib.Optimizer(clip_mode="per_shard", clip_shards=8)
    config, mesh = make_config(optimizer=clipping), sharding.make_mesh(config_lib.Mesh())
    place = train.placement_of(config, mesh)
    assert place.device.platform == "tpu"
    assert place.unsplit == "config.optimizer.clip_mode=global (here: per_shard)"
    assert models.attention_kernel(config.model, place, 128) == "xla"
    batch = make_batch()
    run = train.compile_step(Pretraining(config), mesh, lambda batch: batch)
    text = run.trace(
        train.abstract_state(Pretraining(config), mesh), {}, batch
    ).jaxpr.pretty_print()
    assert "pallas_call" not in text


def test_a_kernel_that_a_later_phase_cannot_take_is_refused_at_once(tpu, tmp_path):
    """Not when its phase begins, after all the steps before it; nor after a corpus is prepared."""
    phases = {
        "phase1": config_lib.Phase(steps=10, sequence_length=128, batch_size=8),
        "phase2": config_lib.Phase(steps=10, sequence_length=200, batch_size=8),
    }
    model = dataclasses.replace(SILENT, attention="splash", max_position_embeddings=256)
    evaluation = config_lib.Evaluation(batch_size=8)
    config = config_lib.Config(model=model, phases=phases, evaluation=evaluation)
    with pytest.raises(UsageError, match=r"divides by 128 \(here: 200\)"):
        pretraining.pretrain(config, tmp_path)
    assert not list(tmp_path.iterdir())
