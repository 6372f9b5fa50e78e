"""The sum of what every device has computed for its own rows, placed where it is needed."""

import jax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from bertjax import config as config_lib
from bertjax.sharding import table
from bertjax.sharding.mesh import BATCH_AXES


def fsdp_gather(config: config_lib.Mesh, mesh: Mesh, micro_batches: int) -> str | None:
    """What `fsdp_gather` comes to: `layer` or `step`; None where `fsdp` splits nothing.

    One part of the batch sends about as many bytes either way, and `layer` needs less memory.
    """
    if mesh.shape["fsdp"] == 1:
        return None
    if config.fsdp_gather != "auto":
        return config.fsdp_gather
    return "step" if micro_batches > 1 else "layer"


def mapped_axes(config: config_lib.Mesh, mesh: Mesh, micro_batches: int) -> tuple[str, ...]:
    """Mesh axes over which every device keeps a gradient of its own until the end of a step.

    With `fsdp` among them a device holds whole weights, kernels in the compute type, and a whole
    gradient: with bfloat16 up to 6 bytes a parameter beyond its share of the state. Weights then go
    over the wires once a step instead of twice a micro-batch, gradients once instead of every time.
    """
    return BATCH_AXES if fsdp_gather(config, mesh, micro_batches) == "step" else ("data",)


def summed(mesh: Mesh, parts: dict, mapped: tuple[str, ...], *, optimizer_over_data: bool) -> dict:
    """Gradients from `parts`, `[S, ...]` by parameter: one part for each device of the axes `mapped`.

    A gradient ends where its parameter lies; with `optimizer_over_data` where its moments lie. A
    mapped axis that splits it there is reduce-scattered, any other all-reduced. This is written out
    (`shard_map`): the CPU's and the GPU's partitioner reduce the whole array and slice the result.
    """

    def place(path: tuple, part: jax.Array) -> P:
        own = table.spec(table.leaf_name(path), part.ndim - 1)
        return table.over_data(own, part.shape[1:], mesh) if optimizer_over_data else own

    def add(parts: dict) -> dict:
        return jax.tree.map(lambda part, own: _sum(part[0], own, split), parts, placed)

    split = tuple(axis for axis in mapped if mesh.shape[axis] > 1)
    if not split:
        return jax.tree.map(lambda part: part[0], parts)
    placed = jax.tree_util.tree_map_with_path(place, parts)
    found = jax.tree.map(lambda own: P(mapped, *table.without(own, mapped)), placed)
    return jax.shard_map(
        add,
        mesh=mesh,
        in_specs=(found,),
        out_specs=placed,
        check_vma=False,  # it asks for a sum over an axis of one device too, which would stay there
    )(parts)


def _sum(part: jax.Array, placed: P, axes: tuple[str, ...]) -> jax.Array:
    for dim, entry in enumerate(placed):
        if over := tuple(axis for axis in table.axes_of(entry) if axis in axes):
            part = jax.lax.psum_scatter(part, over, scatter_dimension=dim, tiled=True)
            axes = tuple(axis for axis in axes if axis not in over)
    return jax.lax.psum(part, axes) if axes else part
