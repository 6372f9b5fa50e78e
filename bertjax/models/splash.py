"""Splash attention: JAX's fused TPU kernel, whose scores never leave the chip's vector memory.

The kernel is `jax.experimental.pallas.ops.tpu.splash_attention`; here are its mask, its blocks
and its layout.

Shape suffixes: B batch, L length, H heads, K head dim.
"""

from collections.abc import Callable

import jax

LANES = 128  # of a TPU vector register: the kernel's blocks are multiples of it
_LONGEST_BLOCK = 512  # MaxText's default for v4, v5e, v5p and v6e (`sa_block_q`, `sa_block_kv`)
RESIDUALS = "attention_residuals"  # what remat policies know the kernel's result by


def fits(length: int) -> bool:
    """Whether the kernel can be run on sequences of `length`: whole registers of keys."""
    return length % LANES == 0


def block_length(length: int) -> int:
    """Queries (and keys) in a block: the longest that the sequence is a multiple of.

    Up to 512 there is one block for a head, so that the backward pass, too, is one kernel that
    computes the scores once.
    """
    blocks = range(LANES, min(length, _LONGEST_BLOCK) + 1, LANES)
    return max(block for block in blocks if length % block == 0)


def attention(
    query_BLHK: jax.Array,
    key_BLHK: jax.Array,
    value_BLHK: jax.Array,
    ids_BL: jax.Array,
    *,
    interpret: bool = False,
) -> jax.Array:
    """Softmax attention in which tokens of equal ids see each other: `[B, L, H, K]`.

    Scores and softmax are float32. With a mask of 0 and 1 for ids, padding sees padding, which
    no real token sees.

    Args:
      interpret: run by JAX's interpreter of kernels, on any device and slowly, for tests.
    """
    kernel = _kernel(query_BLHK.shape[2], query_BLHK.shape[1], interpret)
    scale = query_BLHK.shape[-1] ** -0.5
    arrays = (x.swapaxes(1, 2) for x in (query_BLHK * scale, key_BLHK, value_BLHK))
    return jax.vmap(kernel)(*arrays, ids_BL).swapaxes(1, 2)


def _kernel(heads: int, length: int, interpret: bool) -> Callable:
    """`(query, key, value, ids) -> mixed` over `[H, L, K]` arrays and ids `[L]`.

    Positions, not features, lie side by side in memory: heads of 64 features would be kept, one
    set for each layer until the backward pass, in rows padded to 128.
    """
    # A third of a second to import, and most machines are no TPUs.
    from jax.experimental.pallas.ops.tpu import splash_attention as pallas

    block, positions_minor = block_length(length), pallas.QKVLayout.SEQ_MINOR
    kernel = pallas.make_splash_mha_single_device(
        pallas.MultiHeadMask([pallas.FullMask((length, length))] * heads),
        block_sizes=pallas.BlockSizes(
            block_q=block,
            block_kv=block,
            block_q_dkv=block,
            block_kv_dkv=block,
            use_fused_bwd_kernel=True,
            q_layout=positions_minor,
            k_layout=positions_minor,
            v_layout=positions_minor,
        ),
        residual_checkpoint_name=RESIDUALS,
        interpret=interpret,
    )
    return lambda query, key, value, ids: kernel(query, key, value, pallas.SegmentIds(ids, ids))
