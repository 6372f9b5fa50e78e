"""The modules of the heads on top of the encoder: pooler, masked-LM, logits of any kind.

Shape suffixes: B batch, L length, P predictions, D hidden, V vocab (padded), C classes, X any.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from bertjax import config as config_lib
from bertjax.config import parameters
from bertjax.config.heads import Part
from bertjax.models import encoder
from bertjax.models.linear import activated, dense, linear, summed_in_float32


class Pooler(nnx.Module):
    """Dense layer and activation on the first token's hidden state: `[..., D]` -> `[..., D]`.

    This is BERT's pooler, and the first layer of the classification heads of RoBERTa (tanh) and
    DistilBERT (`pre_classifier`, relu).
    """

    def __init__(self, config: config_lib.Model, rngs: nnx.Rngs):
        self.activation = jnp.tanh if config.pooler_act == "tanh" else jax.nn.relu
        self.dense = linear(config, config.hidden_size, config.hidden_size, rngs)

    def __call__(self, first_BD: jax.Array) -> jax.Array:
        return self.activation(dense(self.dense, first_BD))


class Logits(nnx.Module):
    """Dense layer from vectors to float32 logits: `[..., D]` -> `[..., C]`."""

    def __init__(self, config: config_lib.Model, width: int, rngs: nnx.Rngs):
        self.dense = linear(config, config.hidden_size, width, rngs)

    def __call__(self, hidden_XD: jax.Array) -> jax.Array:
        return dense(self.dense, hidden_XD).astype(jnp.float32)


class MaskedLM(nnx.Module):
    """Transform, then the decoder tied to the word embeddings, on the P masked positions only."""

    def __init__(self, config: config_lib.Model, rngs: nnx.Rngs):
        self.config = config
        self.transform = linear(config, config.hidden_size, config.hidden_size, rngs)
        self.layer_norm = encoder.layer_norm(config, rngs)
        self.bias = nnx.Param(jnp.zeros(config.padded_vocab_size))

    def __call__(
        self, hidden_BLD: jax.Array, positions_BP: jax.Array, word_embedding_VD: jax.Array
    ) -> jax.Array:
        """Logits `[B, P, V]`, float32, -inf in the padding of the vocabulary."""
        c = self.config
        hidden_BPD = jnp.take_along_axis(hidden_BLD, positions_BP[..., None], axis=1)
        hidden_BPD = self.transformed(hidden_BPD)
        table_VD = word_embedding_VD.astype(hidden_BPD.dtype)
        logits_BPV = summed_in_float32("BPD,VD->BPV", hidden_BPD, table_VD, c.dtype)
        logits_BPV += self.bias[...]
        real_V = jnp.arange(logits_BPV.shape[-1]) < c.vocab_size
        return jnp.where(real_V, logits_BPV, -jnp.inf)

    def transformed(self, hidden_XD: jax.Array) -> jax.Array:
        """The transform before the product with the word table: `[..., D]` -> `[..., D]`."""
        inner_XD = activated(self.config.hidden_act, self.transform, hidden_XD)
        return self.layer_norm(inner_XD).astype(hidden_XD.dtype)


# The parts of `config.heads` that are not plain `Logits`, by name.
_MODULES = {"pooler": Pooler, "masked_lm": MaskedLM}


def build(part: Part, config: config_lib.Model, rngs: nnx.Rngs) -> nnx.Module:
    """The module that computes a part of a head."""
    if part.name in _MODULES:
        return _MODULES[part.name](config, rngs)
    return Logits(config, parameters.width(config, part), rngs)
