"""Attention kernels, and the one function that chooses among them.

Shape suffixes: B batch, L length (queries), M length (keys), H heads, K head dim.
"""

import functools

import jax
import jax.numpy as jnp

from bertjax.errors import UsageError


def _mix(x):
    """A bijection of 32-bit words in which every input bit reaches every output bit.

    Multiply and xor-shift, with the constants of Wellons' `lowbias32` (public domain).
    """
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def random_words(key, shape):
    """One random 32-bit word per element, a function of the key and the element's index only.

    `_mix(_mix(index ^ k0) ^ k1)` is a dozen integer operations where `jax.random.bits` runs
    twenty rounds, and it is elementwise over an iota: XLA fuses it into the consumer, and under
    any sharding each device makes its own part. Good enough to drop activations, not for
    anything that needs a statistically certified generator. Past 2**32 elements it repeats.
    """
    k0, k1 = jax.random.key_data(key)[:2]
    index = jnp.zeros(shape, jnp.uint32)
    for axis, size in enumerate(shape):
        index = index * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    return _mix(_mix(index ^ k0) ^ k1)


@jax.named_scope("dropout")
def dropout(x, rate: float, key):
    """Zeroes elements with probability `rate` and scales the rest by 1 / (1 - rate).

    `key=None` or `rate=0` returns `x`.
    """
    if key is None or rate == 0.0:
        return x
    keep = random_words(key, x.shape) >= jnp.uint32(round(rate * 2**32))
    return jnp.where(keep, x * jnp.asarray(1 / (1 - rate), x.dtype), 0)


def xla_attention(query_BLHK, key_BMHK, value_BMHK, mask_BLM, *, rate, dropout_key):
    """Softmax attention written out, for any device: `[B, L, H, K]`.

    `mask_BLM` is True where a query may look; scores, softmax and dropout are float32.
    """
    scale = query_BLHK.shape[-1] ** -0.5
    scores_BHLM = jnp.einsum(
        "BLHK,BMHK->BHLM", query_BLHK * scale, key_BMHK, preferred_element_type=jnp.float32
    )
    scores_BHLM = jnp.where(mask_BLM[:, None], scores_BHLM, jnp.finfo(jnp.float32).min)
    probs_BHLM = dropout(jax.nn.softmax(scores_BHLM, axis=-1), rate, dropout_key)
    return jnp.einsum("BHLM,BMHK->BLHK", probs_BHLM.astype(value_BMHK.dtype), value_BMHK)


def cudnn_attention(query_BLHK, key_BMHK, value_BMHK, mask_BLM, *, rate, dropout_key):
    """cuDNN's fused attention (NVIDIA, bfloat16); it has no dropout on probabilities."""
    del rate, dropout_key
    return jax.nn.dot_product_attention(
        query_BLHK, key_BMHK, value_BMHK, mask=mask_BLM[:, None], implementation="cudnn"
    )


@functools.cache
def choose(name: str, rate: float, dtype: str, backend: str):
    """`(kernel name, kernel)` for a model's `attention` field on a backend.

    `auto` takes a fused kernel only where it computes the same thing; a fused kernel asked for
    by name that would change the mathematics is refused.

    Raises:
      UsageError: the kernel asked for cannot run, or would drop the dropout.
    """
    fits_cudnn = backend == "gpu" and dtype == "bfloat16" and rate == 0.0
    if name == "cudnn" and not fits_cudnn:
        raise UsageError(
            f"config.model.attention='cudnn': needs a GPU (here: {backend}), model.dtype=bfloat16 "
            f"(here: {dtype}) and model.attention_probs_dropout_prob=0 (here: {rate}); "
            "use attention=xla"
        )
    if name == "cudnn" or (name == "auto" and fits_cudnn):
        return "cudnn", cudnn_attention
    return "xla", xla_attention
