"""Attention kernels, and the one function that chooses among them.

Shape suffixes: B batch, L length (queries), M length (keys), H heads, K head dim.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from bertjax import config as config_lib
from bertjax.config import rules
from bertjax.models import attention_dropout, compute_type, flash, flash_form
from bertjax.models.attention_dropout import dropout
from bertjax.models.linear import multiplied, summed_in_float32
from bertjax.models.placement import Placement, can_run, is_ampere

Batch = dict[str, jax.Array]
# Of queries, keys and values: products of dense layers `[B, L, H, K]`, or their biases `[H, K]`.
OfHeads = tuple[jax.Array, ...]
# `(products, biases, dropout key) -> mixed [B, L, H, K]`.
Attend = Callable[[OfHeads, OfHeads, jax.Array | None], jax.Array]


def xla_attention(
    query_BLHK: jax.Array,
    key_BMHK: jax.Array,
    value_BMHK: jax.Array,
    mask_BLM: jax.Array,
    *,
    factors: DTypeLike,
    rate: float,
    dropout_key: jax.Array | None,
) -> jax.Array:
    """Softmax attention written out, for any device: `[B, L, H, K]`.

    `mask_BLM` is True where a query may look; scores, softmax and dropout are float32, the factors
    of both products have the type `factors`.
    """
    probs_BHLM = probabilities(query_BLHK, key_BMHK, mask_BLM, factors)
    probs_BHLM = dropout(probs_BHLM, rate, dropout_key).astype(value_BMHK.dtype)
    return multiplied("BHLM,BMHK->BLHK", probs_BHLM, value_BMHK, factors)


def probabilities(
    query_BLHK: jax.Array, key_BMHK: jax.Array, mask_BLM: jax.Array, factors: DTypeLike
) -> jax.Array:
    """The share of every key in every query, by head: `[B, H, L, M]`, float32."""
    scale = query_BLHK.shape[-1] ** -0.5
    scores_BHLM = summed_in_float32("BLHK,BMHK->BHLM", query_BLHK * scale, key_BMHK, factors)
    scores_BHLM = jnp.where(mask_BLM[:, None], scores_BHLM, jnp.finfo(jnp.float32).min)
    return jax.nn.softmax(scores_BHLM, axis=-1)


def cudnn_attention(
    query_BLHK: jax.Array, key_BMHK: jax.Array, value_BMHK: jax.Array, batch: Batch
) -> jax.Array:
    """cuDNN's fused attention (NVIDIA, bfloat16): `[B, L, H, K]`; it drops no probabilities.

    Rows that end in padding are told by their lengths: no mask is written or read. Rows of several
    examples need a mask, one for every head (jax#34920: under `vmap` JAX takes no other).
    """
    attend = functools.partial(jax.nn.dot_product_attention, implementation="cudnn")
    if "segment_ids" in batch:
        size, length, heads, _ = query_BLHK.shape
        mask_BHLM = jnp.broadcast_to(attention_mask(batch)[:, None], (size, heads, length, length))
        return attend(query_BLHK, key_BMHK, value_BMHK, mask=mask_BHLM)
    # A row of padding alone looks at its first place: a softmax over nothing would be NaN.
    lengths_B = jnp.maximum(jnp.sum(batch["attention_mask"], axis=1, dtype=jnp.int32), 1)
    # Queries are never cut: cuDNN leaves unwritten what lies beyond their length (xla#46500). This
    # is the whole length of every row, in an array that `vmap` maps like `lengths_B`.
    whole_B = lengths_B * 0 + query_BLHK.shape[1]
    real_BM = jnp.arange(key_BMHK.shape[1]) < lengths_B[:, None]
    key_BMHK, value_BMHK = (
        _without_gradient_of_padding(x, real_BM) for x in (key_BMHK, value_BMHK)
    )
    return attend(
        query_BLHK, key_BMHK, value_BMHK, query_seq_lengths=whole_B, key_value_seq_lengths=lengths_B
    )


@jax.custom_vjp
def _without_gradient_of_padding(x_BMHK: jax.Array, real_BM: jax.Array) -> jax.Array:
    """`x`, whose gradient is zero where `real` is False, whatever a kernel left in memory there."""
    del real_BM
    return x_BMHK


_without_gradient_of_padding.defvjp(
    lambda x_BMHK, real_BM: (x_BMHK, real_BM),
    lambda real_BM, gradient_BMHK: (jnp.where(real_BM[..., None, None], gradient_BMHK, 0), None),
)


def choose(config: config_lib.Model, placement: Placement, length: int) -> str:
    """The kernel that `config.attention` means for sequences of `length`: xla, cudnn or flash.

    `auto` takes a fused kernel only where it computes the same thing: cuDNN, which drops no
    probabilities, before flash, which drops the very ones that the plain form does. A fused kernel
    asked for by name that cannot run, or would change the mathematics, is refused.

    Args:
      placement: its devices count, which need not be those at hand.

    Raises:
      UsageError: the kernel asked for cannot run, or would drop the dropout.
    """
    name, device = config.attention, placement.device
    dtype = compute_type.resolved(config, device).dtype
    platform, kind = device.platform, device.device_kind
    rate = config.attention_probs_dropout_prob
    heads = config.num_attention_heads
    width = config.hidden_size // heads
    if name == "xla":
        return name
    fused = {  # kernel -> what it needs, and whether it is so
        "cudnn": {
            f"config.model.attention_probs_dropout_prob=0 (here: {rate})": rate == 0.0,
            f"an NVIDIA GPU, Ampere or later (here: {kind})": is_ampere(device),
            f"config.model.dtype=bfloat16 (here: {dtype})": dtype == "bfloat16",
            f"heads of 8, 16 ... 128 features (here: {width})": width % 8 == 0 and width <= 128,
            f"an even sequence length (here: {length})": length % 2 == 0,
        },
        "flash": {
            f"a TPU v4 or later, or an NVIDIA GPU, Ampere or later (here: {kind})": (
                _is_tpu_v4(device) or is_ampere(device)
            ),
        }
        | flash_form.needs(platform, length, heads, width, dtype),
    }
    if placement.unsplit is not None:
        fused["flash"][placement.unsplit] = False
    for kernel, needs in fused.items():
        if name in (kernel, rules.AUTO) and can_run("attention", name, needs):
            return kernel
    return "xla"


def _is_tpu_v4(device: jax.Device) -> bool:
    """Whether it is a TPU of the fourth generation or later."""
    return device.platform == "tpu" and not device.device_kind.startswith(("TPU v2", "TPU v3"))


def bind(config: config_lib.Model, batch: Batch, placement: Placement) -> Attend:
    """Attention on `batch` by the kernel that is chosen for it.

    Args:
      batch, placement: as of `models.apply`.

    Returns:
      See `Attend`. What tokens see is worked out here, once for all blocks, and as a mask
      `[B, L, M]` only where the kernel needs one.
    """
    rate = config.attention_probs_dropout_prob
    kernel = choose(config, placement, batch["input_ids"].shape[1])
    if kernel == "flash":
        return functools.partial(_flash, rate, batch, placement)
    if kernel == "cudnn":
        return lambda products, biases, _: cudnn_attention(*biased(products, biases), batch)
    mask_BLM = attention_mask(batch)
    return lambda products, biases, dropout_key: xla_attention(
        *biased(products, biases),
        mask_BLM,
        factors=config.dtype,
        rate=rate,
        dropout_key=dropout_key,
    )


def biased(products: OfHeads, biases: OfHeads) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Queries, keys and values `[B, L, H, K]`."""
    query, key, value = (x + bias for x, bias in zip(products, biases, strict=True))
    return query, key, value


def _flash(
    rate: float,
    batch: Batch,
    placement: Placement,
    products: OfHeads,
    biases: OfHeads,
    dropout_key: jax.Array | None,
) -> jax.Array:
    """Flash attention, by each device on its own rows and heads.

    What is drawn is drawn outside: there, heads have their global numbers. A GPU's kernels add the
    biases, and sum their gradients; XLA's own kernels for that move 5% of BERT-Base's bytes.
    """
    platform = placement.device.platform
    ids_BL = batch["segment_ids"] if "segment_ids" in batch else batch["attention_mask"]
    names, words = ("heads", "heads", "heads", "ids"), ()
    if dropout_key is not None and rate:
        size, length, heads, _ = products[0].shape
        names += ("query_words", "query_words", "ids")
        words = attention_dropout.draw(dropout_key, (size, heads, length))
    kernel = functools.partial(flash.attention, rate=rate, platform=platform)
    if platform != "gpu":
        return placement.per_shard(kernel, names)(*biased(products, biases), ids_BL, *words)

    def with_biases(query, key, value, *rest):  # type: ignore[no-untyped-def]
        return kernel(query, key, value, *rest[3:], biases=rest[:3])

    names = (*names[:3], *("head_biases",) * 3, *names[3:])
    return placement.per_shard(with_biases, names)(*products, *biases, ids_BL, *words)


def attention_mask(batch: Batch) -> jax.Array:
    """`[B, L, M]`, True where a token may look.

    The padding of a packed row sees itself: a token that sees nothing would be a NaN to kernels
    that subtract the largest score.
    """
    if "segment_ids" in batch:
        return batch["segment_ids"][:, :, None] == batch["segment_ids"][:, None, :]
    size, length = batch["input_ids"].shape
    mask_BLM = batch["attention_mask"][:, None, :].astype(bool)
    return jnp.broadcast_to(mask_BLM, (size, length, length))
