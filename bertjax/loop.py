"""The loop: restore or start, train phase by phase, evaluate, save, stop when asked to."""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Iterator
from pathlib import Path

import jax
from jax.sharding import Mesh

from bertjax import errors, sharding, storage, train, workdir
from bertjax.checkpoints import manager
from bertjax.config import Config, stages
from bertjax.config.stages import Stage
from bertjax.data import pipeline
from bertjax.errors import NonFiniteError, NothingHeldOut, Preempted
from bertjax.evaluate import Evaluation
from bertjax.job import Batches, Job
from bertjax.metrics import flops, profile, writer
from bertjax.metrics.goodput import Goodput
from bertjax.metrics.progress import Progress, say
from bertjax.processes import distributed, lock
from bertjax.processes.watchdog import Watchdog

# Ends this process, to be started again, with one line that says why.
_leave = functools.partial(distributed.leave, errors.RESTART)

# Seconds between two lines of the ledger in metrics.jsonl: what a kill may leave out of it.
_ACCOUNT_SECONDS = 60.0


@contextlib.contextmanager
def alone(directory: Path, command: str) -> Iterator[None]:
    """While entered, this run alone writes W; raises as `lock.Lock`. Process 0 holds the lock."""
    is_first = jax.process_index() == 0
    with lock.Lock(directory, command, _leave) if is_first else contextlib.nullcontext():
        yield


def run(job: Job, directory: Path, started: float | None = None) -> None:
    """Trains a job in `directory` to its last step, from wherever that directory stands.

    The caller holds W (see `alone`); runs may follow each other in one process.

    Args:
      started: when this run began, by `time.monotonic`; now, if not given.

    Raises:
      Preempted: a signal asked to stop; the state is saved and the same call goes on.
      NonFiniteError: too many updates in a row were not finite.
      UsageError, DataError, StorageError: the config, data, checkpoints or disk forbid it.
    """
    spent = Goodput(time.monotonic() if started is None else started)
    mesh, config = sharding.make_mesh(job.config.mesh), job.config
    sharding.check(config, mesh)  # of a resolved config: the vocabulary's size is known now
    with contextlib.ExitStack() as stack:
        # Not before: where there is nothing to save, a signal may just end the process. (With
        # several processes JAX keeps SIGTERM until the first step.)
        signals = stack.enter_context(distributed.StopSignals())
        checkpoints = manager.Checkpoints(directory / "checkpoints", config.checkpoints.keep)
        stack.enter_context(contextlib.closing(checkpoints))
        abstract = train.abstract_state(job, mesh)
        with spent.spend("restore"):
            restored = checkpoints.restore(abstract)
        if restored is None:
            step, (state, lines) = 0, train.start(job, abstract)
            for line in lines:
                say(line)
        else:
            (step, state), config = restored, workdir.resumed(config, directory)
            say(stages.resuming(config, step, directory))
        if jax.process_index() == 0 and storage.exists(log := directory / "metrics.jsonl"):
            spent.go_on(writer.read(log), step)
        metrics = writer.MetricsWriter(directory, step, tensorboard=config.logging.tensorboard)
        stack.enter_context(contextlib.closing(metrics))
        progress = stack.enter_context(Progress(config.num_steps, step))
        watchdog = stack.enter_context(Watchdog(config.watchdog_seconds, _leave))
        outputs = signals, checkpoints, metrics, progress, watchdog, spent
        Trainer(job, config, mesh, directory, *outputs).run(step, state)


