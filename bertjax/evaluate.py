"""Held-out figures of a job, on the same batches every time, so that only the parameters differ."""

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from rich import console, progress

from bertjax import sharding, train
from bertjax.checkpoints import integrity, manager
from bertjax.config import stages
from bertjax.config.stages import Stage
from bertjax.errors import NothingHeldOut
from bertjax.job import Batch, Job, Terms, Verdict
from bertjax.metrics.progress import say
from bertjax.processes import terminal


class Evaluation:
    """Computes the held-out figures of one stage; call an instance with parameters.

    Args:
      programs: compiled programs, see `loop.run`.

    Raises NothingHeldOut if `Job.heldout` does.
    """

    def __init__(self, job: Job, mesh: Mesh, stage: Stage, programs: dict | None = None) -> None:
        self.batches, self._job, self._mesh = job.heldout(stage), job, mesh
        self._rows = sharding.local_rows(mesh, self.batches.batch_size)
        self._jitted = jit_measure(job, mesh, job.prepare(stage, heldout=True))
        self._programs = {} if programs is None else programs
        self._key = "evaluate", job.program, stage.phase_index

    def compile(self, params: dict) -> None:
        """Compiles for parameters like `params` and the first batch, ahead of the first call."""
        if not any(key[:3] == self._key for key in self._programs):
            self._program(params, self._batch(0))

    def __call__(
        self, params: dict, on_batch: Callable[[], object] = lambda: None
    ) -> dict[str, float]:
        """The job's figures over all held-out examples; `on_batch` is called after each batch."""
        totals, rows = self.measure(params, on_batch)
        return self._job.figures(totals, rows)

    def measure(
        self, params: dict, on_batch: Callable[[], object] = lambda: None
    ) -> tuple[Terms, dict[str, list[np.ndarray]]]:
        """The arguments of `Job.figures`: sums and weights over all batches, and their rows."""
        totals: Terms = {}
        gathered = []
        for step in range(self.batches.num_batches):
            batch = self._batch(step)
            program = self._program(params, batch)
            # One batch at a time. On CPUs, programs that do not depend on each other run at once; if
            # two hosts begin the collectives of two batches in different orders, both wait forever.
            results = jax.block_until_ready(program(params, self._job.frozen, batch))
            terms, rows = jax.device_get(results)
            totals = jax.tree.map(np.add, totals, terms) if totals else terms
            gathered.append(rows)
            on_batch()
        return totals, {name: [each[name] for each in gathered] for name in gathered[0]}

    def _program(self, params: dict, batch: Batch) -> jax.stages.Compiled:
        key = *self._key, train.form_of(batch)
        if key not in self._programs:
            lowered = self._jitted.lower(params, self._job.frozen, batch)
            self._programs[key] = lowered.compile()
        return self._programs[key]

    def _batch(self, step: int) -> Batch:
        batch = self.batches.batch(step, self._rows)
        return sharding.to_global(self._mesh, batch, self.batches.batch_size)


class Evaluations:
    """The evaluations of a run: one `Evaluation` for each phase, made when first needed.

    Attributes:
      figures: the figures of all evaluations so far, by step.
    """

    def __init__(self, job: Job, mesh: Mesh, figures: dict[int, dict], programs: dict) -> None:
        self._job, self._mesh, self._programs = job, mesh, programs
        self._by_phase: dict[int, Evaluation | None] = {}
        self.figures = figures

    def of(self, stage: Stage) -> Evaluation | None:
        """The evaluation of the stage's phase; None, logged once, if nothing is held out."""
        index = stage.phase_index
        if index not in self._by_phase:
            self._by_phase[index] = None
            try:
                self._by_phase[index] = Evaluation(self._job, self._mesh, stage, self._programs)
            except NothingHeldOut as error:
                say(f"no evaluation: {error}")
        return self._by_phase[index]

    def judge(self, step: int, figures: dict[str, float]) -> Verdict:
        """Adds the figures of a step and returns the job's verdict."""
        self.figures[step] = figures
        return self._job.judge(self.figures)


def jit_measure(job: Job, mesh: Mesh, prepare: Callable[[Batch], Batch]) -> jax.stages.Wrapped:
    """`(params, frozen, host batch) -> ({term: (sum, weight)}, rows)`, jitted, without dropout.

    The rows are the result of `Job.rows`, replicated on every device.

    Args:
      prepare: the result of `Job.prepare`, as in `train.train_step`.
    """

    def measure(params: dict, frozen: dict, batch: Batch) -> tuple[Terms, dict]:
        placement = sharding.Placement(mesh)
        batch = job.targets(frozen, prepare(batch), placement)
        outputs = job.apply(params, batch, dropout_key=None, placement=placement)
        return train.measure(job, outputs, batch), job.rows(outputs, batch)

    everywhere = NamedSharding(mesh, PartitionSpec())
    return jax.jit(measure, out_shardings=everywhere)


def read_params(
    job: Job, mesh: Mesh, directory: Path, wanted: int | None = None
) -> tuple[int, dict]:
    """The step and the parameters of the newest whole checkpoint of `directory`.

    Args:
      wanted: a step to read instead of the newest, if it is whole.

    Raises:
      DataError: there is no whole checkpoint.
      UsageError: the checkpoint was trained with other frozen parameters.
    """
    params = jax.eval_shape(job.init, jax.random.key(0))
    abstract = sharding.abstract(mesh, {"params": params})
    step, state = manager.read_newest(directory / "checkpoints", abstract, wanted=wanted)
    assert step is not None  # nothing saved raises
    if job.identity:
        integrity.require_same(directory / "checkpoints" / str(step), job.identity)
    return step, state["params"]


def newest(job: Job, directory: Path, wanted: int | None = None) -> dict[str, float]:
    """The figures of the newest whole checkpoint of `directory`, for the checkpoint's phase.

    Args:
      wanted: see `read_params`.

    Raises:
      NothingHeldOut: there are no held-out examples.
      DataError: there is no whole checkpoint.
    """
    mesh = sharding.make_mesh(job.config.mesh)
    sharding.check(job.config, mesh, training=False)
    step, params = read_params(job, mesh, directory, wanted)
    stage = stages.at(job.config, max(step - 1, 0))
    run = Evaluation(job, mesh, stage)
    shown = console.Console(stderr=True, quiet=not terminal.is_shown())
    with progress.Progress(console=shown) as bar:
        task = bar.add_task(f"evaluate step {step}", total=run.batches.num_batches)
        return {"step": step, **run(params, lambda: bar.advance(task))}
