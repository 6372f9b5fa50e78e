"""The terms of a fine-tuning: the loss of a task's own labels, and that of a teacher's logits.

All are sums over a batch. Shape suffixes: B batch, L length, C classes, choices or positions.
"""

import jax
import jax.numpy as jnp

from bertjax import config as config_lib
from bertjax import objectives
from bertjax.job import Batch

_NOWHERE = -1e9  # logit of a position that cannot be chosen


def labeled(batch: Batch, kind: str) -> jax.Array:
    """1 for what has a label: an example [B], or of `token` a word's first piece [B, L]."""
    real_B = _real(batch)
    if kind == "span":  # of dev questions without a usable answer, none is known
        return real_B * (batch["start_positions"] >= 0)
    return real_B[:, None] * (batch["labels"] >= 0) if kind == "token" else real_B


def compared(batch: Batch, kind: str) -> jax.Array:
    """1 where a teacher's logits count: as `labeled`, but all real rows of spans."""
    return _real(batch) if kind == "span" else labeled(batch, kind)


def _real(batch: Batch) -> jax.Array:
    return (batch["example_ids"] >= 0).astype(jnp.float32)


def hard(how: config_lib.Task, kind: str, logits: jax.Array, batch: Batch) -> dict[str, jax.Array]:
    """`task_loss`: cross-entropy in nats; of regression, squared errors. `task_accuracy`: hits.

    Of spans the loss is the mean of the starts' and the ends' (google-research/bert,
    run_squad.py), whose softmax is over all L positions, or with `task.span_loss=own` over those
    that are no padding.
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
    """`distill_loss` of two models' logits, and `agreement`: where both choose the same.

    The loss is `divergence`; of spans the mean of the starts' and the ends', over the positions that
    `hard` takes (transformers, run_squad_w_distillation.py: all of the row, padding too). Of
    regression it is the squared difference of the scores, and nothing is chosen.
    """
    weights = compared(batch, kind)
    if kind == "regression":
        return {"distill_loss": jnp.sum(weights * (student[:, 0] - teacher[:, 0]) ** 2)}
    if kind == "span":
        student, teacher = (
            jnp.moveaxis(_choosable(how, logits, batch), -1, 1) for logits in (student, teacher)
        )
        weights = weights[:, None] / 2  # of a start, and of an end
    same = jnp.argmax(student, axis=-1) == jnp.argmax(teacher, axis=-1)
    return {
        "distill_loss": jnp.sum(weights * divergence(student, teacher, temperature)),
        "agreement": jnp.sum(weights * same),
    }


def divergence(student: jax.Array, teacher: jax.Array, temperature: float) -> jax.Array:
    """T squared times the KL divergence of the student's distribution from the teacher's, in nats.

    Both at temperature T (Hinton et al. 2015, section 2): logits [..., C] twice -> [...].
    """
    ours, theirs = (jax.nn.log_softmax(x / temperature, axis=-1) for x in (student, teacher))
    return temperature**2 * jnp.sum(jnp.exp(theirs) * (theirs - ours), axis=-1)


def _choosable(how: config_lib.Task, logits_BL2: jax.Array, batch: Batch) -> jax.Array:
    """Logits of spans whose softmax over L is that of `task.span_loss`."""
    if how.span_loss == "published":
        return logits_BL2
    real_BL1 = batch["attention_mask"][..., None] > 0
    return jnp.where(real_BL1, logits_BL2, _NOWHERE)
