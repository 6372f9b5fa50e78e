"""A trained model read back from its run: filling masks."""

import dataclasses
import functools
from pathlib import Path

import jax
import numpy as np

from bertjax import checkpoint, models, workdir
from bertjax import config as config_lib
from bertjax.data import tokenizer as tokenizer_lib
from bertjax.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Model:
    """Parameters with what is needed to use them."""

    config: config_lib.Config
    tokenizer: tokenizer_lib.Tokenizer
    params: dict
    step: int


def load(source: str) -> Model:
    """The newest whole checkpoint of a run, on the default device.

    Args:
      source: a workdir, also written `orbax:DIR`.
    """
    directory = Path(source.removeprefix("orbax:"))
    config = workdir.read_config(directory)
    tokenizer = tokenizer_lib.load(directory / "tokenizer", config.tokenizer.lowercase)
    abstract = {"params": models.abstract_params(config.model)}
    step, state = checkpoint.read_newest(directory / "checkpoints", abstract)
    return Model(config, tokenizer, state["params"], step)


def fill_mask(model: Model, text: str, top_k: int) -> list[list[tuple[str, float]]]:
    """Candidates for every [MASK] of `text`, most probable first.

    Returns:
      For each mask, `top_k` pairs of token and probability.

    Raises:
      UsageError: `text` holds no mask, or is longer than the model reads.
    """
    tokenizer = model.tokenizer
    mask_token = tokenizer.tokens([tokenizer.mask_id])[0]
    pieces = text.split(mask_token)
    if len(pieces) == 1:
        raise UsageError(f"text={text!r}: holds no {mask_token}; put one where a word is missing")
    ids = [tokenizer.cls_id]
    for index, encoded in enumerate(tokenizer.encode(pieces)):
        ids += ([tokenizer.mask_id] if index else []) + list(encoded)
    ids.append(tokenizer.sep_id)
    longest = model.config.model.max_position_embeddings
    if len(ids) > longest:
        raise UsageError(f"text has {len(ids)} tokens; the model reads {longest}: shorten it")
    probabilities_PV = _mask_probabilities(model, np.array([ids], np.int32))
    candidates = []
    for row_V in probabilities_PV:
        best = np.argsort(-row_V)[:top_k]
        candidates.append([(tokenizer.tokens([i])[0], float(row_V[i])) for i in best])
    return candidates


def _mask_probabilities(model: Model, ids_1L):
    positions_1P = np.flatnonzero(ids_1L[0] == model.tokenizer.mask_id)[None]
    batch = {
        "input_ids": ids_1L,
        "token_type_ids": np.zeros_like(ids_1L),
        "attention_mask": np.ones_like(ids_1L),
        "masked_lm_positions": positions_1P,
    }
    apply = jax.jit(functools.partial(models.apply, model.config.model))
    logits_1PV = apply(model.params, batch)["masked_lm_logits"]
    return np.asarray(jax.nn.softmax(logits_1PV[0], axis=-1))
