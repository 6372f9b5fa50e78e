"""The train state and the one training step."""

import functools

import jax
import jax.numpy as jnp
import optax

from bertjax import config as config_lib
from bertjax import keys, models, objectives, optimizer, sharding


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
    return grads, metrics


def clipped_gradients(config: config_lib.Config, params, batch, dropout_key, constrain):
    """`(clipped gradients, metrics)` by the config's `clip_mode`.

    `per_shard` is the recipe of google-research/bert on TPUs: every core clips the gradient of
    its own part of the batch, then the parts are averaged. The number of parts is a field, so
    the recipe does not change with the mesh.
    """
    opt = config.optimizer
    if opt.clip_mode == "global" or not opt.clip_norm:
        grads, metrics = gradients(config, params, batch, dropout_key, constrain)
        norm = optax.global_norm(grads)
        return optimizer.clip(grads, norm, opt.clip_norm), {**metrics, "grad_norm": norm}

    def one_shard(shard, key):
        grads, metrics = gradients(config, params, shard, key, lambda x: x)
        norm = optax.global_norm(grads)
        return optimizer.clip(grads, norm, opt.clip_norm), {**metrics, "grad_norm": norm}

    def split(x):
        return x.reshape(opt.clip_shards, -1, *x.shape[1:])

    keys = None if dropout_key is None else jax.random.split(dropout_key, opt.clip_shards)
    return jax.tree.map(
        lambda x: jnp.mean(x, axis=0), jax.vmap(one_shard)(jax.tree.map(split, batch), keys)
    )


def train_step(config: config_lib.Config, mask, constrain, state, batch):
    """One update: `(state, host batch) -> (state, metrics)`.

    `mask` corrupts the batch (a closure over the vocabulary's tables). A non-finite loss or
    gradient leaves parameters and moments as they were; only `step` moves on, and `skipped`
    is 1.
    """
    params, step = state["params"], state["step"]
    dropout = config.model.hidden_dropout_prob or config.model.attention_probs_dropout_prob
    dropout_key = keys.dropout(config, step) if dropout else None
    grads, metrics = clipped_gradients(config, params, mask(batch), dropout_key, constrain)

    updates, opt_state = optimizer.make(config.optimizer, config.num_steps).update(
        grads, state["opt_state"], params
    )
    finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
    params, opt_state = jax.tree.map(
        functools.partial(jnp.where, finite),
        (optax.apply_updates(params, updates), opt_state),
        (params, state["opt_state"]),
    )
    metrics["learning_rate"] = optimizer.learning_rate(config.optimizer, config.num_steps)(step)
    metrics["skipped"] = 1.0 - finite
    return {"params": params, "opt_state": opt_state, "step": step + 1}, metrics


def compile_step(config: config_lib.Config, mesh, mask):
    """`train_step` jitted for a mesh: the state is donated and stays where it is."""
    shardings = jax.tree.map(lambda x: x.sharding, abstract_state(config, mesh))
    return jax.jit(
        functools.partial(train_step, config, mask, sharding.constrain_hidden(mesh)),
        in_shardings=(shardings, sharding.batch_sharding(mesh)),
        out_shardings=(shardings, None),
        donate_argnums=0,
    )
