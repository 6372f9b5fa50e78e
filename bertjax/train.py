"""The train state and the one training step."""

import functools

import jax
import jax.numpy as jnp
import optax

from bertjax import config as config_lib
from bertjax import keys, models, objectives, optimizer, sharding, stages
from bertjax.data import masking


def init_state(config: config_lib.Config) -> dict:
    """A fresh state: `params`, `opt_state`, `step`. Nothing else is ever saved."""
    params = models.init(config.model, keys.root(config, keys.INIT))
    opt_state = optimizer.make(config).init(params)
    return {"params": params, "opt_state": opt_state, "step": jnp.zeros((), jnp.int32)}


def abstract_state(config: config_lib.Config, mesh) -> dict:
    """Shapes, types and shardings of the state, without memory."""
    return sharding.abstract(mesh, jax.eval_shape(functools.partial(init_state, config)))


def gradients(config: config_lib.Config, params, batch, dropout_key, constrain, weights=None):
    """`(gradients, metrics)` of the mean loss over `batch` (masked already).

    With `weights`, those of a larger batch (`{term: weight}`), it is what this part of it adds to
    that batch's gradients and metrics: a mean of means would not be the mean.
    """

    def loss_of(params):
        outputs = models.apply(
            config.model, params, batch, dropout_key=dropout_key, constrain=constrain
        )
        terms = objectives.measure(outputs, batch)
        if weights is not None:
            terms = {name: (total, weights[name]) for name, (total, _) in terms.items()}
        values = objectives.means(terms)
        loss = objectives.total(config.objective, values)
        return loss, {"loss": loss, **values}

    return jax.grad(loss_of, has_aux=True)(params)


def accumulated_gradients(
    config: config_lib.Config, params, batch, dropout_key, constrain, micro_batches: int
):
    """As `gradients`, of parts of the batch one after the other: memory for one part at a time.

    Row `i` belongs to part `i % micro_batches`. Every device so has its share of every part
    among the rows that it holds already, and which rows make a part does not depend on the mesh.
    """
    # The weights are the labels' alone: the forward pass written here is never run.
    terms = objectives.measure(models.apply(config.model, params, batch), batch)
    weights = {name: weight for name, (_, weight) in terms.items()}

    def split(x):
        x = x.reshape(-1, micro_batches, *x.shape[1:])
        return constrain("micro_batches", jnp.moveaxis(x, 1, 0))

    def add(total, part):
        index, rows = part
        key = None if dropout_key is None else jax.random.fold_in(dropout_key, index)
        grads, metrics = gradients(config, params, rows, key, constrain, weights)
        return jax.tree.map(jnp.add, total, grads), metrics

    parts = jnp.arange(micro_batches), jax.tree.map(split, batch)
    grads, metrics = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), parts)
    return grads, jax.tree.map(lambda x: jnp.sum(x, axis=0), metrics)


def shard_clipped_gradients(config: config_lib.Config, params, batch, dropout_key):
    """As `gradients`, but clipped part by part, then averaged; the metrics are the parts' means.

    The recipe of google-research/bert on TPUs: every core clips the gradient of its own part of
    the batch before the all-reduce. The number of parts is a field, so the recipe does not
    change with the mesh.
    """
    opt = config.optimizer

    def one_shard(shard, key):
        grads, metrics = gradients(config, params, shard, key, lambda name, x: x)
        norm = optax.tree.norm(grads)
        return optimizer.clip(grads, norm, opt.clip_norm), metrics | {"grad_norm": norm}

    def split(x):
        return x.reshape(opt.clip_shards, -1, *x.shape[1:])

    keys = None if dropout_key is None else jax.random.split(dropout_key, opt.clip_shards)
    return jax.tree.map(
        lambda x: jnp.mean(x, axis=0), jax.vmap(one_shard)(jax.tree.map(split, batch), keys)
    )


def masker(config: config_lib.Config, tokenizer, stage: stages.Stage):
    """How a stage masks: `host batch -> masked batch`, to be called inside a jitted function."""
    return functools.partial(
        masking.mask_tokens,
        keys.mask(config, stage.phase_index),
        tokenizer=tokenizer,
        masking=config.masking,
        max_predictions_per_seq=stage.phase.max_predictions_per_seq,
    )


def train_step(config: config_lib.Config, mask, constrain, micro_batches, state, batch):
    """One update: `(state, host batch) -> (state, metrics)`.

    `mask` corrupts the batch (a closure over the vocabulary's tables). A non-finite loss or
    gradient leaves parameters and moments as they were; only `step` moves on, and `skipped`
    is 1.
    """
    params, step, opt = state["params"], state["step"], config.optimizer
    dropout = config.model.hidden_dropout_prob or config.model.attention_probs_dropout_prob
    arguments = config, params, mask(batch), keys.dropout(config, step) if dropout else None
    per_shard = opt.clip_mode == "per_shard" and opt.clip_norm
    if per_shard:
        grads, metrics = shard_clipped_gradients(*arguments)
    elif micro_batches > 1:
        grads, metrics = accumulated_gradients(*arguments, constrain, micro_batches)
    else:
        grads, metrics = gradients(*arguments, constrain)
    metrics = {"grad_norm": optax.tree.norm(grads)} | metrics

    def update():
        clipped = grads if per_shard else optimizer.clip(grads, metrics["grad_norm"], opt.clip_norm)
        updates, opt_state = optimizer.make(config).update(clipped, state["opt_state"], params)
        return optax.apply_updates(params, updates), opt_state

    # A branch, not an elementwise choice: that costs another pass over the whole state.
    finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
    new_params, opt_state = jax.lax.cond(finite, update, lambda: (params, state["opt_state"]))
    metrics["learning_rate"] = optimizer.learning_rate(config)(step)
    metrics["skipped"] = 1.0 - finite
    return {"params": new_params, "opt_state": opt_state, "step": step + 1}, metrics


def compile_step(config: config_lib.Config, mesh, mask, micro_batches: int = 1):
    """`train_step` jitted for a mesh: the state is donated and stays where it is.

    The batch `[B, ...]` is masked whole; `B / micro_batches` must divide by the mesh's data x
    fsdp (`sharding.check` says so).
    """
    shardings = jax.tree.map(lambda x: x.sharding, abstract_state(config, mesh))
    return jax.jit(
        functools.partial(train_step, config, mask, sharding.constrain(mesh), micro_batches),
        in_shardings=(shardings, sharding.batch_sharding(mesh)),
        out_shardings=(shardings, None),
        donate_argnums=0,
    )
