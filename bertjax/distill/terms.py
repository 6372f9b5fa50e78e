"""The loss terms that a teacher adds to masked-LM training: soft targets and hidden states."""

import dataclasses

import jax
import jax.numpy as jnp

from bertjax import config as config_lib
from bertjax import models
from bertjax.distill import soft_targets
from bertjax.distill.teacher import Teacher
from bertjax.job import Batch
from bertjax.metrics import flops
from bertjax.models import Decoder
from bertjax.models.placement import Placement


def has_cosine(config: config_lib.Config, teacher: Teacher) -> bool:
    """Whether the hidden states of both models can be compared."""
    return teacher.model.hidden_size == config.model.hidden_size


def notes(config: config_lib.Config, teacher: Teacher) -> list[str]:
    """Lines for the log on how a teacher is used."""
    theirs, ours = teacher.model.hidden_size, config.model.hidden_size
    lines = [
        f"teacher: {teacher.uri}, {teacher.model.num_hidden_layers} blocks, {config.teacher.dtype}"
    ]
    lines += [f"teacher: {note}" for note in teacher.notes]
    if not (config.objective.distill or config.objective.cosine):
        lines.append("the teacher is only compared: objective.distill and objective.cosine are 0")
    if config.objective.cosine and not has_cosine(config, teacher):
        lines.append(
            f"cosine loss: left out: the teacher's hidden states are {theirs} wide, the model's {ours}"
        )
    return lines


def targets(
    config: config_lib.Config, teacher: Teacher, params: dict, batch: Batch, placement: Placement
) -> Batch:
    """The batch with `teacher`: its hidden states `[B, L, D]` and the factors of its logits."""
    outputs = teacher.outputs(params, _without_predictions(batch), placement)
    factors = decoder(config, teacher.model, params, outputs["hidden"], batch, placement)
    return batch | {"teacher": {"hidden": outputs["hidden"], "decoder": factors}}


def _without_predictions(batch: Batch) -> Batch:
    """The batch without positions to predict, so that the teacher makes no logits `[B, P, V]`."""
    return {name: x for name, x in batch.items() if name != "masked_lm_positions"}


def decoder(
    config: config_lib.Config,
    model: config_lib.Model,
    params: dict,
    hidden_BLD: jax.Array,
    batch: Batch,
    placement: Placement,
) -> Decoder:
    """The factors of a model's logits, at the tokens that `config.teacher.soft_tokens` selects."""
    if config.teacher.soft_tokens == "masked":
        places_BP1 = batch["masked_lm_positions"][..., None]
        hidden_BLD = jnp.take_along_axis(hidden_BLD, places_BP1, axis=1)
    return models.decoder(model, params, hidden_BLD, placement)


def weights(config: config_lib.Config, teacher: Teacher, batch: Batch) -> dict[str, jax.Array]:
    """`{term: weight}`: the number of compared tokens, or of predictions for the accuracy."""
    compared = jnp.sum(_compared(config, batch))
    found = {"distill_loss": compared, "agreement": compared}
    found["teacher_mlm_accuracy"] = jnp.sum(batch["masked_lm_weights"])
    if has_cosine(config, teacher):
        found["cosine_loss"] = jnp.sum(attended(batch))
    return found


def sums(
    config: config_lib.Config, teacher: Teacher, outputs: dict, batch: Batch
) -> dict[str, jax.Array]:
    """`{term: sum}` for the student's outputs and a batch from `targets`.

    `distill_loss`, `agreement` and `teacher_mlm_accuracy` are `loss`, `agreement` and `correct` of
    `soft_targets.Sums`. `cosine_loss` is 1 - cosine of both models' last hidden states, over all
    tokens except padding.

    Args:
      outputs: the student's, with `decoder` and `hidden`.
    """
    rule = soft_targets.Rule(config.teacher.temperature, config.model.vocab_size)
    theirs = batch["teacher"]
    tokens = soft_targets.Tokens(_compared(config, batch), *_labels(config, batch))
    found = soft_targets.sums(rule, outputs["decoder"], theirs["decoder"], tokens)
    result = {
        "distill_loss": found.loss,
        "agreement": found.agreement,
        "teacher_mlm_accuracy": found.correct,
    }
    if has_cosine(config, teacher):
        distance = 1 - cosine(outputs["hidden"], theirs["hidden"])
        result["cosine_loss"] = jnp.sum(distance * attended(batch))
    return result


def cosine(first: jax.Array, second: jax.Array) -> jax.Array:
    """The cosine of the angle between vectors: two `[..., D]` -> `[...]`, float32.

    As PyTorch's CosineEmbeddingLoss, this adds 1e-12 to both squared lengths.
    """
    first, second = first.astype(jnp.float32), second.astype(jnp.float32)
    product = jnp.sum(first * second, axis=-1)
    lengths = [jnp.sum(x * x, axis=-1) + 1e-12 for x in (first, second)]
    return product * jax.lax.rsqrt(lengths[0] * lengths[1])


def attended(batch: Batch) -> jax.Array:
    """float32 `[B, L]`: 1 for all tokens of real examples, special tokens included; 0 for padding.

    An example with a negative id is padding too, although the attention mask does not show it.
    """
    real = batch["example_ids"] >= 0
    if "segment_ids" not in batch:
        real = real[:, None]
    else:
        segments_BL = batch["segment_ids"]  # from 1; 0 for padding
        real = jnp.take_along_axis(real, jnp.maximum(segments_BL - 1, 0), axis=1)
        real &= segments_BL > 0
    return ((batch["attention_mask"] > 0) & real).astype(jnp.float32)


def _compared(config: config_lib.Config, batch: Batch) -> jax.Array:
    """The weight of every token in the soft-target loss: `[B, L]`, or `[B, P]`."""
    masked = config.teacher.soft_tokens == "masked"
    return batch["masked_lm_weights"] if masked else attended(batch)


def _labels(config: config_lib.Config, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """The ids to predict and their weights, laid out as `_compared` is."""
    ids, known = batch["masked_lm_ids"], batch["masked_lm_weights"]
    if config.teacher.soft_tokens == "masked":
        return ids, known
    rows = jnp.arange(len(ids))[:, None]
    # Slots without a prediction all name position 0. Past the end of the row they are dropped.
    length = batch["input_ids"].shape[1]
    places = jnp.where(known > 0, batch["masked_lm_positions"], length)

    def laid(values: jax.Array) -> jax.Array:
        whole = jnp.zeros(batch["input_ids"].shape, values.dtype)
        return whole.at[rows, places].set(values, mode="drop")

    return laid(ids), laid(known)


def model_flops(config: config_lib.Config, teacher: Teacher, phase: config_lib.Phase) -> int:
    """FLOPs that the teacher adds to a step, counted as by `flops.model_flops_per_step`.

    These are its forward pass, and the compared logits: forward for the teacher, forward and
    backward for the student.
    """
    bare = dataclasses.replace(teacher.model, head="none")
    size, length, most = phase.batch_size, phase.sequence_length, phase.max_predictions_per_seq
    forward = flops.model_flops_per_step(bare, size, length, most) // 3
    tokens = size * (most if config.teacher.soft_tokens == "masked" else length)
    [part] = teacher.model.head_record.parts
    logits = flops.part_flops(teacher.model, part) + 3 * flops.part_flops(config.model, part)
    return forward + tokens * logits
