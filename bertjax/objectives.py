"""Training objectives: each returns (sum, weight); the division happens once, globally.

Shape suffixes: B batch, P predictions, V vocab (padded).
"""

import jax
import jax.numpy as jnp

from bertjax import config as config_lib


def cross_entropy(logits, labels):
    """Negative log-likelihood of `labels [...]` under `logits [..., V]`, float32, in nats.

    The label's logit is picked by comparison, not by a gather: its gradient is then elementwise
    (a gather's is a scatter) and stays local where V is split over devices.
    """
    columns = jnp.arange(logits.shape[-1])
    chosen = jnp.sum(jnp.where(columns == labels[..., None], logits, 0), axis=-1)
    return jax.nn.logsumexp(logits, axis=-1) - chosen


def mlm(logits_BPV, ids_BP, weights_BP):
    """Masked-LM loss: sum over the masked positions, and their number."""
    return jnp.sum(cross_entropy(logits_BPV, ids_BP) * weights_BP), jnp.sum(weights_BP)


def nsp(logits_B2, labels_B, weights_B):
    """Next-sentence loss: sum over the examples, and their number. Label 1 = random."""
    return jnp.sum(cross_entropy(logits_B2, labels_B) * weights_B), jnp.sum(weights_B)


def accuracy(logits, labels, weights):
    """Correct predictions weighted by `weights`, and the sum of the weights."""
    correct = jnp.argmax(logits, axis=-1) == labels
    return jnp.sum(correct * weights), jnp.sum(weights)


def measure(outputs, batch) -> dict[str, tuple]:
    """(sum, weight) of every loss and accuracy that the model's outputs and the labels allow.

    Examples whose id is negative are padding and weigh nothing (masking leaves them whole, so
    they have no masked-LM weights). In packed rows every example has its own next-sentence loss:
    labels and ids are `[B, E]` then, and logits `[B, E, 2]`.
    """
    ids, weights = batch["masked_lm_ids"], batch["masked_lm_weights"]
    logits = outputs["masked_lm_logits"]
    terms = {
        "mlm_loss": mlm(logits, ids, weights),
        "mlm_accuracy": accuracy(logits, ids, weights),
    }
    if "next_sentence_logits" in outputs and "next_sentence_labels" in batch:
        real_B = (batch["example_ids"] >= 0).astype(jnp.float32)
        logits, labels = outputs["next_sentence_logits"], batch["next_sentence_labels"]
        terms["nsp_loss"] = nsp(logits, labels, real_B)
        terms["nsp_accuracy"] = accuracy(logits, labels, real_B)
    return terms


def means(terms: dict[str, tuple]) -> dict:
    """The one division: `{name: sum / weight}`, 0 where nothing was weighed."""
    return {name: total / jnp.maximum(weight, 1) for name, (total, weight) in terms.items()}


def total(config: config_lib.Objective, values: dict):
    """The training loss: the weighted sum of the mean losses."""
    loss = config.mlm * values["mlm_loss"]
    return loss + config.nsp * values["nsp_loss"] if config.nsp else loss
