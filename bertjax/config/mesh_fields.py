"""The config fields that split a training over devices."""

import dataclasses

from bertjax.config.rules import MeshAxis
from bertjax.config.tree import field


@dataclasses.dataclass(frozen=True)
class Mesh:
    data: MeshAxis = field(
        -1, "devices that split the batch and hold copies of the parameters; -1 takes the rest"
    )
    fsdp: MeshAxis = field(1, "devices that split both the batch and the parameters")
    tensor: MeshAxis = field(1, "devices that split each matrix product")
    fsdp_gather: str = field(
        "auto",
        "how often fsdp gathers weights and reduces gradients: layer (at every use, least memory), "
        "step (once, with up to 6 bytes more per parameter on each device, and the whole teacher), "
        "auto (step if there are micro-batches)",
        ("auto", "layer", "step"),
    )
    shard_optimizer_over_data: bool = field(
        False,
        "split the optimizer's state over `data` too (ZeRO-1, Rajbhandari et al. 2020): gradients "
        "are reduce-scattered, updates gathered; parameters stay whole",
    )
