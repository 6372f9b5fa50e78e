"""The train state and the one training step."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jax.typing import ArrayLike

from bertjax import compiler, keys, models, objectives, optimizer, sharding
from bertjax import config as config_lib
from bertjax.job import Batch, Job, Terms
from bertjax.models.placement import Placement


def init_state(
    config: config_lib.Config,
    init: Callable[[jax.Array], dict],
    seed: ArrayLike | None = None,
) -> dict:
    """A fresh state: `params`, `opt_state`, `step`. Nothing else is ever saved.

    Args:
      init: makes the parameters from a key (`Job.init`).
      seed: None takes `config.seed`. An argument of a jitted function avoids a constant, so that
        one compiled program serves all seeds.
    """
    params = init(keys.root(config.seed if seed is None else seed, keys.INIT))
    opt_state = optimizer.make(config).init(params)
    return {"params": params, "opt_state": opt_state, "step": jnp.zeros((), jnp.int32)}


def abstract_state(job: Job, mesh: Mesh) -> dict:
    """The shapes, types and shardings of the state, without allocating it."""
    shapes = jax.eval_shape(lambda: init_state(job.config, job.init))
    over_data = job.config.mesh.shard_optimizer_over_data
    return sharding.abstract(mesh, shapes, optimizer_over_data=over_data)


def abstract_frozen(job: Job, mesh: Mesh) -> dict:
    """The same as `abstract_state`, for `Job.frozen`."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), job.frozen)
    return sharding.abstract(mesh, shapes)


def start(job: Job, abstract: dict, programs: dict) -> tuple[dict, list[str]]:
    """The state at step 0, from the seed and the job's starting weights, and lines to log.

    Args:
      abstract: the result of `abstract_state`.
      programs: compiled programs, see `loop.run`.
    """
    key = "init", job.program
    if key not in programs:
        shardings = jax.tree.map(lambda x: x.sharding, abstract)
        programs[key] = jax.jit(
            functools.partial(init_state, job.config, job.init), out_shardings=shardings
        )
    state = programs[key](np.uint32(job.config.seed))
    params, lines = job.start(state["params"])
    return state | {"params": params}, lines


def form_of(batch: Batch) -> tuple:
    """The names, shapes and types of a batch's arrays; each form needs its own compiled program."""
    return tuple((name, x.shape, str(x.dtype)) for name, x in sorted(batch.items()))


def clips_per_shard(config: config_lib.Config) -> bool:
    """Whether the gradient of each part of the batch is clipped separately."""
    return config.optimizer.clip_mode == "per_shard" and config.optimizer.clip_norm > 0


def placement_of(config: config_lib.Config, mesh: Mesh) -> Placement:
    """The model's placement in this training (see `models.apply`).

    With clipping per shard, the model is mapped over parts of the batch, and the partitioner
    decides where they lie. So the model places nothing.
    """
    if clips_per_shard(config):
        field = "config.optimizer.clip_mode=global (here: per_shard)"
        device = sharding.Placement(mesh).device
        return models.Unplaced(device, unsplit=None if mesh.size == 1 else field)
    return sharding.Placement(mesh)


def measure(job: Job, outputs: dict, batch: Batch, weights: dict | None = None) -> Terms:
    """`{term: (sum, weight)}` of a batch.

    Args:
      weights: for a part of a larger batch, the weights of the whole batch.
    """
    weights = job.weights(batch) if weights is None else weights
    return {name: (total, weights[name]) for name, total in job.sums(outputs, batch).items()}


def gradients(
    job: Job,
    params: dict,
    frozen: dict,
    batch: Batch,
    dropout_key: jax.Array | None,
    placement: Placement,
    weights: dict | None = None,
) -> tuple[dict, dict]:
    """`(gradients, metrics)` of the mean loss over `batch`, which `Job.prepare` has processed.

    Args:
      dropout_key: None, one key, or one key for each row `[B]`, as in `models.apply`.
      weights: `{term: weight}` of a larger batch that contains `batch`. The result is then what
        `batch` contributes to the larger batch's gradients and metrics, because a mean of means is
        not the mean.
    """
    batch = job.targets(frozen, batch, placement)

    def loss_of(params: dict) -> tuple[jax.Array, dict]:
        outputs = job.apply(params, batch, dropout_key=dropout_key, placement=placement)
        values = objectives.means(measure(job, outputs, batch, weights))
        loss = objectives.total(job.config.objective, values)
        return loss, {"loss": loss, **values}

    return jax.grad(loss_of, has_aux=True)(params)


