"""XLA's options for a train step. docs/explanations/devices.md says what each one is worth."""

from jax.sharding import Mesh

from bertjax import config as config_lib
from bertjax import models

# A TPU sums gradients while it still multiplies: each product of the backward pass is fused with a
# piece of a sum. The compiler would otherwise merge all sums into a few, behind the last product.
_TPU_SUMS = {
    "xla_jf_crs_combiner_threshold_in_bytes": 1_000_000,
    "xla_enable_async_all_reduce": True,
    "xla_tpu_enable_async_collective_fusion": True,
    "xla_tpu_enable_async_collective_fusion_fuse_all_reduce": True,
}


def options(config: config_lib.Model, mesh: Mesh, micro_batches: int) -> dict[str, int | bool]:
    """The options for a step on `mesh`; {} where XLA's own choices stand."""
    return dict(_TPU_SUMS) if sums_early(config, mesh, micro_batches) else {}


def sums_early(config: config_lib.Model, mesh: Mesh, micro_batches: int) -> bool:
    """Whether gradients are summed over `data` block by block, while the backward pass runs.

    A block's gradient then waits neither for other blocks (all are unrolled), nor for other
    micro-batches. GPUs overlap whole sums as they are; sums by block would be 236 kernels and 4 GB
    more for a step of BERT-Base on eight of them.
    """
    device = mesh.devices.flat[0]
    unrolled = models.blocks_at_once(config, device) == config.num_hidden_layers
    return device.platform == "tpu" and mesh.shape["data"] > 1 and micro_batches == 1 and unrolled
