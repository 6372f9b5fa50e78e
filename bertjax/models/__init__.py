"""The functional boundary of the model: parameters are a plain nested dict, calls are pure.

Shape suffixes: B batch, L length, M length (keys), P predictions, D hidden, V vocab (padded).
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from bertjax import config as config_lib
from bertjax.config.parameters import num_parameters as num_parameters
from bertjax.models import attention, encoder, heads, layer_norm
from bertjax.models.attention import Batch
from bertjax.models.attention import choose as attention_kernel  # noqa: F401
from bertjax.models.dropout import dropout, split
from bertjax.models.encoder import blocks_at_once as blocks_at_once
from bertjax.models.layer_norm import choose as layer_norm_kernel  # noqa: F401
from bertjax.models.placement import Placement, Unplaced


def _modules(config: config_lib.Model) -> dict[str, Callable[..., nnx.Module]]:
    """Makers of the top-level parts of a model, under their names in the parameter tree."""
    head = {part.name: partial(heads.build, part) for part in config.head_record.parts}
    return {"embeddings": encoder.Embeddings, "blocks": encoder.Block, **head}


@cache
def _graph(config: config_lib.Model, name: str) -> tuple[nnx.GraphDef, nnx.State]:
    """A part's definition without its arrays; the abstract state says how to read a pure dict."""
    part = _modules(config)[name]
    module = nnx.eval_shape(lambda: part(config, nnx.Rngs(0)))
    return nnx.split(module)


def bind(config: config_lib.Model, params: dict, name: str) -> Callable:
    """A part of the model with its parameters in place."""
    graph, state = _graph(config, name)
    state = jax.tree.map(lambda x: x, state)  # a copy: replace_by_pure_dict writes in place
    nnx.replace_by_pure_dict(state, params[name])
    return nnx.merge(graph, state)


def init(config: config_lib.Model, key: jax.Array) -> dict:
    """Random parameters: a nested dict of float32 arrays, the blocks' with a leading `[N]`.

    Kernels and tables are truncated normal with deviation `initializer_range`, biases zero.
    The rows that pad the vocabulary are zero, get no gradient, and so stay zero.
    """

    def build(part: Callable[..., nnx.Module], key: jax.Array) -> dict:
        return nnx.to_pure_dict(nnx.state(part(config, nnx.Rngs(key)), nnx.Param))

    params = {}
    for index, (name, part) in enumerate(_modules(config).items()):
        part_key = jax.random.fold_in(key, index)
        if name == "blocks":
            keys = jax.random.split(part_key, config.num_hidden_layers)
            params[name] = jax.vmap(partial(build, part))(keys)
        else:
            params[name] = build(part, part_key)
    table_VD = params["embeddings"]["word"]["embedding"]
    real_V = jnp.arange(table_VD.shape[0]) < config.vocab_size
    params["embeddings"]["word"]["embedding"] = jnp.where(real_V[:, None], table_VD, 0)
    return params


def cast_kernels(config: config_lib.Model, params: dict) -> dict:
    """Parameters with the kernels in the compute type, in which `apply` multiplies with them.

    The outputs are the same. Who moves the weights to other devices moves half the bytes.
    """

    def cast(path: tuple[jax.tree_util.DictKey, ...], x: jax.Array) -> jax.Array:
        return x.astype(config.dtype) if path[-1].key == "kernel" else x

    return jax.tree_util.tree_map_with_path(cast, params)


