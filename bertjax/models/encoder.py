"""The encoder: embeddings and a stack of post-LayerNorm blocks.

Flax modules serve as definitions of parameters and of the computation of one layer; the stack
holds every block's parameters on a leading axis and scans over it.

Shape suffixes: B batch, L length, D hidden, H heads, K head dim, F intermediate, V vocab
(padded), N layers.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from bertjax import config as config_lib
from bertjax.config import rules
from bertjax.models import compute_type, flash
from bertjax.models.attention import Attend, Batch
from bertjax.models.dropout import dropout, split
from bertjax.models.layer_norm import AddAndNorm
from bertjax.models.linear import activated, bias, linear, product
from bertjax.models.placement import Placement


def layer_norm(config: config_lib.Model, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """LayerNorm with float32 statistics, whatever the compute type."""
    return nnx.LayerNorm(
        config.hidden_size, epsilon=config.layer_norm_eps, use_fast_variance=False, rngs=rngs
    )


class Embeddings(nnx.Module):
    """Sum of word, position and token-type embeddings, normalized."""

    def __init__(self, config: config_lib.Model, rngs: nnx.Rngs):
        self.config = config
        init = nnx.initializers.truncated_normal(config.initializer_range)

        def table(rows: int) -> nnx.Embed:
            return nnx.Embed(rows, config.hidden_size, embedding_init=init, rngs=rngs)

        self.word = table(config.padded_vocab_size)
        self.position = table(config.max_position_embeddings)
        if config.type_vocab_size:
            self.token_type = table(config.type_vocab_size)
        self.layer_norm = layer_norm(config, rngs)

    def __call__(
        self,
        batch: Batch,
        word_embedding_VD: jax.Array,
        dropout_key: jax.Array | None,
        placement: Placement,
    ) -> jax.Array:
        """`hidden [B, L, D]`; the word table is an argument, because the decoder shares it."""
        ids_BL = batch["input_ids"]
        hidden_BLD = word_embedding_VD[ids_BL]
        table_XD = placement("position_embedding", self.position.embedding[...])
        table_XD = table_XD[self.config.position_offset :]
        if "position_ids" in batch:
            hidden_BLD += table_XD[batch["position_ids"]]
        else:
            hidden_BLD += table_XD[: ids_BL.shape[1]]
        if self.config.type_vocab_size:
            # A matmul with a one-hot, since the gradient of a lookup in two rows is a serial
            # scatter. A model with a single type ignores the batch's types, which a model beside it
            # (a teacher or student) may use.
            only = self.config.type_vocab_size == 1
            types_BL = jnp.zeros_like(ids_BL) if only else batch["token_type_ids"]
            types_BLT = jax.nn.one_hot(types_BL, self.config.type_vocab_size)
            hidden_BLD += types_BLT @ placement(
                "token_type_embedding", self.token_type.embedding[...]
            )
        hidden_type = compute_type.of_hidden(self.config, placement.device)
        hidden_BLD = self.layer_norm(hidden_BLD).astype(hidden_type)
        return dropout(hidden_BLD, self.config.hidden_dropout_prob, dropout_key)


class Block(nnx.Module):
    """Self-attention and feed-forward, each with residual and LayerNorm after (Vaswani 2017)."""

    def __init__(self, config: config_lib.Model, rngs: nnx.Rngs):
        self.config = config
        width, inner = config.hidden_size, config.intermediate_size
        self.query = linear(config, width, width, rngs)
        self.key = linear(config, width, width, rngs)
        self.value = linear(config, width, width, rngs)
        self.attention_output = linear(config, width, width, rngs)
        self.attention_layer_norm = layer_norm(config, rngs)
        self.intermediate = linear(config, width, inner, rngs)
        self.output = linear(config, inner, width, rngs)
        self.output_layer_norm = layer_norm(config, rngs)

    def __call__(
        self,
        hidden_BLD: jax.Array,
        attend: Attend,
        add_and_norm: AddAndNorm,
        recompute: Callable,
        dropout_key: jax.Array | None,
    ) -> jax.Array:
        """`hidden [B, L, D]`; `attend` mixes values over the sequence (`attention.bind`)."""
        c = self.config
        keys = split(dropout_key, 3)

        def heads(x_XD: jax.Array) -> jax.Array:
            return x_XD.reshape(*x_XD.shape[:-1], c.num_attention_heads, -1)

        layers = (self.query, self.key, self.value)
        products = tuple(heads(product(layer, hidden_BLD)) for layer in layers)
        biases = tuple(heads(bias(layer, hidden_BLD)) for layer in layers)
        mixed_BLHK = attend(products, biases, keys[0])
        mixed_BLD = mixed_BLHK.reshape(hidden_BLD.shape)
        hidden_BLD, again_BLD = add_and_norm(
            self.attention_layer_norm, self.attention_output, hidden_BLD, mixed_BLD, keys[1], uses=2
        )
        inner_BLF = activated(c.hidden_act, self.intermediate, hidden_BLD, recompute)
        (hidden_BLD,) = add_and_norm(
            self.output_layer_norm, self.output, again_BLD, inner_BLF, keys[2]
        )
        return hidden_BLD


# The fused kernel's output is a matmul result, far smaller than the scores it avoids, so `dots`
# saves it; the plain form computes scores and mixture again.
_REMAT_POLICIES = {
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names(flash.RESIDUALS),
    ),
    "full": jax.checkpoint_policies.nothing_saveable,
}


def blocks_at_once(config: config_lib.Model, device: jax.Device) -> int:
    """The number of encoder blocks that one iteration of the scan unrolls.

    `auto` scans on TPUs and unrolls all blocks elsewhere. A scan stacks, slices and zero-fills the
    arrays for the backward pass: 36% to 43% of the bytes that a step moves on an H100, 12% to 20%
    of a step's time on a CPU, for half the time to compile (benchmarks/RESULTS.md, "Blocks
    unrolled"). On a TPU the compiler takes several times as long.
    """
    if config.scan_unroll == rules.AUTO:
        return 1 if device.platform == "tpu" else config.num_hidden_layers
    return int(config.scan_unroll) or config.num_hidden_layers


def recompute(config: config_lib.Model, device: jax.Device) -> Callable:
    """`jax.checkpoint` for a part of a block.

    A scan of single blocks runs forward and backward in two loops, so the compiler cannot merge
    what both compute. `jax.checkpoint` would still put a barrier between them, which stops fusions.
    """
    return functools.partial(jax.checkpoint, prevent_cse=blocks_at_once(config, device) > 1)


def run_blocks(
    config: config_lib.Model,
    apply_block: Callable[[dict, jax.Array, jax.Array | None], jax.Array],
    params_N: dict,
    hidden_BLD: jax.Array,
    dropout_key: jax.Array | None,
    placement: Placement,
) -> jax.Array:
    """Applies the N blocks in order by `lax.scan`.

    Args:
      apply_block: `(params, hidden_BLD, dropout_key) -> hidden_BLD`, computes one block.
      params_N: the parameters of all blocks, stacked with a leading `[N]`.
      placement: applied to the hidden states between blocks.
    """
    keys_N = None if dropout_key is None else split(dropout_key, config.num_hidden_layers)

    def body(hidden_BLD: jax.Array, layer: tuple) -> tuple[jax.Array, None]:
        params, key = layer
        return placement("hidden", apply_block(params, hidden_BLD, key)), None

    if config.remat != "none":
        body = jax.checkpoint(body, policy=_REMAT_POLICIES[config.remat], prevent_cse=False)
    unroll = blocks_at_once(config, placement.device)
    hidden_BLD, _ = jax.lax.scan(body, hidden_BLD, (params_N, keys_N), unroll=unroll)
    return hidden_BLD
