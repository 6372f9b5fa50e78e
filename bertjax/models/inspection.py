"""The inside of the encoder: hidden states and attention probabilities of every block.

For a look at a model, not for training: the blocks are written out one after the other.

Shape suffixes: B batch, L length (queries), M length (keys), H heads, K head dim, D hidden, N layers.
"""

import functools

import jax
import jax.numpy as jnp

from bertjax import config as config_lib
from bertjax import models
from bertjax.models import attention, layer_norm
from bertjax.models.attention import Batch, OfHeads
from bertjax.models.placement import Unplaced


def inspect(config: config_lib.Model, params: dict, batch: Batch) -> dict[str, jax.Array]:
    """What every block makes of a batch, without dropout.

    Args:
      params, batch: as of `models.apply`.

    Returns:
      `hidden [N + 1, B, L, D]`, the embeddings first; `attention [N, B, H, L, M]`, float32.
    """
    placement, mask_BLM = Unplaced(), attention.attention_mask(batch)
    found_BHLM: list[jax.Array] = []
    factors = config.dtype

    def attend(products: OfHeads, biases: OfHeads, _: jax.Array | None) -> jax.Array:
        query_BLHK, key_BMHK, value_BMHK = attention.biased(products, biases)
        found_BHLM.append(attention.probabilities(query_BLHK, key_BMHK, mask_BLM, factors))
        return attention.xla_attention(
            query_BLHK, key_BMHK, value_BMHK, mask_BLM, factors=factors, rate=0.0, dropout_key=None
        )

    add_and_norm = functools.partial(layer_norm.plain, 0.0, jax.checkpoint)
    embeddings = models.bind(config, params, "embeddings")
    table_VD = params["embeddings"]["word"]["embedding"]
    hidden = [embeddings(batch, table_VD, None, placement)]
    for layer in range(config.num_hidden_layers):
        own = jax.tree.map(lambda x, at=layer: x[at], params["blocks"])
        block = models.bind(config, {"blocks": own}, "blocks")
        hidden.append(block(hidden[-1], attend, add_and_norm, jax.checkpoint, None))
    return {"hidden": jnp.stack(hidden), "attention": jnp.stack(found_BHLM)}