def apply(
    config: config_lib.Model,
    params: dict,
    batch: Batch,
    *,
    dropout_key: jax.Array | None = None,
    placement: Placement | None = None,
) -> dict[str, jax.Array]:
    """Runs the model.

    Args:
      params: as from `init`.
      batch: `input_ids`, `attention_mask` (ones, then zeros: fused kernels count the ones) and, for
        a model with token types, `token_type_ids`, each `[B, L]`; `position_ids [B, L]` where
        positions are not 0, 1, 2...; with `masked_lm_positions [B, P]` the masked-LM logits are
        computed, on those only. In packed rows `segment_ids [B, L]` says which tokens see each
        other and `cls_positions [B, E]` where the E examples of a row begin.
      dropout_key: one key, or one for each row `[B]`: what a row drops then depends neither on
        the rows beside it nor on where it lies. None runs without dropout.
      placement: what the model knows of devices. It is called with the hidden states between
        blocks and with the embedding tables before use, and asked for kernels. None is one device.

    Returns:
      Dict with `hidden [B, L, D]` and, as `config.head` says, `masked_lm_logits [B, P, V]`,
      `pooled [B, D]`, `next_sentence_logits [B, 2]`, `classification_logits [B, num_labels]`
      (`[B, 1]` for multiple choice, a choice a row), `span_logits [B, L, 2]` (start, end);
      logits in float32.
      With `cls_positions`, what has one row for an example has `[B, E, ...]`.
    """
    placement = placement or Unplaced()
    embed_key, block_key, head_key = split(dropout_key, 3)
    word_embedding_VD = placement("word_embedding", params["embeddings"]["word"]["embedding"])
    embeddings = bind(config, params, "embeddings")
    hidden_BLD = embeddings(batch, word_embedding_VD, embed_key, placement)
    hidden_BLD = placement("hidden", hidden_BLD)
    attend = attention.bind(config, batch, placement)
    recompute = encoder.recompute(config, placement.device)
    add_and_norm = layer_norm.bind(config, placement, batch["input_ids"].shape[1], recompute)

    def apply_block(block_params: dict, hidden_BLD: jax.Array, key: jax.Array | None) -> jax.Array:
        return bind(config, {"blocks": block_params}, "blocks")(
            hidden_BLD, attend, add_and_norm, recompute, key
        )

    hidden_BLD = encoder.run_blocks(
        config, apply_block, params["blocks"], hidden_BLD, block_key, placement
    )
    return _apply_head(config, params, batch, hidden_BLD, word_embedding_VD, head_key)


def _apply_head(
    config: config_lib.Model,
    params: dict,
    batch: Batch,
    hidden_BLD: jax.Array,
    word_embedding_VD: jax.Array,
    dropout_key: jax.Array | None,
) -> dict[str, jax.Array]:
    """The outputs of `apply`, of the last hidden states."""
    outputs = {"hidden": hidden_BLD}
    # What reads `masked` comes first: the order decides that of the sums in the backward pass.
    for part in sorted(config.head_record.parts, key=lambda part: part.reads != "masked"):
        if part.reads == "masked":
            if "masked_lm_positions" not in batch:
                continue
            read = [hidden_BLD, batch["masked_lm_positions"], word_embedding_VD]
        elif part.reads == "first":
            read = [_first_tokens(hidden_BLD, batch)]
        else:
            rate = config.hidden_dropout_prob if part.drops else 0.0
            read = [dropout(outputs[part.reads], rate, dropout_key)]
        outputs[part.gives] = bind(config, params, part.name)(*read)
    return outputs


class Decoder(NamedTuple):
    """The factors of masked-LM logits, which are `states @ table.T + bias`, of any tokens.

    Attributes:
      states: `[B, P, D]`.
      table: the word embeddings `[V, D]`, with the rows that pad the vocabulary.
      bias: `[V]`.
    """

    states: jax.Array
    table: jax.Array
    bias: jax.Array


def decoder(
    config: config_lib.Model, params: dict, hidden_BPD: jax.Array, placement: Placement
) -> Decoder:
    """The factors of the masked-LM logits of some hidden states, which `apply` gave."""
    table_VD = placement("word_embedding", params["embeddings"]["word"]["embedding"])
    masked_lm: Any = bind(config, params, "masked_lm")
    states_BPD = masked_lm.transformed(hidden_BPD)
    return Decoder(states_BPD, table_VD.astype(states_BPD.dtype), params["masked_lm"]["bias"])


def _first_tokens(hidden_BLD: jax.Array, batch: Batch) -> jax.Array:
    """The hidden state that each example begins with: `[B, D]`, in packed rows `[B, E, D]`."""
    if "cls_positions" in batch:
        return jnp.take_along_axis(hidden_BLD, batch["cls_positions"][..., None], axis=1)
    return hidden_BLD[:, 0]


def abstract_params(config: config_lib.Model) -> dict:
    """The parameter tree as `jax.ShapeDtypeStruct`s: shapes without memory."""
    return jax.eval_shape(partial(init, config), jax.random.key(0))
