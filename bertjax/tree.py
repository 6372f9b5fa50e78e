"""The name of a leaf of a pytree, as checkpoints, the table of shardings and messages write it."""

import jax


def leaf_name(path: tuple) -> str:
    """`params/blocks/query/kernel`, of the path of keys that `jax.tree_util` gives with a leaf."""
    return jax.tree_util.keystr(path, simple=True, separator="/")
