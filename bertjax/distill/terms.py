"""The terms that a teacher adds to masked-LM training: soft targets and hidden states."""

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
    """What a teacher is used for, in lines to say."""
    theirs, ours = teacher.model.hidden_size, config.model.hidden_size
    lines = [
        f"teacher: {teacher.uri}, {teacher.model.num_hidden_layers} blocks, {config.teacher.dtype}"
    ]
    lines += [f"teacher: {note}" for note in teacher.notes]
    if not (config.objective.distill or config.objective.cosine):
        lines.append("the teacher is only compared with: objective.distill and cosine are 0")
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
    """The batch without positions to predict: the teacher makes no logits `[B, P, V]` of it."""
    return {name: x for name, x in batch.items() if name != "masked_lm_positions"}


def decoder(
    config: config_lib.Config,
    model: config_lib.Model,
    params: dict,
    hidden_BLD: jax.Array,
    batch: Batch,
    placement: Placement,
) -> Decoder:
    """The factors of a model's logits, at the tokens that `config.teacher.soft_tokens` says."""
    if config.teacher.soft_tokens == "masked":
        places_BP1 = batch["masked_lm_positions"][..., None]
        hidden_BLD = jnp.take_along_axis(hidden_BLD, places_BP1, axis=1)
    return models.decoder(model, params, hidden_BLD, placement)


def weights(config: config_lib.Config, teacher: Teacher, batch: Batch) -> dict[str, jax.Array]:
    """`{term: weight}`: tokens that are compared, and the predictions."""
    compared = jnp.sum(_compared(config, batch))
    found = {"distill_loss": compared, "agreement": compared}
    found["teacher_mlm_accuracy"] = jnp.sum(batch["masked_lm_weights"])
    if has_cosine(config, teacher):
        found["cosine_loss"] = jnp.sum(attended(batch))
    return found


def sums(
    config: config_lib.Config, teacher: Teacher, outputs: dict, batch: Batch
) -> dict[str, jax.Array]:
    """`{term: sum}` of outputs with the `decoder` of the student, and a batch as of `targets`.

    `distill_loss` and `agreement` are those of `soft_targets.Sums`; `cosine_loss` is 1 - cos of the
    angle between both models' last hidden states, over all tokens that are no padding.
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
    """Of the angle between vectors: two `[..., D]` -> `[...]`, float32.

    PyTorch adds 1e-12 to both squared lengths (CosineEmbeddingLoss); so does this.
    """
    first, second = first.astype(jnp.float32), second.astype(jnp.float32)
    product = jnp.sum(first * second, axis=-1)
    lengths = [jnp.sum(x * x, axis=-1) + 1e-12 for x in (first, second)]
    return product * jax.lax.rsqrt(lengths[0] * lengths[1])


def attended(batch: Batch) -> jax.Array:
    """1 for the tokens of real examples, special ones too, 0 for padding: float32 `[B, L]`.

    An example whose id is negative is padding, of which the mask says nothing.
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
    # Slots without a prediction all lie at position 0; they go nowhere.
    length = batch["input_ids"].shape[1]
    places = jnp.where(known > 0, batch["masked_lm_positions"], length)

    def laid(values: jax.Array) -> jax.Array:
        whole = jnp.zeros(batch["input_ids"].shape, values.dtype)
        return whole.at[rows, places].set(values, mode="drop")

    return laid(ids), laid(known)


def model_flops(config: config_lib.Config, teacher: Teacher, phase: config_lib.Phase) -> int:
    """FLOPs that the teacher adds to a step (as `flops.model_flops_per_step`): its forward pass,
    and the logits that are compared, the teacher's forward and the student's both ways."""
    bare = dataclasses.replace(teacher.model, head="none")
    size, length, most = phase.batch_size, phase.sequence_length, phase.max_predictions_per_seq
    forward = flops.model_flops_per_step(bare, size, length, most) // 3
    tokens = size * (most if config.teacher.soft_tokens == "masked" else length)
    [part] = teacher.model.head_record.parts
    logits = flops.part_flops(teacher.model, part) + 3 * flops.part_flops(config.model, part)
    return forward + tokens * logits
