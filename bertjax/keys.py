"""Where randomness on the device comes from: the seed, folded with what it is for."""

import jax

from bertjax import config as config_lib

INIT, MASK, DROPOUT = range(3)


def root(config: config_lib.Config, use: int) -> jax.Array:
    """The key of one use. Threefry, said outright: its bits are the same on every backend, and
    unlike those of `rbg` they are made where the shard is that needs them."""
    return jax.random.fold_in(jax.random.key(config.seed, impl="threefry2x32"), use)


def mask(config: config_lib.Config, phase_index: int) -> jax.Array:
    """The key that masking folds with epoch and example id; both start anew with each phase."""
    return jax.random.fold_in(root(config, MASK), phase_index)


def dropout(config: config_lib.Config, step: int | jax.Array) -> jax.Array:
    """The dropout key of a step."""
    return jax.random.fold_in(root(config, DROPOUT), step)
