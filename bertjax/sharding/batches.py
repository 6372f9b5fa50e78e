"""Batches and host arrays on the devices of a mesh."""

import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from bertjax.sharding.mesh import BATCH_AXES


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Splits rows over `data` and `fsdp`, and no other dimension."""
    return NamedSharding(mesh, P(BATCH_AXES))


def put(value: np.ndarray, like: jax.Array | jax.ShapeDtypeStruct) -> jax.Array:
    """A host array with the sharding of `like`; each process fills its own devices."""
    return jax.make_array_from_callback(like.shape, like.sharding, lambda index: value[index])


@functools.cache  # asked for at every step
def local_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """The rows of a global batch that this process's devices hold, in order.

    The rows need not be consecutive: a mesh orders devices by a slice's wiring, not by its hosts.
    """
    indices = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[i] for i in indices]))


def to_global(mesh: Mesh, batch: dict[str, np.ndarray], batch_size: int) -> dict[str, jax.Array]:
    """Global arrays `[batch_size, ...]` from this process's rows (`local_rows`) of each."""
    sharding, numbers = batch_sharding(mesh), local_rows(mesh, batch_size)

    def place(rows: np.ndarray) -> jax.Array:
        def shard(index: tuple[slice, ...] | None) -> Any:
            assert index is not None
            start, stop, _ = index[0].indices(batch_size)
            at = np.searchsorted(numbers, start)  # a device's rows are consecutive
            return rows[at : at + stop - start]

        return jax.make_array_from_callback((batch_size, *rows.shape[1:]), sharding, shard)

    return jax.tree.map(place, batch)
