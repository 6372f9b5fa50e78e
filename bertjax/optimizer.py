"""Schedules, AdamW and LAMB, with and without bias correction, as optax transformations."""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from bertjax import config as config_lib


def learning_rate(config: config_lib.Config) -> optax.Schedule:
    """The schedule `step -> learning rate` of a run, zero at the last step and after.

    One schedule covers all steps, unless the phases have their own `learning_rate`. Then each phase
    has a schedule from its first step to its end (the second stage of You et al. 2020 warms up
    again).
    """
    opt = config.optimizer
    phases = list(config.active_phases.values())
    if not any(phase.learning_rate for phase in phases):
        return warmup_and_decay(opt, opt.learning_rate, opt.warmup_steps, config.num_steps)
    ends = itertools.accumulate(phase.steps for phase in phases)
    pieces = [warmup_and_decay(opt, p.learning_rate, p.warmup_steps, p.steps) for p in phases]
    return optax.join_schedules(pieces, list(ends)[:-1])


def warmup_and_decay(
    opt: config_lib.Optimizer,
    peak: float | jax.Array,
    warmup: int | jax.Array,
    num_steps: int | jax.Array,
) -> optax.Schedule:
    """`step -> learning rate`: linear up to `peak`, then a decay to 0 at `num_steps`.

    `warmup_replaces_decay` (google-research/bert optimization.py): the decay starts at step 0, and
    the warm-up only hides its start. So at the end of the warm-up, the rate falls from `peak` to
    `peak * (1 - warmup / num_steps) ** decay_power`.
    `warmup_then_decay`: the decay starts from `peak` at the end of the warm-up.
    """
    start = 0 if opt.schedule == "warmup_replaces_decay" else warmup

    def rate(count: ArrayLike) -> jax.Array:
        step = jnp.asarray(count, jnp.float32)
        rising = peak * step / jnp.maximum(warmup, 1)
        left = jnp.maximum(num_steps - step, 0.0) / jnp.maximum(num_steps - start, 1)
        return jnp.where(step < warmup, rising, peak * left**opt.decay_power)

    return rate


class Settings(NamedTuple):
    """The settings that may differ between runs of one compiled program.

    Attributes:
      seed: the seed of dropout.
      learning_rate: `step -> learning rate`.
    """

    seed: ArrayLike
    learning_rate: optax.Schedule


def settings(config: config_lib.Config) -> Settings:
    """The settings of a config, as constants of the program."""
    return Settings(config.seed, learning_rate(config))


def _is_weight(path: tuple[jax.tree_util.DictKey, ...]) -> bool:
    """Whether a parameter is a kernel or an embedding table, and not a bias or LayerNorm's."""
    return path[-1].key in ("kernel", "embedding")


def decay_mask(params: optax.Params) -> optax.Params:
    """True for kernels and embedding tables; False for biases and LayerNorm (BERT's exclusion)."""
    return jax.tree_util.tree_map_with_path(lambda path, _: _is_weight(path), params)


class AdamState(NamedTuple):
    mu: optax.Updates  # first moments, shaped as the parameters
    nu: optax.Updates  # second moments


def scale_by_uncorrected_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """`m / (sqrt(v) + eps)` without bias correction (google-research/bert optimization.py).

    `m = b1 m + (1 - b1) g` and `v = b2 v + (1 - b2) g^2` start from zero. So early updates are
    `(1 - b1^t) / sqrt(1 - b2^t)` times Adam's, up to 6.5 with BERT's .9 and .999. The recipe's
    warm-up was tuned with these updates.
    """

    def init(params: optax.Params) -> AdamState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return AdamState(zeros, jax.tree.map(jnp.zeros_like, params))

    def update(
        grads: optax.Updates, state: AdamState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, AdamState]:
        del params
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, grads)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, grads)
        updates = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mu, nu)
        return updates, AdamState(mu, nu)

    return optax.GradientTransformation(init, update)


