"""The terms of a fine-tuning: the loss against the labels, and against a teacher's logits.

Every term is a sum over a batch. Shape suffixes: B batch, L length, C classes, choices or
positions.
"""

import jax
import jax.numpy as jnp

from bertjax import config as config_lib
from bertjax import objectives
from bertjax.job import Batch

_NOWHERE = -1e9  # logit of a position that cannot be chosen


def labeled(batch: Batch, kind: str) -> jax.Array:
    """1 for every labeled example [B]; for `token`, for every labeled word's first piece [B, L]."""
    real_B = _real(batch)
    if kind == "span":  # dev questions without a usable answer have start -1
        return real_B * (batch["start_positions"] >= 0)
    return real_B[:, None] * (batch["labels"] >= 0) if kind == "token" else real_B


def compared(batch: Batch, kind: str) -> jax.Array:
    """1 where a teacher's logits count: `labeled`, except that every real row of spans counts."""
    return _real(batch) if kind == "span" else labeled(batch, kind)


def _real(batch: Batch) -> jax.Array:
    return (batch["example_ids"] >= 0).astype(jnp.float32)


def hard(how: config_lib.Task, kind: str, logits: jax.Array, batch: Batch) -> dict[str, jax.Array]:
    """`task_loss`, cross-entropy in nats or squared errors (regression); `task_accuracy`, hits.

    The loss of spans is the mean of the start loss and the end loss (google-research/bert,
    run_squad.py). The softmax covers all L positions; with `task.span_loss=own`, only positions
    that are not padding.
    """
    weights = labeled(batch, kind)
    if kind == "span":
        logits = _choosable(how, logits, batch)
        losses = [
            objectives.loss(logits[..., i], jnp.maximum(batch[name], 0), weights)
            for i, name in enumerate(("start_positions", "end_positions"))
        ]
        return {"task_loss": (losses[0] + losses[1]) / 2}
    if kind == "regression":
        targets = batch["labels"].astype(jnp.float32) / how.target_scale
        return {"task_loss": jnp.sum(weights * (logits[:, 0] - targets) ** 2)}
    args = logits, jnp.maximum(batch["labels"], 0), weights
    return {"task_loss": objectives.loss(*args), "task_accuracy": objectives.correct(*args)}


def soft(
    how: config_lib.Task,
    kind: str,
    temperature: float,
    student: jax.Array,
    teacher: jax.Array,
    batch: Batch,
) -> dict[str, jax.Array]:
    """`distill_loss` between two models' logits, and `agreement`, how often their argmax agrees.

    The loss is `divergence`. For spans it is the mean of the start's and the end's divergence, over
    the same positions as in `hard` (transformers, run_squad_w_distillation.py: the whole row,
    padding too). For regression it is the squared difference of the scores, without `agreement`.
    """
    weights = compared(batch, kind)
    if kind == "regression":
        return {"distill_loss": jnp.sum(weights * (student[:, 0] - teacher[:, 0]) ** 2)}
    if kind == "span":
        student, teacher = (
            jnp.moveaxis(_choosable(how, logits, batch), -1, 1) for logits in (student, teacher)
        )
        weights = weights[:, None] / 2  # start and end count half each
    same = jnp.argmax(student, axis=-1) == jnp.argmax(teacher, axis=-1)
    return {
        "distill_loss": jnp.sum(weights * divergence(student, teacher, temperature)),
        "agreement": jnp.sum(weights * same),
    }


def divergence(student: jax.Array, teacher: jax.Array, temperature: float) -> jax.Array:
    """T squared times the KL divergence of the student's distribution from the teacher's, in nats.

    Both logits [..., C] are divided by T (Hinton et al. 2015, section 2). Returns [...].
    """
    ours, theirs = (jax.nn.log_softmax(x / temperature, axis=-1) for x in (student, teacher))
    return temperature**2 * jnp.sum(jnp.exp(theirs) * (theirs - ours), axis=-1)


def _choosable(how: config_lib.Task, logits_BL2: jax.Array, batch: Batch) -> jax.Array:
    """The logits of spans; with `task.span_loss=own`, padding gets a probability of 0."""
    if how.span_loss == "published":
        return logits_BL2
    real_BL1 = batch["attention_mask"][..., None] > 0
    return jnp.where(real_BL1, logits_BL2, _NOWHERE)
