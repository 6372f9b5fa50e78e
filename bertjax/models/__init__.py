"""The functional boundary of the model: parameters are a plain nested dict, calls are pure.

Shape suffixes: B batch, L length, M length (keys), P predictions, D hidden, V vocab (padded).
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx

from bertjax import config as config_lib
from bertjax.models import attention, encoder, heads
from bertjax.models.attention import choose as attention_kernel  # noqa: F401


@dataclasses.dataclass(frozen=True)
class Unplaced:
    """The placement that places nothing: of one device, or left to the partitioner.

    Attributes:
      device: one of those that are meant; by default of those at hand.
      has_shards: False on several devices, where nothing says which of them runs a kernel on what.
    """

    device: jax.Device = dataclasses.field(default_factory=lambda: jax.devices()[0])
    has_shards: bool = True

    def __call__(self, name: str, array):
        return array

    def per_shard(self, kernel):
        return kernel


def _modules(config: config_lib.Model) -> dict[str, type[nnx.Module]]:
    """The top-level parts of a model, under their names in the parameter tree."""
    parts = {"embeddings": encoder.Embeddings, "blocks": encoder.Block}
    if config.has_pooler:
        parts["pooler"] = heads.Pooler
    return parts | heads.HEADS[config.head]


@functools.cache
def _graph(config: config_lib.Model, name: str):
    """A part's definition without its arrays; the abstract state says how to read a pure dict."""
    part = _modules(config)[name]
    module = nnx.eval_shape(lambda: part(config, nnx.Rngs(0)))
    return nnx.split(module)


def _bind(config: config_lib.Model, params, name: str):
    graph, state = _graph(config, name)
    state = jax.tree.map(lambda x: x, state)  # a copy: replace_by_pure_dict writes in place
    nnx.replace_by_pure_dict(state, params[name])
    return nnx.merge(graph, state)


def init(config: config_lib.Model, key) -> dict:
    """Random parameters: a nested dict of float32 arrays, the blocks' with a leading `[N]`.

    Kernels and tables are truncated normal with deviation `initializer_range`, biases zero.
    The rows that pad the vocabulary are zero, get no gradient, and so stay zero.
    """

    def build(part, key):
        return nnx.to_pure_dict(nnx.state(part(config, nnx.Rngs(key)), nnx.Param))

    params = {}
    for index, (name, part) in enumerate(_modules(config).items()):
        part_key = jax.random.fold_in(key, index)
        if name == "blocks":
            keys = jax.random.split(part_key, config.num_hidden_layers)
            params[name] = jax.vmap(functools.partial(build, part))(keys)
        else:
            params[name] = build(part, part_key)
    table_VD = params["embeddings"]["word"]["embedding"]
    real_V = jnp.arange(table_VD.shape[0]) < config.vocab_size
    params["embeddings"]["word"]["embedding"] = jnp.where(real_V[:, None], table_VD, 0)
    return params


def apply(config: config_lib.Model, params, batch, *, dropout_key=None, placement=None):
    """Runs the model.

    Args:
      params: as from `init`.
      batch: `input_ids`, `attention_mask` (ones, then zeros: fused kernels count the ones) and, for
        a model with token types, `token_type_ids`, each `[B, L]`; `position_ids [B, L]` where positions are not 0, 1, 2...; with
        `masked_lm_positions [B, P]` the masked-LM logits are computed, on those only. In packed
        rows `segment_ids [B, L]` says which tokens see each other and `cls_positions [B, E]`
        where the E examples of a row begin.
      dropout_key: one key, or one for each row `[B]`: what a row drops then depends neither on
        the rows beside it nor on where it lies. None runs without dropout.
      placement: what the model knows of devices (`sharding.Placement`): called as
        `(name, array) -> array` with the hidden states between blocks and with the embedding
        tables before use, and asked for kernels. None is one device.

    Returns:
      Dict with `hidden [B, L, D]` and, as `config.head` says, `masked_lm_logits [B, P, V]`,
      `pooled [B, D]`, `next_sentence_logits [B, 2]`, `classification_logits [B, num_labels]`
      (`[B, 1]` for multiple choice, a choice a row), `span_logits [B, L, 2]` (start, end);
      logits in float32.
      With `cls_positions`, what has one row for an example has `[B, E, ...]`.
    """
    placement = placement or Unplaced()
    embed_key, block_key, head_key = (
        (None,) * 3 if dropout_key is None else attention.split(dropout_key, 3)
    )
    word_embedding_VD = placement("word_embedding", params["embeddings"]["word"]["embedding"])
    embeddings = _bind(config, params, "embeddings")
    hidden_BLD = embeddings(batch, word_embedding_VD, embed_key, placement)
    hidden_BLD = placement("hidden", hidden_BLD)
    attend = attention.bind(config, batch, placement)

    def apply_block(block_params, hidden_BLD, key):
        return _bind(config, {"blocks": block_params}, "blocks")(hidden_BLD, attend, key)

    block = (apply_block, params["blocks"])
    hidden_BLD = encoder.run_blocks(config, block, hidden_BLD, block_key, placement)
    outputs = {"hidden": hidden_BLD}
    if config.has_masked_lm and "masked_lm_positions" in batch:
        outputs["masked_lm_logits"] = _bind(config, params, "masked_lm")(
            hidden_BLD, batch["masked_lm_positions"], word_embedding_VD
        )
    if config.has_pooler:
        first_BD = hidden_BLD[:, 0]
        if "cls_positions" in batch:
            first_BD = jnp.take_along_axis(hidden_BLD, batch["cls_positions"][..., None], axis=1)
        outputs["pooled"] = _bind(config, params, "pooler")(first_BD)
    if config.head == "pretraining":
        outputs["next_sentence_logits"] = _bind(config, params, "next_sentence")(outputs["pooled"])
    if "classifier" in params:
        pooled_BD = attention.dropout(outputs["pooled"], config.hidden_dropout_prob, head_key)
        outputs["classification_logits"] = _bind(config, params, "classifier")(pooled_BD)
    if "span" in params:
        outputs["span_logits"] = _bind(config, params, "span")(hidden_BLD)
    return outputs


def abstract_params(config: config_lib.Model) -> dict:
    """The parameter tree as `jax.ShapeDtypeStruct`s: shapes without memory."""
    return jax.eval_shape(functools.partial(init, config), jax.random.key(0))


def num_parameters(config: config_lib.Model) -> int:
    """Parameters of the model as published: the padding of the vocabulary is not counted."""
    total = sum(math.prod(x.shape) for x in jax.tree.leaves(abstract_params(config)))
    padding = config.padded_vocab_size - config.vocab_size
    return total - padding * (config.hidden_size + config.has_masked_lm)
