"""In a model and in a training step, flash attention agrees with the plain form and its dropout.

The kernels run in JAX's interpreter of kernels.
"""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from devices import pretend_platform

from bertjax import config as config_lib
from bertjax import kernels, models, pretraining, sharding, train
from bertjax.config import Model
from bertjax.errors import UsageError
from bertjax.pretraining import Pretraining

TINY = Model(
    vocab_size=61,
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=128,
    hidden_dropout_prob=0.1,
    attention_probs_dropout_prob=0.1,
)


@pytest.fixture
def pretend(monkeypatch):
    """Meshes say that they are of a platform; its kernels are interpreted."""
    return functools.partial(pretend_platform, monkeypatch)


@pytest.fixture
def tpu(pretend):
    pretend("tpu")


def make_config(**fields):
    phase = config_lib.Phase(steps=10, sequence_length=128, batch_size=8)
    return config_lib.Config(model=TINY, phases={"phase1": phase}, **fields)


def make_batch(rows=8, predictions=5):
    """Rows with two examples, or with more padding than tokens."""
    rng = np.random.default_rng(3)
    at = np.arange(128)[None]
    real = at < rng.integers(64, 128, (rows, 1))
    batch = {
        "input_ids": rng.integers(5, 61, (rows, 128)),
        "attention_mask": real,
        "segment_ids": real * (1 + (at > 25) + (at > 64)),
        "token_type_ids": np.zeros((rows, 128)),
        "position_ids": np.tile(np.arange(128), (rows, 1)),
        "cls_positions": np.tile(np.array([0, 26]), (rows, 1)),
        "next_sentence_labels": rng.integers(0, 2, (rows, 2)),
        "example_ids": np.arange(2 * rows).reshape(rows, 2),
        "masked_lm_positions": rng.integers(0, 60, (rows, predictions)),
        "masked_lm_ids": rng.integers(5, 61, (rows, predictions)),
    }
    weights = np.ones((rows, predictions), np.float32)
    return {k: x.astype(np.int32) for k, x in batch.items()} | {"masked_lm_weights": weights}


@pytest.mark.slow
@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("platform", ["tpu", "gpu"])
def test_training_is_the_same_with_either_kernel(pretend, platform, micro_batches):
    """Losses of 20 steps, and the moments after them."""
    pretend(platform)

    def steps(kernel, number=20):
        config = make_config(mesh=config_lib.Mesh(data=2, fsdp=2, tensor=2))
        config = config.with_model(attention=kernel, layer_norm=kernel)
        mesh = sharding.make_mesh(config.mesh)
        taken = (
            kernels.attention(config, mesh, 128),
            kernels.layer_norm(config, mesh, 128),
        )
        fused = "flash", "fused" if platform == "gpu" else "xla"
        assert taken == (("xla", "xla") if kernel == "xla" else fused)
        state = jax.jit(lambda: train.init_state(config, Pretraining(config).init))()
        state["step"] += 1  # at step 0 the warm-up rate is 0, and nothing would change
        run = train.compile_step(Pretraining(config), mesh, lambda batch: batch, micro_batches)
        batch, figures = sharding.to_global(mesh, make_batch(), 8), []
        for _ in range(number):
            state, metrics = run(state, {}, batch)
            figures.append({k: float(v) for k, v in metrics.items()})
        return figures, jax.device_get(state["opt_state"][0].mu)

    (plain_figures, plain_moments), (figures, moments) = steps("xla"), steps("auto")
    for found, expected in zip(figures, plain_figures, strict=True):
        assert found == pytest.approx(expected, rel=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max() + 1e-9),
        moments,
        plain_moments,
    )


def gradient_program(**fields):
    """The lowered program of one gradient, before compilation."""
    config = make_config()
    config = dataclasses.replace(config, model=dataclasses.replace(TINY, **fields))
    place = train.placement_of(config, sharding.make_mesh(config_lib.Mesh(), jax.devices()[:1]))
    params = models.abstract_params(config.model)
    gradient = functools.partial(
        train.gradients, Pretraining(config), frozen={}, dropout_key=None, placement=place
    )
    return jax.jit(gradient).lower(params, batch=make_batch())


def test_the_mask_is_not_written_out_where_ids_do(tpu):
    whole = "tensor<8x128x128xi1>"
    assert whole in gradient_program(attention="xla").as_text()
    assert whole not in gradient_program(attention="flash").as_text()


@pytest.mark.slow
def test_the_kernel_is_run_again_only_where_nothing_is_kept(tpu):
    """`dots` saves the results of matmuls, and the kernel's output is one of these.

    The interpreter turns every run of a kernel into a loop. The compiler removes loops whose
    results are not used.
    """
    none, dots, full = (
        gradient_program(remat=remat).compile().as_text().count(" while(")
        for remat in ("none", "dots", "full")
    )
    assert none == dots < full


def test_parts_that_are_clipped_alone_take_the_plain_form(tpu):
    """vmap maps over the parts, and no shard_map can place such a map."""
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
    """At once: not at the start of the later phase, and not after a corpus is prepared."""
    phases = {
        "phase1": config_lib.Phase(steps=10, sequence_length=128, batch_size=8),
        "phase2": config_lib.Phase(steps=10, sequence_length=200, batch_size=8),
    }
    model = dataclasses.replace(TINY, attention="flash", max_position_embeddings=256)
    evaluation = config_lib.Evaluation(batch_size=8)
    config = config_lib.Config(model=model, phases=phases, evaluation=evaluation)
    with pytest.raises(UsageError, match=r"divides by 128 \(here: 200\)"):
        pretraining.pretrain(config, tmp_path)
    assert not list(tmp_path.iterdir())
