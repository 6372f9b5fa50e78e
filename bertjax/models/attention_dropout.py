"""Dropout of attention probabilities: one mask, whichever kernel computes it and on whatever mesh.

The word of a query and a key is `(key's word ^ query's flip) * query's factor`. Words, flips and
factors are hashed once for a row of scores, not once for every score: a kernel that never writes
the mask makes it anew in three operations an element. `benchmarks/attention_dropout.py` has the
statistics.

Shape suffixes: B batch, L length (queries), M length (keys), H heads.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bertjax.models.dropout import random_words, split


class Words(NamedTuple):
    """Random 32-bit words of one attention layer, from which every score's word is made.

    Attributes:
      flips: `[B, H, L]`, of every head's queries.
      factors: `[B, H, L]`, of every head's queries; odd, so that a product is a bijection.
      keys: `[B, M]`, of the keys; the same for all heads.
    """

    flips: jax.Array
    factors: jax.Array
    keys: jax.Array


def draw(key: jax.Array, shape: tuple[int, int, int]) -> Words:
    """The words of `[B, H, L]` queries, and of as many keys as queries: self-attention.

    Functions of `key` and of a query's head and position alone. Elementwise over an iota, they
    are made on the device that needs them: a shard's heads have their global numbers.

    Args:
      key: one key, or one for each row `[B]`.
    """
    size, _, length = shape
    of_use = split(key, 3)
    assert isinstance(of_use, jax.Array)
    factors = random_words(of_use[1], shape) | jnp.uint32(1)
    return Words(random_words(of_use[0], shape), factors, random_words(of_use[2], (size, length)))


def kept(words: Words, rate: float) -> jax.Array:
    """False with probability `rate`, at every score of words that broadcast against each other.

    Compared as signed numbers: TPUs have no other comparison.
    """
    mixed = jax.lax.bitcast_convert_type((words.keys ^ words.flips) * words.factors, jnp.int32)
    return mixed >= jnp.int32(min(round(rate * 2**32) - 2**31, 2**31 - 1))


@jax.named_scope("dropout")
def dropout(probs_BHLM: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Zeroes probabilities with probability `rate` and scales the rest by 1 / (1 - rate).

    `key=None` or `rate=0` returns `probs`.
    """
    if key is None or rate == 0.0:
        return probs_BHLM
    size, heads, length, _ = probs_BHLM.shape
    flips_BHL, factors_BHL, keys_BM = draw(key, (size, heads, length))
    words = Words(flips_BHL[..., None], factors_BHL[..., None], keys_BM[:, None, None, :])
    return jnp.where(kept(words, rate), probs_BHLM * (1 / (1 - rate)), 0.0)
