"""The train state and the one training step."""

import functools

import jax
import jax.numpy as jnp
import optax

from bertjax import config as config_lib
from bertjax import keys, models, objectives, optimizer, sharding
from bertjax.data import masking


def init_state(config: config_lib.Config) -> dict:
    """A fresh state: `params`, `opt_state`, `step`. Nothing else is ever saved."""
    params = models.init(config.model, keys.root(config, keys.INIT))
    opt_state = optimizer.make(config.optimizer, config.num_steps).init(params)
    return {"params": params, "opt_state": opt_state, "step": jnp.zeros((), jnp.int32)}


def abstract_state(config: config_lib.Config, mesh) -> dict:
    """Shapes, types and shardings of the state, without memory."""
    return sharding.abstract(mesh, jax.eval_shape(functools.partial(init_state, config)))


def gradients(config: config_lib.Config, params, batch, dropout_key, constrain):
    """`(gradients, metrics)` of the mean loss over `batch` (masked already)."""

    def loss_of(params):
        outputs = models.apply(
            config.model, params, batch, dropout_key=dropout_key, constrain=constrain
        )
        values = objectives.means(objectives.measure(outputs, batch))
        loss = objectives.total(config.objective, values)
        return loss, {"loss": loss, **values}

    grads, metrics = jax.grad(loss_of, has_aux=True)(params)
    return grads, metrics | {"grad_norm": optax.tree.norm(grads)}


def shard_clipped_gradients(config: config_lib.Config, params, batch, dropout_key):
    """As `gradients`, but clipped part by part, then averaged; the metrics are the parts' means.

    The recipe of google-research/bert on TPUs: every core clips the gradient of its own part of
    the batch before the all-reduce. The number of parts is a field, so the recipe does not
    change with the mesh.
    """
    opt = config.optimizer

    def one_shard(shard, key):
        grads, metrics = gradients(config, params, shard, key, lambda name, x: x)
        return optimizer.clip(grads, metrics["grad_norm"], opt.clip_norm), metrics

    def split(x):
        return x.reshape(opt.clip_shards, -1, *x.shape[1:])

    keys = None if dropout_key is None else jax.random.split(dropout_key, opt.clip_shards)
    return jax.tree.map(
        lambda x: jnp.mean(x, axis=0), jax.vmap(one_shard)(jax.tree.map(split, batch), keys)
    )


def masker(config: config_lib.Config, tokenizer, phase_index: int, phase: config_lib.Phase):
    """How a phase masks: `host batch -> masked batch`, to be called inside a jitted function."""
    return functools.partial(
        masking.mask_tokens,
        keys.mask(config, phase_index),
        tokenizer=tokenizer,
        masking=config.masking,
        max_predictions_per_seq=phase.max_predictions_per_seq,
    )


def train_step(config: config_lib.Config, mask, constrain, state, batch):
    """One update: `(state, host batch) -> (state, metrics)`.

    `mask` corrupts the batch (a closure over the vocabulary's tables). A non-finite loss or
    gradient leaves parameters and moments as they were; only `step` moves on, and `skipped`
    is 1.
    """
    params, step, opt = state["params"], state["step"], config.optimizer
    dropout = config.model.hidden_dropout_prob or config.model.attention_probs_dropout_prob
    dropout_key = keys.dropout(config, step) if dropout else None
    per_shard = opt.clip_mode == "per_shard" and opt.clip_norm
    if per_shard:
        grads, metrics = shard_clipped_gradients(config, params, mask(batch), dropout_key)
    else:
        grads, metrics = gradients(config, params, mask(batch), dropout_key, constrain)

    def update():
        clipped = grads if per_shard else optimizer.clip(grads, metrics["grad_norm"], opt.clip_norm)
        transform = optimizer.make(opt, config.num_steps)
        updates, opt_state = transform.update(clipped, state["opt_state"], params)
        return optax.apply_updates(params, updates), opt_state

    # A branch, not an elementwise choice: that costs another pass over the whole state.
    finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
    new_params, opt_state = jax.lax.cond(finite, update, lambda: (params, state["opt_state"]))
    metrics["learning_rate"] = optimizer.learning_rate(opt, config.num_steps)(step)
    metrics["skipped"] = 1.0 - finite
    return {"params": new_params, "opt_state": opt_state, "step": step + 1}, metrics


def compile_step(config: config_lib.Config, mesh, mask):
    """`train_step` jitted for a mesh: the state is donated and stays where it is."""
    shardings = jax.tree.map(lambda x: x.sharding, abstract_state(config, mesh))
    return jax.jit(
        functools.partial(train_step, config, mask, sharding.constrain(mesh)),
        in_shardings=(shardings, sharding.batch_sharding(mesh)),
        out_shardings=(shardings, None),
        donate_argnums=0,
    )
