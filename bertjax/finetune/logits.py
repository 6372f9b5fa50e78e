"""The logits of a model, a student or its teacher, for the rows of a task."""

import jax

from bertjax import config as config_lib
from bertjax import models
from bertjax.job import Batch
from bertjax.models.placement import Placement

_TOKENS = ("input_ids", "token_type_ids", "attention_mask")


def of(
    model: config_lib.Model,
    params: dict,
    batch: Batch,
    *,
    dropout_key: jax.Array | None,
    placement: Placement,
) -> jax.Array:
    """The logits, float32: [B, classes], [B, choices], [B, L, labels], or [B, L, 2] for spans.

    The model sees each option of a multiple choice batch [B, C, L] as a row of its own.
    """
    ids = batch["input_ids"]
    tokens = {name: batch[name] for name in _TOKENS}
    if ids.ndim == 3:
        tokens = {name: x.reshape(-1, x.shape[-1]) for name, x in tokens.items()}
        if dropout_key is not None and dropout_key.ndim:
            split = jax.vmap(lambda key: jax.random.split(key, ids.shape[1]))(dropout_key)
            dropout_key = split.reshape(-1)
    outputs = models.apply(model, params, tokens, dropout_key=dropout_key, placement=placement)
    logits: jax.Array = outputs[model.head_record.parts[-1].gives]
    return logits.reshape(ids.shape[:2]) if ids.ndim == 3 else logits
