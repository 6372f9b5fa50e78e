"""Sums the gradients that devices computed for their own rows, and places the sums."""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from bertjax import config as config_lib
from bertjax.sharding import table
from bertjax.sharding.mesh import BATCH_AXES


def fsdp_gather(config: config_lib.Mesh, mesh: Mesh, micro_batches: int) -> str | None:
    """The resolved `config.mesh.fsdp_gather`: `layer` or `step`; None if `fsdp` splits nothing.

    With a single micro-batch both send about as many bytes, and `layer` needs less memory, so
    `auto` takes `layer`.
    """
    if mesh.shape["fsdp"] == 1:
        return None
    if config.fsdp_gather != "auto":
        return config.fsdp_gather
    return "step" if micro_batches > 1 else "layer"


def mapped_axes(config: config_lib.Mesh, mesh: Mesh, micro_batches: int) -> tuple[str, ...]:
    """Mesh axes over which every device keeps its own gradient until the end of a step.

    If `fsdp` is among them, a device holds whole weights (kernels in the compute type) and a whole
    gradient: with bfloat16 up to 6 bytes per parameter, beyond its share of the state. In return,
    weights are sent once per step instead of twice per micro-batch, and gradients once per step
    instead of once per micro-batch.
    """
    return BATCH_AXES if fsdp_gather(config, mesh, micro_batches) == "step" else ("data",)


def summed(
    mesh: Mesh,
    parts: dict,
    mapped: tuple[str, ...],
    *,
    optimizer_over_data: bool,
    by_block: bool = False,
) -> dict:
    """Sums `parts`, `[S, ...]` by parameter, which has one part per device of the axes `mapped`.

    A gradient gets its parameter's sharding, or its moments' with `optimizer_over_data`. The sum
    over a mapped axis is a reduce-scatter if the axis splits the gradient, else an all-reduce.
    `shard_map` says so explicitly: on CPUs and GPUs the partitioner would reduce the whole array
    and slice the result.

    With `by_block`, every encoder block has sums of its own, which can start before the gradients
    of the blocks below it are there.
    """

    def place(path: tuple, part: jax.Array) -> P:
        own = table.spec(table.leaf_name(path), part.ndim - 1)
        return table.over_data(own, part.shape[1:], mesh) if optimizer_over_data else own

    def add_leaf(path: tuple, part: jax.Array, own: P) -> jax.Array:
        if by_block and path[0].key == "blocks" and own[0] is None:
            return jnp.stack([_sum(block, P(*own[1:]), split) for block in part[0]])
        return _sum(part[0], own, split)

    def add(parts: dict) -> dict:
        return jax.tree_util.tree_map_with_path(add_leaf, parts, placed)

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
        check_vma=False,  # the check wants sums over axes of one device too, which would not vanish
    )(parts)


def _sum(part: jax.Array, placed: P, axes: tuple[str, ...]) -> jax.Array:
    for dim, entry in enumerate(placed):
        if over := tuple(axis for axis in table.axes_of(entry) if axis in axes):
            part = jax.lax.psum_scatter(part, over, scatter_dimension=dim, tiled=True)
            axes = tuple(axis for axis in axes if axis not in over)
    return jax.lax.psum(part, axes) if axes else part
