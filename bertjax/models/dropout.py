"""Dropout, its random bits and its keys."""

import functools
import math

import jax
import jax.numpy as jnp


def _mix(x: jax.Array) -> jax.Array:
    """A bijection of 32-bit words in which every input bit affects every output bit.

    It multiplies and xor-shifts with the constants of Wellons' `lowbias32` (public domain).
    """
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def random_words(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """One random 32-bit word per element, a function of the key and the element's index only.

    `_mix(_mix(index ^ k0) ^ k1)` is a dozen integer operations; `jax.random.bits` runs twenty
    rounds. The computation is elementwise over an iota, so XLA fuses it into the consumer, and each
    device computes its own part under any sharding. The bits are good enough to drop activations,
    but not for anything that needs a statistically certified generator. They repeat after 2**32
    elements.

    Args:
      key: one key, or an array of keys for the leading axes of `shape`.
    """
    k0, k1 = jnp.moveaxis(jax.random.key_data(key), -1, 0)[:2]
    k0, k1 = (k.reshape(key.shape + (1,) * (len(shape) - key.ndim)) for k in (k0, k1))
    index = jnp.zeros(shape, jnp.uint32)
    for axis, size in list(enumerate(shape))[key.ndim :]:
        index = index * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    return hashed(index, k0, k1)


def hashed(index: jax.Array, k0: jax.Array, k1: jax.Array) -> jax.Array:
    """The random word of an element, of its index and the two words of its key."""
    return _mix(_mix(index ^ k0) ^ k1)


def key_words(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """What each row's words depend on, `[B, 3]`: the key's two words and the row's first index."""
    row = jnp.arange(shape[0], dtype=jnp.uint32) * jnp.uint32(
        0 if key.ndim else math.prod(shape[1:])
    )
    words = jnp.broadcast_to(jax.random.key_data(key)[..., :2], (shape[0], 2))
    return jnp.concatenate([words, row[:, None]], axis=1)


def bound(rate: float) -> jax.Array:
    """The least word of an element that is kept."""
    return jnp.uint32(round(rate * 2**32))


def split(key: jax.Array | None, num: int) -> jax.Array | tuple[None, ...]:
    """Splits one key into `[num]` keys, or keys `[B]` of rows into `[num, B]`; None into Nones."""
    if key is None:
        return (None,) * num
    of_one = functools.partial(jax.random.split, num=num)
    return jax.vmap(of_one, out_axes=1)(key) if key.ndim else of_one(key)


@jax.named_scope("dropout")
def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Zeroes elements with probability `rate` and scales the rest by 1 / (1 - rate).

    `key=None` or `rate=0` returns `x`.
    """
    if key is None or rate == 0.0:
        return x
    keep = random_words(key, x.shape) >= bound(rate)
    return jnp.where(keep, x * jnp.asarray(1 / (1 - rate), x.dtype), 0)
