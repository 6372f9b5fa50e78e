"""Filling masks: what a model puts where a token is missing."""

import functools
from collections.abc import Callable

import jax
import numpy as np

from bertjax import config as config_lib
from bertjax import models
from bertjax.convert.pretrained import Pretrained
from bertjax.data.encode import encode
from bertjax.errors import UsageError
from bertjax.inference import texts


def fill_mask(model: Pretrained, text: str, top_k: int = 5) -> list[list[tuple[str, float]]]:
    """Candidates for every mask token of `text`, most probable first.

    Returns:
      For each mask, `top_k` pairs of token and probability.

    Raises:
      UsageError: `text` holds no mask, or is longer than the model reads, or the model has no
        masked-LM head.
      DataError: the source has no tokenizer.
    """
    tokenizer = texts.tokenizer_of(model)
    texts.require_masked_lm(model)
    ids = tokenizer.encode_with_masks(text)
    if tokenizer.mask_id not in ids:
        mask_token = tokenizer.tokens([tokenizer.mask_id])[0]
        raise UsageError(f"text={text!r}: holds no {mask_token}; put one where a word is missing")
    longest = model.config.model.max_sequence_length
    if len(ids) + 2 > longest:
        raise UsageError(f"text has {len(ids) + 2} tokens; the model reads {longest}: shorten it")
    batch = encode([(ids,)], tokenizer, longest=longest, multiple=texts.LENGTH_MULTIPLE)
    positions_1P = np.flatnonzero(batch["input_ids"][0] == tokenizer.mask_id)[None]
    batch["masked_lm_positions"] = positions_1P
    probabilities_PV = np.asarray(_program(texts.config_of(model))(model.params, batch))
    candidates = []
    for row_V in probabilities_PV:
        best = [i for i in np.argsort(-row_V) if i < tokenizer.vocab_size][:top_k]
        candidates.append([(tokenizer.tokens([i])[0], float(row_V[i])) for i in best])
    return candidates


@functools.cache
def _program(config: config_lib.Model) -> Callable[[dict, dict], jax.Array]:
    """`(params, batch of one row) -> probabilities [P, V]` of its P masks; compiled once a shape."""

    def probabilities(params: dict, batch: dict) -> jax.Array:
        logits_1PV = models.apply(config, params, batch)["masked_lm_logits"]
        return jax.nn.softmax(logits_1PV[0], axis=-1)

    return jax.jit(probabilities)
