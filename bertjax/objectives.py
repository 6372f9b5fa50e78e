"""Training objectives: sums over a batch, which are divided once, globally.

Shape suffixes: B batch, P predictions, V vocab (padded).
"""

import jax
import jax.numpy as jnp

from bertjax import config as config_lib
from bertjax.errors import UsageError


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Negative log-likelihood of `labels [...]` under `logits [..., V]`, float32, in nats.

    A comparison picks the label's logit, not a gather. So the gradient is elementwise, where a
    gather's gradient is a scatter, and the gradient stays local if V is split over devices.
    """
    columns = jnp.arange(logits.shape[-1])
    chosen = jnp.sum(jnp.where(columns == labels[..., None], logits, 0), axis=-1)
    return jax.nn.logsumexp(logits, axis=-1) - chosen


def loss(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> jax.Array:
    """The weighted sum of the cross-entropies: `logits [..., V]`, `labels` and `weights [...]`."""
    return jnp.sum(cross_entropy(logits, labels) * weights)


def correct(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> jax.Array:
    """The weighted number of labels with the largest logit; shapes as in `loss`."""
    return jnp.sum((jnp.argmax(logits, axis=-1) == labels) * weights)


def means(terms: dict[str, tuple]) -> dict:
    """The one division: `{name: sum / weight}`; 0 if the weight is 0."""
    return {name: total / jnp.maximum(weight, 1) for name, (total, weight) in terms.items()}


def total(config: config_lib.Objective, values: dict) -> jax.Array:
    """The training loss: the sum of the mean losses `X_loss`, each times `config.objective.X`.

    A loss without such a field has weight 1. A loss of weight 0 is left out.

    Raises:
      UsageError: all losses have weight 0.
    """
    losses = {k.removesuffix("_loss"): v for k, v in values.items() if k.endswith("_loss")}
    weights = {name: getattr(config, name, 1.0) for name in losses}
    weighed = [weights[name] * loss for name, loss in losses.items() if weights[name]]
    if not weighed:
        raise UsageError(f"config.objective: {', '.join(losses)} have weight 0; raise one")
    return sum(weighed[1:], weighed[0])