@dataclasses.dataclass
class Trainer:
    """One run of the loop, with all that it writes to.

    The metrics of a step are read while the device runs the next one. Between steps, metrics are
    written first, then the checkpoint, then the evaluation: a checkpoint never misses a line before
    it, and a run that resumes at a step where an evaluation is due makes that evaluation again.
    """

    job: Job
    config: Config  # the job's, with what a resumed run keeps of its start
    mesh: Mesh
    directory: Path
    signals: distributed.StopSignals
    checkpoints: manager.Checkpoints
    metrics: writer.MetricsWriter
    progress: Progress
    watchdog: Watchdog
    spent: Goodput
    stopping: bool = False
    skips: int = 0  # non-finite updates in a row
    accounted: float = 0.0  # when the last line of the ledger was written
    evaluations: dict[int, Evaluation | None] = dataclasses.field(default_factory=dict)  # by phase

    def run(self, step: int, state: dict) -> None:
        """Trains from `step` to the last one; raises as `loop.run`."""
        self._account(step)  # the writer has just dropped the lines of the ledger from here on
        self.spent.begin_steps()
        self.stopping = bool(self.signals.requested) and jax.process_count() == 1  # else all agree
        self._between_steps(step, state)
        for stage in stages.of(self.config):
            if step < stage.end_step:
                state = self._run_stage(stage, step, state)
                step = stage.end_step
        with self._patiently("save"):
            self.checkpoints.wait()
        self._end(step)

    @contextlib.contextmanager
    def _compiling(self) -> Iterator[None]:
        with self.spent.spend("compile"), self.watchdog.off():
            yield

    @contextlib.contextmanager
    def _patiently(self, category: str) -> Iterator[None]:
        with self.spent.spend(category), self.watchdog.patient():
            yield

    def _account(self, step: int) -> None:
        """Writes down where the time went up to now."""
        self.metrics.write(step, self.spent.seconds, prefix="goodput")
        self.accounted = time.monotonic()

    def _end(self, step: int) -> None:
        self._account(step)
        say(self.spent.summary())

    def _run_stage(self, stage: Stage, start: int, state: dict) -> dict:
        with self._patiently("init"):
            batches = self.job.batches(stage)
        self._write_config()
        start, prefetch = max(start, stage.first_step), self.config.data.prefetch_batches
        size = stage.phase.batch_size
        rows = sharding.local_rows(self.mesh, size)
        reader = pipeline.iterate(
            batches, start - stage.first_step, stage.steps, rows=rows, prefetch=prefetch
        )
        prepare = self.job.prepare(stage)
        jitted = train.compile_step(self.job, self.mesh, prepare, stage.micro_batches)
        programs, speed, pending = {}, self._speed(stage, start), None
        with contextlib.closing(reader):
            for step in range(start, stage.end_step):
                with self.spent.spend("data"):
                    batch = sharding.to_global(self.mesh, next(reader), size)
                form = train.form_of(batch)
                if form not in programs:
                    self._report(pending, stage, speed)
                    if not programs:
                        self._save_before_compiling(step, state)
                    arguments = state, self.job.frozen, batch
                    programs[form] = self._compile(jitted, arguments, stage, batches)
                    self._account(step)
                    self._poll(step, state)
                    pending = None
                    speed.restart(step)
                profile.follow(self.config.logging, self.directory, step)
                state, values = programs[form](state, self.job.frozen, batch)
                self._report(pending, stage, speed)
                pending = step + 1, values
                self.stopping = self.signals.should_stop()
                if self._must_pause(step + 1):
                    self._report(pending, stage, speed)
                    pending = None
                    self._between_steps(step + 1, state)
                    speed.restart(step + 1)
        self._report(pending, stage, speed)
        return state

    def _write_config(self) -> None:
        """Nothing refuses the config any more, and a step of it is due."""
        if jax.process_index() == 0:
            for change in workdir.write_config(self.config, self.directory):
                say(f"config changed since the last start: {change}")

    def _save_before_compiling(self, step: int, state: dict) -> None:
        # Compiling may take longer than a machine has left: what was learned is saved first, and
        # step 0 as a whole fallback. That first save connects devices, as slowly as a first step.
        watched = self.watchdog.patient if step else self.watchdog.off
        with self.spent.spend("save"), watched():
            self._save(step, state)

    def _compile(
        self, jitted: jax.stages.Wrapped, arguments: tuple, stage: Stage, batches: Batches
    ) -> jax.stages.Compiled:
        started, phase = time.monotonic(), stage.phase
        with self._compiling():
            compiled = jitted.lower(*arguments).compile()
            distributed.wait_for_all("compiled")  # hosts differ in speed
        kernel = train.attention_kernel(self.config, self.mesh, phase.sequence_length)
        say(
            f"phase {stage.phase_index + 1}: {stage.steps:,} steps of {phase.batch_size} x "
            f"{phase.sequence_length} on {self.mesh.size} {jax.devices()[0].device_kind} "
            f"({dict(self.mesh.shape)}), {kernel} attention, "
            f"compiled in {time.monotonic() - started:.0f} s; {batches.describe()}"
        )
        return compiled

    def _poll(self, step: int, state: dict) -> None:
        """Stops here if a signal came."""
        self.stopping = self.signals.should_stop()
        if self.stopping:
            self._stop(step, state)

    def _speed(self, stage: Stage, step: int) -> flops.Speed:
        tokens = stage.phase.batch_size * stage.phase.sequence_length
        peak = self.config.logging.peak_flops_per_device or flops.peak_flops(jax.devices()[0])
        return flops.Speed(step, tokens, self.job.flops(stage), peak and peak * self.mesh.size)

    def _report(self, pending: tuple[int, dict] | None, stage: Stage, speed: flops.Speed) -> None:
        """Logs the metrics of a step that has run: `pending` is `(step, metrics)` or None."""
        if pending is None:
            return
        step, values = pending
        values = {name: float(value) for name, value in jax.device_get(values).items()}
        self.watchdog.beat()
        if step % self.config.logging.every_steps == 0 or step == self.config.num_steps:
            rated = values | speed.rates(step)
            self.metrics.write(step, rated)
            if time.monotonic() > self.accounted + _ACCOUNT_SECONDS:
                self._account(step)
            self.progress.update(step, f"phase {stage.phase_index + 1}", rated)
        self.skips = self.skips + 1 if values["skipped"] else 0
        if self.skips >= self.config.optimizer.max_consecutive_skips:
            raise NonFiniteError(
                f"step {step}: loss or gradients not finite {self.skips} times in a row; the last "
                "checkpoint is untouched: lower config.optimizer.learning_rate or lengthen "
                "config.optimizer.warmup_steps, and run it again"
            )

    def _due(self, step: int, every: int) -> bool:
        return step > 0 and every > 0 and (step % every == 0 or step == self.config.num_steps)

    def _must_pause(self, step: int) -> bool:
        every = self.config.checkpoints.every_steps, self.config.evaluation.every_steps
        return self.stopping or any(self._due(step, n) for n in every)

    def _between_steps(self, step: int, state: dict) -> None:
        """A checkpoint, an evaluation, or the end that a signal asked for."""
        if self.stopping:
            self._stop(step, state)
        # A checkpoint holds no update that was skipped for want of finite numbers: those leave
        # the parameters alone.
        if self._due(step, self.config.checkpoints.every_steps):
            self._account(step)
            with self._patiently("save"):
                self._save(step, state)
        if self._due(step, self.config.evaluation.every_steps):
            with self.spent.spend("evaluation"):
                self._evaluate(step, state)

    def _save(self, step: int, state: dict) -> None:
        self.metrics.save()  # a run that resumes here does not write these lines again
        self.checkpoints.save(step, state)

    def _stop(self, step: int, state: dict) -> None:
        with self._patiently("save"):
            self._save(step, state)
            self.checkpoints.wait()
        self._end(step)
        raise Preempted(f"{self.signals.requested}: saved step {step:,}; run it again to go on")

    def _evaluate(self, step: int, state: dict) -> None:
        evaluation = self._evaluation(stages.at(self.config, step - 1))
        if evaluation is None:
            return

        def on_batch() -> None:
            self.watchdog.alive()
            self._poll(step, state)

        with self._compiling():
            evaluation.compile(state["params"])
        values = evaluation(state["params"], on_batch)
        self.metrics.write(step, values, prefix="eval")
        say(f"held out, step {step:,}: " + "  ".join(f"{k} {v:.4f}" for k, v in values.items()))

    def _evaluation(self, stage: Stage) -> Evaluation | None:
        """Of the stage's phase; made when first needed."""
        index = stage.phase_index
        if index not in self.evaluations:
            self.evaluations[index] = None
            with self.watchdog.patient():
                try:
                    self.evaluations[index] = Evaluation(self.job, self.mesh, stage)
                except NothingHeldOut as error:
                    say(f"no evaluation: {error}")
        return self.evaluations[index]
