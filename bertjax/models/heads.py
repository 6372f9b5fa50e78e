"""Heads on top of the encoder: pooler, masked-LM, next-sentence, classification, span.

Shape suffixes: B batch, L length, P predictions, D hidden, V vocab (padded), C classes.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from bertjax import config as config_lib
from bertjax.models import encoder


class Pooler(nnx.Module):
    """Dense and activation over the first token's hidden state: `[..., D]` -> `[..., D]`.

    BERT's pooler; the first layer of RoBERTa's classification head (tanh) and of DistilBERT's
    (`pre_classifier`, relu).
    """

    def __init__(self, config: config_lib.Model, rngs: nnx.Rngs):
        self.activation = jnp.tanh if config.pooler_act == "tanh" else jax.nn.relu
        self.dense = encoder.linear(config, config.hidden_size, config.hidden_size, rngs)

    def __call__(self, first_BD):
        return self.activation(self.dense(first_BD))


class NextSentence(nnx.Module):
    """Two logits from the pooled state, float32: `[B, D]` -> `[B, 2]`; index 1 = random."""

    def __init__(self, config: config_lib.Model, rngs: nnx.Rngs):
        self.dense = encoder.linear(config, config.hidden_size, 2, rngs)

    def __call__(self, pooled_BD):
        return self.dense(pooled_BD).astype(jnp.float32)


class Classifier(nnx.Module):
    """Logits from the pooled state, float32: `[B, D]` -> `[B, C]`; one for multiple choice."""

    def __init__(self, config: config_lib.Model, rngs: nnx.Rngs):
        labels = config.num_labels if config.head == "classification" else 1
        self.dense = encoder.linear(config, config.hidden_size, labels, rngs)

    def __call__(self, pooled_BD):
        return self.dense(pooled_BD).astype(jnp.float32)


class Span(nnx.Module):
    """Start and end logits of every token, float32: `[B, L, D]` -> `[B, L, 2]`."""

    def __init__(self, config: config_lib.Model, rngs: nnx.Rngs):
        self.dense = encoder.linear(config, config.hidden_size, 2, rngs)

    def __call__(self, hidden_BLD):
        return self.dense(hidden_BLD).astype(jnp.float32)


class MaskedLM(nnx.Module):
    """Transform, then the decoder tied to the word embeddings, on the P masked positions only."""

    def __init__(self, config: config_lib.Model, rngs: nnx.Rngs):
        self.config = config
        self.transform = encoder.linear(config, config.hidden_size, config.hidden_size, rngs)
        self.layer_norm = encoder.layer_norm(config, rngs)
        self.bias = nnx.Param(jnp.zeros(config.padded_vocab_size))

    def __call__(self, hidden_BLD, positions_BP, word_embedding_VD):
        """Logits `[B, P, V]`, float32, -inf in the padding of the vocabulary."""
        c = self.config
        hidden_BPD = jnp.take_along_axis(hidden_BLD, positions_BP[..., None], axis=1)
        hidden_BPD = encoder.activation(c.hidden_act)(self.transform(hidden_BPD))
        hidden_BPD = self.layer_norm(hidden_BPD).astype(c.dtype)
        logits_BPV = jnp.einsum(
            "BPD,VD->BPV",
            hidden_BPD,
            word_embedding_VD.astype(c.dtype),
            preferred_element_type=jnp.float32,
        )
        logits_BPV += self.bias[...]
        real_V = jnp.arange(logits_BPV.shape[-1]) < c.vocab_size
        return jnp.where(real_V, logits_BPV, -jnp.inf)


# What each value of config.model.head puts on the encoder (and the pooler), by parameter name.
HEADS = {
    "pretraining": {"next_sentence": NextSentence, "masked_lm": MaskedLM},
    "masked_lm": {"masked_lm": MaskedLM},
    "classification": {"classifier": Classifier},
    "multiple_choice": {"classifier": Classifier},
    "span": {"span": Span},
    "pooler": {},
    "none": {},
}
