"""A trained model at work: filling masks, embedding text."""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from bertjax import config as config_lib
from bertjax import models
from bertjax.config.embedding_fields import POOLINGS, Embedding
from bertjax.convert import sentence_encoder
from bertjax.convert.pretrained import Pretrained
from bertjax.data.encode import encode
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import DataError, UsageError

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
    ids = tokenizer.encode_with_masks(text)
    if tokenizer.mask_id not in ids:
        mask_token = tokenizer.tokens([tokenizer.mask_id])[0]
        raise UsageError(f"text={text!r}: holds no {mask_token}; put one where a word is missing")
    longest = model.config.model.max_sequence_length
    if len(ids) + 2 > longest:
        raise UsageError(f"text has {len(ids) + 2} tokens; the model reads {longest}: shorten it")
    batch = encode([(ids,)], tokenizer, longest=longest)
    probabilities_PV = _mask_probabilities(model, tokenizer, batch)
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


def _mask_probabilities(model: Pretrained, tokenizer: Tokenizer, batch: dict) -> np.ndarray:
    """Probabilities `[P, V]` for the `P` masks of a batch of one row."""
    positions_1P = np.flatnonzero(batch["input_ids"][0] == tokenizer.mask_id)[None]
    apply = jax.jit(functools.partial(models.apply, _config(model)))
    logits_1PV = apply(model.params, batch | {"masked_lm_positions": positions_1P})[
        "masked_lm_logits"
    ]
    return np.asarray(jax.nn.softmax(logits_1PV[0], axis=-1))


def embed(
    model: Pretrained, texts: list[str], *, pooling: str | None = None, batch_size: int = 32
) -> Iterator[np.ndarray]:
    """One vector `[D]`, float32, for each text, in their order; longer texts are cut.

    Args:
      pooling: None makes vectors as `model.config.embedding` has it: those of the sentence encoder
        where the model is one, else the mean. A name pools the encoder's vectors so and does
        nothing else: `mean` over all tokens, `[CLS]` and `[SEP]` included (Reimers and Gurevych
        2019), `max` over them, `cls`, `pooler` (the pretrained layer over it),
        `mean_sqrt_len_tokens` (the sum over the root of the length), `weightedmean` (by position)
        or `lasttoken` (both Muennighoff 2022); several joined by + are put one after the other.

    Raises:
      UsageError: no such pooling, or the model has no pooler, or its own vectors are made by
        modules that bertjax has not.
      DataError: the source has no tokenizer.
    """
    tokenizer, config = _tokenizer(model), _config(model)
    how = model.config.embedding if pooling is None else Embedding(pooling=pooling)
    sentence_encoder.refuse(how)
    modes = (how.pooling or "mean").split("+")
    for mode in modes:
        if mode not in POOLINGS:
            raise UsageError(f"--pooling={pooling}: must be one of {', '.join(POOLINGS)}")
    if "pooler" in modes and not config.has_pooler:
        raise UsageError(f"--pooling=pooler: model.head={config.head} has none; take mean or cls")
    skip = 0
    if how.prompt and not how.include_prompt:
        skip = 1 + len(tokenizer.encode([_prepared("", how)])[0])  # [CLS] goes with the prompt
    apply = jax.jit(functools.partial(_embed, config, modes, how.normalize, skip))
    params = jax.device_put(model.params)
    longest = min(how.max_length or config.max_sequence_length, config.max_sequence_length)
    examples = [(ids,) for ids in tokenizer.encode([_prepared(text, how) for text in texts])]
    for start in range(0, len(examples), batch_size):
        some = examples[start : start + batch_size]
        batch = encode(some, tokenizer, longest=longest, multiple=_LENGTH_MULTIPLE)
        yield from np.asarray(apply(params, batch))


def _prepared(text: str, how: Embedding) -> str:
    """What the tokenizer gets of a text."""
    text = how.prompt + text
    return text.lower() if how.lowercase else text


def _embed(
    config: config_lib.Model,
    modes: list[str],
    normalize: bool,
    skip: int,
    params: dict,
    batch: dict,
) -> jax.Array:
    """Vectors `[B, D]`, or `[B, D * modes]`, of which the first `skip` tokens are no part."""
    outputs = models.apply(config, params, batch)
    hidden_BLD = outputs["hidden"].astype(jnp.float32)
    mask_BL = batch["attention_mask"] * (jnp.arange(hidden_BLD.shape[1]) >= skip)
    pooled = [_pooled(mode, hidden_BLD, mask_BL, outputs, skip) for mode in modes]
    vectors_BD = jnp.concatenate(pooled, axis=-1)
    if normalize:
        norms_B1 = jnp.linalg.norm(vectors_BD, axis=-1, keepdims=True)
        vectors_BD = vectors_BD / jnp.maximum(norms_B1, 1e-12)
    return vectors_BD


def _pooled(
    mode: str, hidden_BLD: jax.Array, mask_BL: jax.Array, outputs: dict[str, jax.Array], skip: int
) -> jax.Array:
    """One pooling of the tokens that `mask_BL` marks (sentence-transformers' `Pooling`)."""
    weights_BL = mask_BL.astype(jnp.float32)
    if mode == "weightedmean":
        weights_BL *= jnp.arange(1, mask_BL.shape[1] + 1)
    sums_BD = jnp.einsum("BLD,BL->BD", hidden_BLD, weights_BL, precision="highest")
    lengths_B1 = jnp.maximum(weights_BL.sum(1, keepdims=True), 1e-9)
    last_B = mask_BL.shape[1] - 1 - jnp.argmax(mask_BL[:, ::-1], axis=1)
    match mode:
        case "mean" | "weightedmean":
            return sums_BD / lengths_B1
        case "mean_sqrt_len_tokens":
            return sums_BD / jnp.sqrt(lengths_B1)
        case "max":
            return jnp.where(mask_BL[..., None], hidden_BLD, -jnp.inf).max(1)
        case "lasttoken":
            return jnp.take_along_axis(hidden_BLD, last_B[:, None, None], axis=1)[:, 0]
        case "cls":
            return hidden_BLD[:, skip]
        case _:  # pooler
            return outputs["pooled"].astype(jnp.float32)