def reduced_gradients(
    job: Job,
    params: dict,
    frozen: dict,
    batch: Batch,
    dropout_keys: jax.Array | None,
    placement: sharding.Placement,
    micro_batches: int,
) -> tuple[dict, dict]:
    """The same as `gradients`, but part by part, with memory for only one part at a time.

    `dropout_keys` are None, or one key for each row `[B]`, so a row's dropout does not depend on
    its part.

    Row `i` belongs to part `i % micro_batches`. So every device already holds its share of every
    part, and the rows of a part do not depend on the mesh.

    The sum over the mesh's `data` axis is computed once, at the end, in float32. The partitioner
    alone would sum every layer of every part, in the layer's compute type. Until the end, every
    device keeps its own sum, which takes no more memory than a shared sum would. The same holds for
    `fsdp` if the weights are gathered once a step (`sharding.mapped_axes`).
    """
    mesh, weights = placement.mesh, job.weights(batch)
    mapped = sharding.mapped_axes(job.config.mesh, mesh, micro_batches)
    inside, shards = placement.within(mapped), math.prod(mesh.shape[axis] for axis in mapped)
    used, read = params, frozen
    if "fsdp" in mapped:
        used = inside.gathered(models.cast_kernels(job.config.model, params))
        read = inside.gathered(frozen)

    def split(x: jax.Array) -> jax.Array:
        x = x.reshape(shards, -1, micro_batches, *x.shape[1:])
        return inside("micro_batches", jnp.moveaxis(x, 2, 0))

    def of_shard(rows: Batch, keys: jax.Array | None) -> tuple[dict, dict]:
        return gradients(job, used, read, rows, keys, inside, weights)

    def add(total: dict, part: tuple) -> tuple[dict, dict]:
        grads, metrics = jax.vmap(of_shard, spmd_axis_name=mapped)(*part)
        return jax.tree.map(jnp.add, total, grads), metrics

    zeros = jax.tree.map(lambda x: jnp.zeros((shards, *x.shape), x.dtype), params)
    parts, metrics = jax.lax.scan(add, zeros, jax.tree.map(split, (batch, dropout_keys)))
    over_data = job.config.mesh.shard_optimizer_over_data
    by_block = compiler.sums_early(job.config.model, mesh, micro_batches)
    grads = sharding.summed(mesh, parts, mapped, optimizer_over_data=over_data, by_block=by_block)
    return grads, jax.tree.map(lambda x: jnp.sum(x, axis=(0, 1)), metrics)


def shard_clipped_gradients(
    job: Job,
    params: dict,
    frozen: dict,
    batch: Batch,
    dropout_keys: jax.Array | None,
    placement: Placement,
) -> tuple[dict, dict]:
    """The same as `gradients`, but clipped part by part, then averaged; metrics are averaged too.

    This is google-research/bert's recipe on TPUs: every core clips the gradient of its own part of
    the batch before the all-reduce. A config field sets the number of parts, so the recipe does not
    depend on the mesh.
    """
    opt = job.config.optimizer

    def one_shard(shard: Batch, keys: jax.Array | None) -> tuple[dict, dict]:
        grads, metrics = gradients(job, params, frozen, shard, keys, placement)
        norm = optax.tree.norm(grads)
        return optimizer.clip(grads, norm, opt.clip_norm), metrics | {"grad_norm": norm}

    def split(x: jax.Array) -> jax.Array:
        return x.reshape(opt.clip_shards, -1, *x.shape[1:])

    shards = jax.vmap(one_shard)(*jax.tree.map(split, (batch, dropout_keys)))
    return jax.tree.map(lambda x: jnp.mean(x, axis=0), shards)


def train_step(
    job: Job,
    prepare: Callable[[Batch], Batch],
    placement: Placement,
    micro_batches: int,
    state: dict,
    frozen: dict,
    batch: Batch,
) -> tuple[dict, dict]:
    """One update: `(state, frozen, host batch) -> (state, metrics)`.

    `prepare` is the result of `Job.prepare`; in pretraining it masks the batch. With a non-finite
    loss or gradient, parameters and moments stay unchanged, `step` still increases, and `skipped`
    is 1.
    """
    config, params, step = job.config, state["params"], state["step"]
    opt, size = config.optimizer, len(jax.tree.leaves(batch)[0])
    seed, learning_rate = job.settings(frozen)
    row_keys = None
    if config.model.hidden_dropout_prob or config.model.attention_probs_dropout_prob:
        fold = jax.vmap(jax.random.fold_in, (None, 0))
        row_keys = fold(keys.dropout(seed, step), jnp.arange(size))
    batch, per_shard = prepare(batch), clips_per_shard(config)
    if per_shard:
        grads, metrics = shard_clipped_gradients(job, params, frozen, batch, row_keys, placement)
    else:
        assert isinstance(placement, sharding.Placement)
        grads, metrics = reduced_gradients(
            job, params, frozen, batch, row_keys, placement, micro_batches
        )
    metrics = {"grad_norm": optax.tree.norm(grads)} | metrics

    def update() -> tuple[dict, tuple]:
        clipped = grads if per_shard else optimizer.clip(grads, metrics["grad_norm"], opt.clip_norm)
        transform = optimizer.make(config, learning_rate)
        updates, opt_state = transform.update(clipped, state["opt_state"], params)
        return optax.apply_updates(params, updates), opt_state

    finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
    kept = params, state["opt_state"]
    if placement.device.platform == "cpu":  # a `where` would be another pass over the state
        new_params, opt_state = jax.lax.cond(finite, update, lambda: kept)
    else:  # a `cond` would copy the state; a `where` is fused into the update
        choose = functools.partial(jnp.where, finite)
        new_params, opt_state = jax.tree.map(choose, update(), kept)
    metrics["learning_rate"] = learning_rate(step)
    metrics["skipped"] = 1.0 - finite
    return {"params": new_params, "opt_state": opt_state, "step": step + 1}, metrics


def compile_step(
    job: Job, mesh: Mesh, prepare: Callable[[Batch], Batch], micro_batches: int = 1
) -> jax.stages.Wrapped:
    """`train_step` jitted for a mesh: `(state, frozen, host batch) -> (state, metrics)`.

    The state is donated and keeps its sharding. `prepare` gets the whole batch `[B, ...]`;
    `B / micro_batches` must be a multiple of data x fsdp of the mesh (`sharding.check` tests it).
    """
    state = jax.tree.map(lambda x: x.sharding, abstract_state(job, mesh))
    frozen = jax.tree.map(lambda x: x.sharding, abstract_frozen(job, mesh))
    placement = placement_of(job.config, mesh)
    return jax.jit(
        functools.partial(train_step, job, prepare, placement, micro_batches),
        in_shardings=(state, frozen, sharding.batch_sharding(mesh)),
        out_shardings=(state, None),
        donate_argnums=0,
        compiler_options=compiler.options(job.config.model, mesh, micro_batches),
    )
