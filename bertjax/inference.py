"""A trained model at work: filling masks, embedding text."""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from bertjax import config as config_lib
from bertjax import models
from bertjax.convert.pretrained import Pretrained
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import DataError, UsageError

POOLINGS = ("mean", "cls", "max", "pooler")
_LENGTH_MULTIPLE = 16  # lengths are padded to it, so that few programs are compiled


def fill_mask(model: Pretrained, text: str, top_k: int) -> list[list[tuple[str, float]]]:
    """Candidates for every mask token of `text`, most probable first.

    Returns:
      For each mask, `top_k` pairs of token and probability.

    Raises:
      UsageError: `text` holds no mask, or is longer than the model reads, or the model has no
        masked-LM head.
      DataError: the source has no tokenizer.
    """
    tokenizer = _tokenizer(model)
    if not model.config.model.has_masked_lm:
        raise UsageError(
            f"model.head={model.config.model.head}: has no masked-LM head; take a source that has"
        )
    ids = [tokenizer.cls_id, *tokenizer.encode_with_masks(text), tokenizer.sep_id]
    if tokenizer.mask_id not in ids:
        mask_token = tokenizer.tokens([tokenizer.mask_id])[0]
        raise UsageError(f"text={text!r}: holds no {mask_token}; put one where a word is missing")
    longest = model.config.model.max_sequence_length
    if len(ids) > longest:
        raise UsageError(f"text has {len(ids)} tokens; the model reads {longest}: shorten it")
    probabilities_PV = _mask_probabilities(model, np.array([ids], np.int32))
    candidates = []
    for row_V in probabilities_PV:
        best = [i for i in np.argsort(-row_V) if i < tokenizer.vocab_size][:top_k]
        candidates.append([(tokenizer.tokens([i])[0], float(row_V[i])) for i in best])
    return candidates


def _tokenizer(model: Pretrained) -> Tokenizer:
    if model.tokenizer is None:
        raise DataError("the source has no tokenizer; name its file or folder with --tokenizer")
    return model.tokenizer


def _config(model: Pretrained) -> config_lib.Model:
    """The model's, with an attention kernel that this machine has, whatever trained it."""
    return dataclasses.replace(model.config.model, attention="auto")


def _mask_probabilities(model: Pretrained, ids_1L):
    positions_1P = np.flatnonzero(ids_1L[0] == model.tokenizer.mask_id)[None]
    batch = {
        "input_ids": ids_1L,
        "token_type_ids": np.zeros_like(ids_1L),
        "attention_mask": np.ones_like(ids_1L),
        "masked_lm_positions": positions_1P,
    }
    apply = jax.jit(functools.partial(models.apply, _config(model)))
    logits_1PV = apply(model.params, batch)["masked_lm_logits"]
    return np.asarray(jax.nn.softmax(logits_1PV[0], axis=-1))


def embed(
    model: Pretrained, texts: list[str], *, pooling: str, batch_size: int = 32
) -> Iterator[np.ndarray]:
    """One vector `[D]`, float32, for each text, in their order; longer texts are cut.

    Args:
      pooling: `mean` over all tokens, `[CLS]` and `[SEP]` included (Reimers and Gurevych 2019),
        `max` over them, `cls`, or `pooler` (the pretrained layer over it).

    Raises:
      UsageError: no such pooling, or the model has no pooler.
      DataError: the source has no tokenizer.
    """
    tokenizer, config = _tokenizer(model), _config(model)
    if pooling not in POOLINGS:
        raise UsageError(f"--pooling={pooling}: must be one of {', '.join(POOLINGS)}")
    if pooling == "pooler" and not config.has_pooler:
        raise UsageError(f"--pooling=pooler: model.head={config.head} has none; take mean or cls")
    apply = jax.jit(functools.partial(_embed, config, pooling))
    params = jax.device_put(model.params)
    longest = config.max_sequence_length - 2
    rows = [[tokenizer.cls_id, *ids[:longest], tokenizer.sep_id] for ids in tokenizer.encode(texts)]
    for start in range(0, len(rows), batch_size):
        batch = _padded(rows[start : start + batch_size], tokenizer.pad_id, longest + 2)
        yield from np.asarray(apply(params, batch))


def _padded(rows: list[list[int]], pad_id: int, longest: int) -> dict[str, np.ndarray]:
    length = max(map(len, rows))
    length = min(-(-length // _LENGTH_MULTIPLE) * _LENGTH_MULTIPLE, longest)
    ids_BL = np.full((len(rows), length), pad_id, np.int32)
    mask_BL = np.zeros((len(rows), length), np.int32)
    for index, row in enumerate(rows):
        ids_BL[index, : len(row)] = row
        mask_BL[index, : len(row)] = 1
    return {"input_ids": ids_BL, "token_type_ids": ids_BL * 0, "attention_mask": mask_BL}


def _embed(config, pooling, params, batch):
    outputs = models.apply(config, params, batch)
    hidden_BLD = outputs["hidden"].astype(jnp.float32)
    mask_BL1 = batch["attention_mask"][..., None]
    if pooling == "mean":
        return (hidden_BLD * mask_BL1).sum(1) / mask_BL1.sum(1)
    if pooling == "max":
        return jnp.where(mask_BL1, hidden_BLD, -jnp.inf).max(1)
    return hidden_BLD[:, 0] if pooling == "cls" else outputs["pooled"].astype(jnp.float32)
