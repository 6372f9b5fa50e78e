"""Held-out figures of a job: the same batches every time, so that only the parameters differ."""

import functools
from collections.abc import Callable
from pathlib import Path

import jax
from jax.sharding import Mesh
from rich import console, progress

from bertjax import sharding, train
from bertjax.checkpoints import manager
from bertjax.config import stages
from bertjax.config.stages import Stage
from bertjax.job import Batch, Job, Terms


class Evaluation:
    """The held-out figures of one stage: call it with parameters.

    Raises NothingHeldOut, as `Job.heldout`.
    """

    def __init__(self, job: Job, mesh: Mesh, stage: Stage) -> None:
        self.batches, self._job, self._mesh = job.heldout(stage), job, mesh
        self._rows = sharding.local_rows(mesh, self.batches.batch_size)
        self._jitted = jit_measure(job, mesh, job.prepare(stage))
        self._programs = {}  # by the form of a batch

    def compile(self, params: dict) -> None:
        """Compiles for parameters like these and the first batch; a call would do it otherwise."""
        if not self._programs:
            self._program(params, self._batch(0))

    def __call__(
        self, params: dict, on_batch: Callable[[], object] = lambda: None
    ) -> dict[str, float]:
        """The job's figures over all held-out examples; `on_batch` is called after each batch."""
        totals = None
        for step in range(self.batches.num_batches):
            batch = self._batch(step)
            terms = self._program(params, batch)(params, self._job.frozen, batch)
            totals = terms if totals is None else jax.tree.map(_add, totals, terms)
            on_batch()
        return self._job.figures(jax.device_get(totals))

    def _program(self, params: dict, batch: Batch) -> jax.stages.Compiled:
        form = train.form_of(batch)
        if form not in self._programs:
            lowered = self._jitted.lower(params, self._job.frozen, batch)
            self._programs[form] = lowered.compile()
        return self._programs[form]

    def _batch(self, step: int) -> Batch:
        batch = self.batches.batch(step, self._rows)
        return sharding.to_global(self._mesh, batch, self.batches.batch_size)


def jit_measure(job: Job, mesh: Mesh, prepare: Callable[[Batch], Batch]) -> jax.stages.Wrapped:
    """`(params, frozen, host batch) -> {term: (sum, weight)}`, jitted; no dropout.

    `prepare` is the job's for a stage, as of `train.train_step`.
    """

    def measure(params: dict, frozen: dict, batch: Batch) -> Terms:
        batch = job.targets(frozen, prepare(batch))
        placement = sharding.Placement(mesh)
        outputs = job.apply(params, batch, dropout_key=None, placement=placement)
        return train.measure(job, outputs, batch)

    return jax.jit(measure)


@functools.partial(jax.jit, donate_argnums=0)
def _add(total: jax.Array, term: jax.Array) -> jax.Array:
    return total + term


def newest(job: Job, directory: Path) -> dict[str, float]:
    """The figures of the newest whole checkpoint of `directory`, for the phase that it ended in.

    Raises:
      NothingHeldOut: no held-out examples.
      DataError: no whole checkpoint.
    """
    mesh = sharding.make_mesh(job.config.mesh)
    sharding.check(job.config, mesh, training=False)
    params = jax.eval_shape(job.init, jax.random.key(0))
    abstract = sharding.abstract(mesh, {"params": params})
    step, state = manager.read_newest(directory / "checkpoints", abstract)
    assert step is not None  # nothing saved raises
    stage = stages.at(job.config, max(step - 1, 0))
    run = Evaluation(job, mesh, stage)
    with progress.Progress(console=console.Console(stderr=True)) as bar:
        task = bar.add_task(f"evaluate step {step}", total=run.batches.num_batches)
        return {"step": step, **run(state["params"], lambda: bar.advance(task))}
