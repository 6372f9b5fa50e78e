"""Training objectives: each returns (sum, weight); the division happens once, globally.

Shape suffixes: B batch, P predictions, V vocab (padded).
"""

import jax
import jax.numpy as jnp


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