def scale_by_layer_trust() -> optax.GradientTransformation:
    """LAMB's trust ratio: scales an update `r` of weights `w` by `||w|| / ||r||` (You et al. 2020).

    Each kernel and table of each layer has its own ratio. The parameters of `blocks` are stacked,
    so their norms are over all axes but the first. The ratio is 1 if a norm is 0. LayerNorm and
    biases keep their update, because google-research/albert lamb_optimizer.py exempts the same
    parameters from adaptation and decay. `optax.scale_by_trust_ratio` has neither rule.
    """

    def rescale(
        path: tuple[jax.tree_util.DictKey, ...], update: jax.Array, weights: jax.Array
    ) -> jax.Array:
        if not _is_weight(path):
            return update
        axes = tuple(range(1 if path[0].key == "blocks" else 0, weights.ndim))
        w = jnp.sqrt(jnp.sum(weights**2, axes, keepdims=True))
        r = jnp.sqrt(jnp.sum(update**2, axes, keepdims=True))
        return update * jnp.where((w > 0) & (r > 0), w / jnp.where(r > 0, r, 1.0), 1.0)

    def update(
        updates: optax.Updates, state: optax.EmptyState, params: optax.Params
    ) -> tuple[optax.Updates, optax.EmptyState]:
        return jax.tree_util.tree_map_with_path(rescale, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def clip(grads: optax.Updates, norm: jax.Array, max_norm: float) -> optax.Updates:
    """Scales `grads`, whose norm is `norm`, to a norm of at most `max_norm`; 0 does nothing."""
    if not max_norm:
        return grads
    # The reference's form: the scale is exactly 1 if nothing is clipped.
    scale = max_norm / jnp.maximum(norm, max_norm)
    return jax.tree.map(lambda g: g * scale, grads)


def scale_by_depth(decay: float) -> optax.GradientTransformation:
    """Scales the updates of the d-th block from the top by `decay ** d`; the top block has d = 1.

    The head is not scaled. The embeddings have one power more than the lowest block. ELECTRA's code
    (Clark et al. 2020, section A.2) has one power more for all blocks and the embeddings. Blocks
    are stacked, so the factors are a vector with one entry for each block.
    """

    def rescale(
        path: tuple[jax.tree_util.DictKey, ...], update: jax.Array, depth: int
    ) -> jax.Array:
        if path[0].key == "embeddings":
            return update * decay ** (depth + 1)
        if path[0].key != "blocks":
            return update
        factors = decay ** jnp.arange(depth, 0, -1, dtype=update.dtype)
        return update * factors.reshape(-1, *(1,) * (update.ndim - 1))

    def update(
        updates: optax.Updates, state: optax.EmptyState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.EmptyState]:
        del params
        depth = len(jax.tree.leaves(updates["blocks"])[0])
        scale = functools.partial(rescale, depth=depth)
        return jax.tree_util.tree_map_with_path(scale, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def make(
    config: config_lib.Config, schedule: optax.Schedule | None = None
) -> optax.GradientTransformation:
    """The optimizer of a config, for gradients that `train.train_step` has already clipped.

    `adamw` and `lamb` (Algorithm 2 of You et al. 2020) correct the moments' bias. `bert_adamw` and
    `bert_lamb` do not, like Google's code for both.

    Args:
      schedule: `step -> learning rate`; None takes the config's schedule.
    """
    opt = config.optimizer
    uncorrected = opt.name.startswith("bert_")
    adam = scale_by_uncorrected_adam if uncorrected else optax.scale_by_adam
    trust = [scale_by_layer_trust()] if opt.name.endswith("lamb") else []
    depth = [scale_by_depth(opt.layer_decay)] if opt.layer_decay != 1 else []
    return optax.chain(
        adam(opt.b1, opt.b2, opt.eps),
        optax.add_decayed_weights(opt.weight_decay, None if opt.decay_all else decay_mask),
        *trust,
        *depth,
        optax.scale_by_learning_rate(schedule or learning_rate(config)),
    )
