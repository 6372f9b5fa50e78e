"""What one platform alone can run is traced here for all: every kernel in every kind of step.

Tracing and lowering need no GPU and no TPU; what a kernel computes is shown elsewhere.
"""

import dataclasses
import functools
import importlib
import itertools
import re
import runpy
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax._src.cudnn import fused_attention_stablehlo as jax_cudnn

from bertjax import config as config_lib
from bertjax import evaluate, kernels, models, sharding, train
from bertjax.config import stages
from bertjax.data import pipeline
from bertjax.plan import budget
from bertjax.pretraining import Pretraining

# Attention kernel -> its platform, as JAX's lowering and as a device names it, and the kernels that
# a step calls there, as its program names them.
_CUDNN, _FLASH, _NORM = (
    "dot_product_attention_fwd_wrapper",
    "attention_forward",
    "layer_norm_forward",
)
PLATFORMS = {
    "xla": ("cuda", "gpu", "Tesla V100-SXM2-16GB", set()),
    "cudnn": ("cuda", "gpu", "NVIDIA H100", {_CUDNN, _NORM}),
    "flash": ("tpu", "tpu", "TPU v5 lite", {_FLASH}),
    "flash on a GPU": ("cuda", "gpu", "NVIDIA H100", {_FLASH, _NORM}),
}


@pytest.fixture
def platform(monkeypatch):
    """Meshes say that they are of the platform of a kernel."""

    def pretend(kernel):
        _, platform, kind, _ = PLATFORMS[kernel]
        capability = "7.0" if "V100" in kind else "9.0"
        device = types.SimpleNamespace(
            platform=platform, device_kind=kind, compute_capability=capability
        )
        monkeypatch.setattr(sharding.Placement, "device", device)
        monkeypatch.setattr(jax_cudnn, "check_cudnn_version", lambda: 91000)
        if kernel == "flash on a GPU" and jax.__version_info__ >= (0, 11):
            # Its lowering asks what the GPU at hand is, and takes a CPU for none.
            info = importlib.import_module("jax._src.pallas.triton.gpu_info")
            h100 = functools.partial(info.get_gpu_info_from_version, info.GpuVersion.H100)
            monkeypatch.setitem(info.registry, "cpu", h100)

    return pretend


@functools.cache
def published(name: str) -> config_lib.Config:
    path = Path(__file__).parents[1] / "configs" / f"bert_{name}.py"
    return config_lib.from_config_dict(runpy.run_path(str(path))["get_config"]())


def make_config(
    name, packed, length, kernel, micro_batches=1, mesh=None, **fields
) -> config_lib.Config:
    """A published recipe with one short phase, in which `auto` takes the kernel."""
    config = published(name)
    rate = 0.0 if kernel == "cudnn" else 0.1
    config = config.with_model(
        attention_probs_dropout_prob=rate, dtype="bfloat16", attention="auto", remat="none"
    )
    rows = 8 * micro_batches
    phase = dataclasses.replace(
        config.phases["phase1"],
        steps=10,
        sequence_length=length,
        batch_size=rows,
        micro_batch_size=8,
    )
    examples = dataclasses.replace(config.examples, max_per_row=4 if packed else 1)
    fields["mesh"] = mesh or config_lib.Mesh()
    return dataclasses.replace(config, phases={"phase1": phase}, examples=examples, **fields)


def abstract_batch(config, mesh):
    (stage,) = stages.of(config)
    placed = sharding.batch_sharding(mesh)
    return {
        name: jax.ShapeDtypeStruct(shape, jnp.int32, sharding=placed)
        for name, shape in pipeline.batch_shapes(config, stage.phase).items()
    }


def is_slow(name, packed, length, kernel):
    """The plain form runs in all other tests too; flash is called alike on GPUs and TPUs."""
    if kernel == "flash on a GPU":
        return (name, packed, length) != ("base", True, 128)
    return kernel == "xla" and name != "base"


SIZES = [
    pytest.param(*size, marks=[pytest.mark.slow] * is_slow(*size))
    for size in itertools.product(("base", "large"), (False, True), (128, 512), PLATFORMS)
]
FEW = config_lib.Mesh(2, 2, 2)


def trace(function, arguments, kernel):
    """Traces a step; its program must call the kernels of its platform and no others."""
    traced = function.trace(*arguments)
    text = traced.jaxpr.pretty_print(source_info=False, name_stack=False)
    found = {name for name in (_CUDNN, _FLASH, _NORM) if re.search(rf"\b{name}\b", text)}
    assert found == PLATFORMS[kernel][-1]
    return traced


def training(config, kernel):
    (stage,) = stages.of(config)
    mesh = sharding.make_mesh(config.mesh, jax.devices()[: 8 if config.mesh == FEW else 1])
    assert kernels.attention(config, mesh, stage.phase.sequence_length) == kernel.split()[0]
    job = Pretraining(config, budget.AnyTokenizer(config.model.vocab_size))
    step = train.compile_step(job, mesh, job.prepare(stage), stage.micro_batches)
    arguments = train.abstract_state(job, mesh), {}, abstract_batch(config, mesh)
    return trace(step, arguments, kernel)


@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize(("name", "packed", "length", "kernel"), SIZES)
def test_a_training_step_is_traced(platform, name, packed, length, kernel, micro_batches):
    platform(kernel)
    training(make_config(name, packed, length, kernel, micro_batches), kernel)


@pytest.mark.parametrize(("name", "packed", "length", "kernel"), SIZES)
def test_an_evaluation_is_traced(platform, name, packed, length, kernel):
    platform(kernel)
    config = make_config(name, packed, length, kernel)
    (stage,), mesh = stages.of(config), sharding.make_mesh(config.mesh, jax.devices()[:1])
    job = Pretraining(config, budget.AnyTokenizer(config.model.vocab_size))
    params = sharding.abstract(mesh, models.abstract_params(config.model))
    measure = evaluate.jit_measure(job, mesh, job.prepare(stage, heldout=True))
    trace(measure, (params, {}, abstract_batch(config, mesh)), kernel)


CALLS = {
    "cudnn": "CustomSPMDPartitioning",
    "flash": "tpu_custom_call",
    "flash on a GPU": "__gpu$xla.gpu.triton",
}


@pytest.mark.parametrize("kernel", CALLS)
@pytest.mark.parametrize("packed", [False, True])
def test_a_step_on_several_devices_is_lowered(platform, kernel, packed):
    """As far as a machine without the platform comes."""
    platform(kernel)
    traced = training(make_config("base", packed, 128, kernel, mesh=FEW), kernel)
    text = traced.lower(lowering_platforms=(PLATFORMS[kernel][0],)).as_text()
    assert CALLS[kernel] in text


@pytest.mark.parametrize("packed", [False, True])
def test_cudnn_is_called_by_lengths_or_with_a_mask(platform, packed):
    platform("cudnn")
    text = (
        training(make_config("base", packed, 128, "cudnn"), "cudnn")
        .lower(lowering_platforms=("cuda",))
        .as_text()
    )
    called = set(re.findall(r"custom_call @__cudnn\$(\w+)", text))
    form = "fmhaScaleBiasSoftmax" if packed else "fmhaSoftmax"
    assert called == {form, f"{form}Backward"}
    assert ("8x128x128xi1" in text) == packed  # no mask is made where lengths say it all


def test_parts_that_are_clipped_alone_take_cudnn_too(platform):
    platform("cudnn")
    clipping = dataclasses.replace(published("base").optimizer, clip_mode="per_shard")
    training(make_config("base", False, 128, "cudnn", optimizer=clipping), "cudnn")
