"""Schedules and AdamW, with and without bias correction, as optax transformations."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from bertjax import config as config_lib


def learning_rate(config: config_lib.Optimizer, num_steps: int):
    """The schedule `step -> learning rate`, linear to zero at `num_steps`.

    `warmup_replaces_decay` (google-research/bert optimization.py): the decay runs from step 0
    and the warm-up only hides its start, so the rate falls from `peak` to
    `peak * (1 - warmup / num_steps)` where the warm-up ends. `warmup_then_decay`: the decay
    starts at the peak, where the warm-up ends.
    """
    peak, warmup = config.learning_rate, config.warmup_steps
    start = 0 if config.schedule == "warmup_replaces_decay" else warmup

    def rate(step):
        step = jnp.asarray(step, jnp.float32)
        rising = peak * step / max(warmup, 1)
        falling = peak * (num_steps - step) / max(num_steps - start, 1)
        return jnp.where(step < warmup, rising, jnp.maximum(falling, 0.0))

    return rate


def decay_mask(params):
    """True for kernels and embedding tables; False for biases and LayerNorm (BERT's exclusion)."""

    def decayed(path, _):
        return path[-1].key in ("kernel", "embedding")

    return jax.tree_util.tree_map_with_path(decayed, params)


class AdamState(NamedTuple):
    mu: optax.Updates  # first moments, shaped as the parameters
    nu: optax.Updates  # second moments


def scale_by_uncorrected_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """`m / (sqrt(v) + eps)` without bias correction (google-research/bert optimization.py).

    With `m = b1 m + (1 - b1) g` and `v = b2 v + (1 - b2) g^2` from zero, early updates are
    smaller than Adam's; the recipe's warm-up was tuned with that.
    """

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return AdamState(zeros, jax.tree.map(jnp.zeros_like, params))

    def update(grads, state, params=None):
        del params
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, grads)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, grads)
        updates = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mu, nu)
        return updates, AdamState(mu, nu)

    return optax.GradientTransformation(init, update)


def clip(grads, norm, max_norm: float):
    """Scales `grads` so that their norm, which is `norm`, is at most `max_norm`; 0 does nothing."""
    if not max_norm:
        return grads
    # The reference's form: exact where nothing is clipped.
    scale = max_norm / jnp.maximum(norm, max_norm)
    return jax.tree.map(lambda g: g * scale, grads)


def make(config: config_lib.Optimizer, num_steps: int) -> optax.GradientTransformation:
    """The optimizer of a config, gradients clipped already (`clip_mode` is the step's business)."""
    if config.name == "bert_adamw":
        adam = scale_by_uncorrected_adam(config.b1, config.b2, config.eps)
    else:
        adam = optax.scale_by_adam(config.b1, config.b2, config.eps)
    return optax.chain(
        adam,
        optax.add_decayed_weights(config.weight_decay, decay_mask),
        optax.scale_by_learning_rate(learning_rate(config, num_steps)),
    )
