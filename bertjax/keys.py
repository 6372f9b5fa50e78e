"""Where randomness on the device comes from: the seed, folded with what it is for."""

import jax
from jax.typing import ArrayLike

INIT, MASK, DROPOUT = range(3)


def root(seed: ArrayLike, use: int) -> jax.Array:
    """The key of one use. Threefry, said outright: its bits are the same on every backend, and
    unlike those of `rbg` they are made where the shard is that needs them."""
    return jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), use)


def mask(seed: ArrayLike, phase_index: int) -> jax.Array:
    """The key that masking folds with epoch and example id; both start anew with each phase."""
    return jax.random.fold_in(root(seed, MASK), phase_index)


def dropout(seed: ArrayLike, step: ArrayLike) -> jax.Array:
    """The dropout key of a step."""
    return jax.random.fold_in(root(seed, DROPOUT), step)
