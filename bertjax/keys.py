"""The random keys on the device: the seed, folded with the purpose of the key."""

import jax
from jax.typing import ArrayLike

INIT, MASK, DROPOUT = range(3)


def root(seed: ArrayLike, use: int) -> jax.Array:
    """The key of one use.

    The generator is fixed to Threefry: its bits are the same on every backend, and each device
    computes the bits of its own shard, unlike with `rbg`.
    """
    return jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), use)


def mask(seed: ArrayLike, phase_index: int) -> jax.Array:
    """The key that masking folds with epoch and example id; both start from 0 in each phase."""
    return jax.random.fold_in(root(seed, MASK), phase_index)


def dropout(seed: ArrayLike, step: ArrayLike) -> jax.Array:
    """The dropout key of a step."""
    return jax.random.fold_in(root(seed, DROPOUT), step)
