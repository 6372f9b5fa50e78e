"""The kernels that a training step takes on a mesh."""

import jax
from jax.sharding import Mesh

from bertjax import config as config_lib
from bertjax import models, sharding, train
from bertjax.config import stages


def attention(config: config_lib.Config, mesh: Mesh, length: int) -> str:
    """The attention kernel of a step on rows of `length`; raises as `models.attention_kernel`."""
    return models.attention_kernel(config.model, train.placement_of(config, mesh), length)


def layer_norm(config: config_lib.Config, mesh: Mesh, length: int) -> str:
    """The LayerNorm kernel of a step on rows of `length`; raises as `models.layer_norm_kernel`."""
    return models.layer_norm_kernel(config.model, train.placement_of(config, mesh), length)


def describe(config: config_lib.Config, mesh: Mesh, stage: stages.Stage) -> str:
    """A line about a stage: steps, batch, devices, kernels, blocks."""
    phase = stage.phase
    taken = attention(config, mesh, phase.sequence_length) + " attention"
    if layer_norm(config, mesh, phase.sequence_length) == "fused":
        taken += ", fused LayerNorm"
    taken += f", {config.model.dtype} products"
    blocks = config.model.num_hidden_layers
    at_once = models.blocks_at_once(config.model, mesh.devices.flat[0])
    form = "unrolled" if at_once == blocks else f"scanned, {at_once} at once"
    if gather := sharding.fsdp_gather(config.mesh, mesh, stage.micro_batches):
        form += f", fsdp gathers weights by {gather}"
    return (
        f"phase {stage.phase_index + 1}: {stage.steps:,} steps of {phase.batch_size} x "
        f"{phase.sequence_length} on {mesh.size} {jax.devices()[0].device_kind} "
        f"({dict(mesh.shape)}), {taken}, {blocks} blocks {form}"
    )


def check(config: config_lib.Config, mesh: Mesh) -> None:
    """Raises UsageError at the start if a mesh cannot run one of the config's phases."""
    sharding.check(config, mesh)
    for stage in stages.of(config):
        attention(config, mesh, stage.phase.sequence_length)
        layer_norm(config, mesh, stage.phase.sequence_length)
