"""The logits that a model gives for the rows of a task: a student's, or its teacher's."""

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
    """[B, classes], [B, choices], [B, L, labels] or, of spans, [B, L, 2]; float32.

    The options of a multiple choice [B, C, L] are rows of their own for the model.
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
