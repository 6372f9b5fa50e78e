"""Attention kernels, and the one function that chooses among them.

Shape suffixes: B batch, L length (queries), M length (keys), H heads, K head dim.
"""

import functools

import jax
import jax.numpy as jnp

from bertjax.errors import UsageError


def dropout(x, rate: float, key):
    """Zeroes elements with probability `rate` and scales the rest by 1 / (1 - rate).

    `key=None` or `rate=0` returns `x`. A 16-bit draw is compared with the rate, so that one
    32-bit random word serves two elements: dropout bits are a large share of the step where
    they are computed in software. The rate is met within 2**-17, and the scale uses the rate
    that is really drawn, so the expectation is exact.
    """
    if key is None or rate == 0.0:
        return x
    threshold = round(rate * 2**16)
    half, odd = divmod(x.shape[-1], 2)
    words = jax.random.bits(key, (*x.shape[:-1], half + odd), jnp.uint32)
    draws = jax.lax.bitcast_convert_type(words, jnp.uint16)
    draws = draws.reshape(*x.shape[:-1], -1)[..., : x.shape[-1]]
    scale = jnp.asarray(1 / (1 - threshold / 2**16), x.dtype)
    return jnp.where(draws >= threshold, x * scale, 0)


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
