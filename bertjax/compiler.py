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
    """The options for a step on `mesh`; {} where XLA's own choices stand.

    Sums can start in the backward pass if a block's gradient does not wait for those of other
    blocks (all blocks unrolled) or of other micro-batches.
    """
    device = mesh.devices.flat[0]
    unrolled = models.blocks_at_once(config, device) == config.num_hidden_layers
    sums = mesh.shape["data"] > 1 and micro_batches == 1
    return dict(_TPU_SUMS) if device.platform == "tpu" and unrolled and sums else {}
