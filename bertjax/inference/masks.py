"""Filling masks: what a model puts where a token is missing."""

import functools
from collections.abc import Callable, Sequence

import jax
import numpy as np

from bertjax import config as config_lib
from bertjax import models
from bertjax.convert.pretrained import Pretrained
from bertjax.data.cloze import Question
from bertjax.data.encode import encode
from bertjax.data.tokenizer import Tokenizer
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
    batch["masked_lm_positions"] = np.flatnonzero(batch["input_ids"][0] == tokenizer.mask_id)[None]
    [probabilities_PV] = _probabilities(model, batch)
    return [_best(row_V, tokenizer, top_k) for row_V in probabilities_PV]


def fill_questions(
    model: Pretrained, questions: Sequence[Question], top_k: int = 5
) -> list[list[tuple[str, float]]]:
    """Candidates for the missing word of each question, most probable first, as of `fill_mask`.

    Raises:
      UsageError: the model has no masked-LM head; a question is longer than the model reads.
      DataError: the source has no tokenizer.
    """
    tokenizer = texts.tokenizer_of(model)
    texts.require_masked_lm(model)
    longest = model.config.model.max_sequence_length
    if max(len(question.ids) for question in questions) + 2 > longest:
        raise UsageError(f"model.max_position_embeddings={longest}: too short for the questions")
    rows = [(question.masked(tokenizer.mask_id),) for question in questions]
    batch = encode(rows, tokenizer, longest=longest)
    # [CLS] comes first.
    batch["masked_lm_positions"] = np.array([[question.position + 1] for question in questions])
    return [_best(row_PV[0], tokenizer, top_k) for row_PV in _probabilities(model, batch)]


def _best(row_V: np.ndarray, tokenizer: Tokenizer, top_k: int) -> list[tuple[str, float]]:
    best = [i for i in np.argsort(-row_V) if i < tokenizer.vocab_size][:top_k]
    return [(tokenizer.tokens([i])[0], float(row_V[i])) for i in best]


def _probabilities(model: Pretrained, batch: dict) -> np.ndarray:
    """Probabilities [B, P, V] at the masked positions [B, P] of a batch."""
    return np.asarray(_program(texts.config_of(model))(model.params, batch))


@functools.cache
def _program(config: config_lib.Model) -> Callable[[dict, dict], jax.Array]:
    """`(params, batch) -> probabilities [B, P, V]` of P masks a row; compiled once a shape."""

    def probabilities(params: dict, batch: dict) -> jax.Array:
        logits_BPV = models.apply(config, params, batch)["masked_lm_logits"]
        return jax.nn.softmax(logits_BPV, axis=-1)

    return jax.jit(probabilities)
