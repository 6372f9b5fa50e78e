"""Vectors of texts: what the encoder makes of their tokens, pooled."""

import functools
from collections.abc import Callable, Iterable, Iterator

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
from bertjax.errors import UsageError
from bertjax.inference import texts as texts_lib

_WINDOW = 32  # batches that are read, and sorted by length, at once


def embed(
    model: Pretrained,
    texts: Iterable[str],
    *,
    pooling: str | None = None,
    batch_size: int = texts_lib.BATCH,
) -> Iterator[np.ndarray]:
    """One vector `[D]`, float32, for each text, in their order; longer texts are cut.

    Texts are read a window at a time; those of like length share a batch.

    Args:
      texts: any iterable, an endless one too.
      pooling: None makes vectors as `model.config.embedding` has it: those of the sentence encoder
        where the model is one, else the mean. A name pools the encoder's vectors so and does
        nothing else: `mean` over all tokens, `[CLS]` and `[SEP]` included (Reimers and Gurevych
        2019), `max` over them, `cls`, `pooler` (the pretrained layer over it),
        `mean_sqrt_len_tokens` (the sum over the root of the length), `weightedmean` (by position)
        or `lasttoken` (both Muennighoff 2022); several joined by + are put one after the other.
      batch_size: rows that are computed at once.

    Raises:
      UsageError: no such pooling, or the model has no pooler, or its own vectors are made by
        modules that bertjax has not.
      DataError: the source has no tokenizer.
    """
    tokenizer, config = texts_lib.tokenizer_of(model), texts_lib.config_of(model)
    how = model.config.embedding if pooling is None else Embedding(pooling=pooling)
    sentence_encoder.refuse(how)
    modes = tuple((how.pooling or "mean").split("+"))
    for mode in modes:
        if mode not in POOLINGS:
            raise UsageError(f"--pooling={pooling}: must be one of {', '.join(POOLINGS)}")
    if "pooler" in modes and not config.has_pooler:
        raise UsageError(f"--pooling=pooler: model.head={config.head} has none; take mean or cls")
    skip = 0
    if how.prompt and not how.include_prompt:
        skip = 1 + len(tokenizer.encode([_prepared("", how)])[0])  # [CLS] goes with the prompt
    vectors = functools.partial(
        _program(config, modes, how.normalize, skip), jax.device_put(model.params)
    )
    longest = min(how.max_length or config.max_sequence_length, config.max_sequence_length)
    windows = texts_lib.windows(texts, _WINDOW * batch_size)
    return _embedded(windows, how, tokenizer, vectors, longest, batch_size)


def _embedded(
    windows: Iterable[list[str]],
    how: Embedding,
    tokenizer: Tokenizer,
    vectors: Callable[[dict], jax.Array],
    longest: int,
    batch_size: int,
) -> Iterator[np.ndarray]:
    for window in windows:
        ids = tokenizer.encode([_prepared(text, how) for text in window])
        order = sorted(range(len(ids)), key=lambda text: len(ids[text]))
        found: list[np.ndarray] = [np.empty(0)] * len(ids)
        for start in range(0, len(order), batch_size):
            some = order[start : start + batch_size]
            batch = encode(
                [(ids[text],) for text in some],
                tokenizer,
                longest=longest,
                multiple=texts_lib.LENGTH_MULTIPLE,
            )
            rows_BD = np.asarray(vectors(texts_lib.round_rows(batch, batch_size)))
            for text, vector in zip(some, rows_BD, strict=False):
                found[text] = vector
        yield from found


@functools.cache
def _program(
    config: config_lib.Model, modes: tuple[str, ...], normalize: bool, skip: int
) -> Callable[[dict, dict], jax.Array]:
    """`(params, batch) -> vectors`, as of `_embed`; compiled once a shape."""
    return jax.jit(functools.partial(_embed, config, modes, normalize, skip))


def _prepared(text: str, how: Embedding) -> str:
    """What the tokenizer gets of a text."""
    text = how.prompt + text
    return text.lower() if how.lowercase else text


def _embed(
    config: config_lib.Model,
    modes: tuple[str, ...],
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
