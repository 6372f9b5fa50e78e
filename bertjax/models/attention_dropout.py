"""Dropout of attention probabilities: one mask, whatever computes it.

Shape suffixes: B batch, L length (queries), M length (keys), H heads.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bertjax.models.dropout import random_words, split


class Words(NamedTuple):
    """Random words, of which every pair of a query and a key makes its own.

    Attributes:
      flip, factor: `[B, H, L]`, of the queries of every head; factors are odd.
      key: `[B, M]`, of the keys, the same for all heads.
    """

    flip: jax.Array
    factor: jax.Array
    key: jax.Array


def draw(key: jax.Array, heads: int, shape: tuple[int, int]) -> Words:
    flip_key, factor_key, key_key = split(key, 3)
    size, length = shape
    flip = random_words(flip_key, (size, heads, length))
    factor = random_words(factor_key, (size, heads, length)) | jnp.uint32(1)
    return Words(flip, factor, random_words(key_key, (size, length)))


def kept(key_word: jax.Array, flip: jax.Array, factor: jax.Array, rate: float) -> jax.Array:
    word = (key_word ^ flip) * factor
    least = round(rate * 2**32) - 2**31
    return jax.lax.bitcast_convert_type(word, jnp.int32) >= jnp.int32(least)
