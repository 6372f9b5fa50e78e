"""Training objectives: sums over a batch; the division happens once, globally.

Shape suffixes: B batch, P predictions, V vocab (padded).
"""

import jax
import jax.numpy as jnp

from bertjax import config as config_lib
from bertjax.errors import UsageError


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Negative log-likelihood of `labels [...]` under `logits [..., V]`, float32, in nats.

    The label's logit is picked by comparison, not by a gather: its gradient is then elementwise
    (a gather's is a scatter) and stays local where V is split over devices.
    """
    columns = jnp.arange(logits.shape[-1])
    chosen = jnp.sum(jnp.where(columns == labels[..., None], logits, 0), axis=-1)
    return jax.nn.logsumexp(logits, axis=-1) - chosen


def loss(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> jax.Array:
    """The weighted sum of the cross-entropies: `logits [..., V]`, `labels` and `weights [...]`."""
    return jnp.sum(cross_entropy(logits, labels) * weights)


def correct(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> jax.Array:
    """The weighted number of labels that have the largest logit; shapes as of `loss`."""
    return jnp.sum((jnp.argmax(logits, axis=-1) == labels) * weights)


def means(terms: dict[str, tuple]) -> dict:
    """The one division: `{name: sum / weight}`, 0 where nothing was weighed."""
    return {name: total / jnp.maximum(weight, 1) for name, (total, weight) in terms.items()}


def total(config: config_lib.Objective, values: dict) -> jax.Array:
    """The training loss: the mean losses, `X_loss`, each times its weight `config.objective.X`.

    A loss that has no such field counts once; one of weight 0 is left out.

    Raises:
      UsageError: no loss is left.
    """
    losses = {k.removesuffix("_loss"): v for k, v in values.items() if k.endswith("_loss")}
    weights = {name: getattr(config, name, 1.0) for name in losses}
    weighed = [weights[name] * loss for name, loss in losses.items() if weights[name]]
    if not weighed:
        raise UsageError(f"config.objective: {', '.join(losses)} have weight 0; raise one")
    return sum(weighed[1:], weighed[0])
