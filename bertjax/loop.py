"""The loop: restore or start, train phase by phase, evaluate, save, stop when asked to."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator
from pathlib import Path

import jax
from jax.sharding import Mesh

from bertjax import kernels, sharding, storage, train, workdir
from bertjax.checkpoints import manager
from bertjax.config import Config, stages
from bertjax.config.stages import Stage
from bertjax.data import pipeline
from bertjax.errors import NonFiniteError, Preempted
from bertjax.evaluate import Evaluations
from bertjax.job import Batch, Job
from bertjax.metrics import flops, profile, writer
from bertjax.metrics.goodput import Goodput
from bertjax.metrics.progress import Progress, say
from bertjax.processes import distributed, heap
from bertjax.processes.watchdog import Watchdog

# Seconds between two lines of the ledger in metrics.jsonl: what a kill may leave out of it.
_ACCOUNT_SECONDS = 60.0


def run(
    job: Job, directory: Path, started: float | None = None, programs: dict | None = None
) -> None:
    """Trains a job in `directory` to its last step, from wherever that directory stands.

    The caller holds W (see `distributed.alone`); runs may follow each other in one process.

    Args:
      started: when this run began, by `time.monotonic`; now, if not given.
      programs: compiled ones, by all that they depend on. Runs that are given the same dict compile
        each program once; without, those of a stage end with it.

    Raises:
      Preempted: a signal asked to stop; the state is saved and the same call goes on.
      NonFiniteError: too many updates in a row were not finite.
      UsageError, DataError, StorageError: the config, data, checkpoints or disk forbid it.
    """
    spent = Goodput(time.monotonic() if started is None else started)
    mesh, config = sharding.make_mesh(job.config.mesh), job.config
    shared = {} if programs is None else programs
    if distributed.is_owned() and mesh.devices.flat[0].platform == "cpu":
        heap.keep()
    sharding.check(config, mesh)  # of a resolved config: the vocabulary's size is known now
    with contextlib.ExitStack() as stack:
        # Not before: where there is nothing to save, a signal may just end the process. (With
        # several processes JAX keeps SIGTERM until the first step.)
        signals = stack.enter_context(distributed.StopSignals())
        place, kept = directory / "checkpoints", config.checkpoints.keep
        checkpoints = manager.Checkpoints(place, kept, identity=job.identity)
        stack.enter_context(contextlib.closing(checkpoints))
        abstract = train.abstract_state(job, mesh)
        with spent.spend("restore"):
            restored = checkpoints.restore(abstract)
        if restored is None:
            step, (state, lines) = 0, train.start(job, abstract, shared)
            for line in lines:
                say(line)
        else:
            (step, state), config = restored, workdir.resumed(config, directory)
            say(stages.resuming(config, step, directory))
        is_first, log = jax.process_index() == 0, directory / "metrics.jsonl"
        logged = writer.read(log) if is_first and storage.exists(log) else []
        spent.go_on(logged, step)
        metrics = writer.of(config, directory, step)
        stack.enter_context(contextlib.closing(metrics))
        progress = stack.enter_context(Progress(config.num_steps, step))
        patience = config.watchdog_seconds if distributed.is_owned() else -1.0
        watchdog = stack.enter_context(Watchdog(patience, distributed.restart))
        before = {at: f for at, f in writer.evaluations(logged).items() if at < step}
        checkpoints.spared = job.judge(before).best  # from the first save of this process on
        evaluations = Evaluations(job, mesh, before, shared)
        outputs = signals, checkpoints, metrics, progress, watchdog, spent, evaluations
        Trainer(job, config, mesh, directory, *outputs, programs).run(step, state)


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
    evaluations: Evaluations
    programs: dict | None  # as of `run`
    stopping: bool = False
    decided: bool = False  # by the evaluations: training ends before its last step
    skips: int = 0  # non-finite updates in a row
    accounted: float = 0.0  # when the last line of the ledger was written

    def run(self, step: int, state: dict) -> None:
        """Trains from `step` to the last one; raises as `loop.run`."""
        self._account(step)  # the writer has just dropped the lines of the ledger from here on
        self.spent.begin_steps()
        self.stopping = bool(self.signals.requested) and jax.process_count() == 1  # else all agree
        self._between_steps(step, state)
        for stage in stages.of(self.config):
            if step < stage.end_step and not self.decided:
                step, state = self._run_stage(stage, step, state)
        with self._patiently("save"):
            self.checkpoints.wait()
        self._account(step)
        say(self.spent.summary())

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
        self.metrics.write(step, self.spent.ledger, prefix="goodput")
        self.accounted = time.monotonic()

    def _run_stage(self, stage: Stage, start: int, state: dict) -> tuple[int, dict]:
        with self._patiently("init"):
            batches = self.job.batches(stage)
        prepare = self.job.prepare(stage)
        self._write_config()
        size, prefetch = stage.phase.batch_size, self.config.data.prefetch_batches
        start, rows = max(start, stage.first_step), sharding.local_rows(self.mesh, size)
        reader = pipeline.iterate(
            batches, start - stage.first_step, stage.steps, rows=rows, prefetch=prefetch
        )
        jitted = train.compile_step(self.job, self.mesh, prepare, stage.micro_batches)
        programs = {} if self.programs is None else self.programs
        speed, pending, entered = self._speed(stage, start), None, False
        stem = "train", self.job.program, stage.phase_index, stage.micro_batches
        with contextlib.closing(reader):
            for step in range(start, stage.end_step):
                with self.spent.spend("data"):
                    batch = sharding.to_global(self.mesh, next(reader), size)
                key = *stem, train.form_of(batch)
                if not entered:
                    say(f"{kernels.describe(self.config, self.mesh, stage)}; {batches.describe()}")
                if key not in programs:
                    self._report(pending, stage, speed)
                    pending = None
                    if not entered:
                        self._save_before_compiling(step, state)
                    programs[key] = self._compile(jitted, (state, self.job.frozen, batch))
                    self._account(step)
                    self._poll(step, state)
                    speed.restart(step)
                entered = True
                profile.follow(self.config.logging, self.directory, step)
                state, values = programs[key](state, self.job.frozen, batch)
                self._report(pending, stage, speed)
                pending = step + 1, values, math.prod(_largest(batch))
                self.stopping = self.signals.should_stop()
                if self._must_pause(step + 1):
                    self._report(pending, stage, speed)
                    pending = None
                    self._between_steps(step + 1, state)
                    speed.restart(step + 1)
                    if self.decided:
                        return step + 1, state
        self._report(pending, stage, speed)
        return stage.end_step, state

    def _write_config(self) -> None:
        """Nothing refuses the config any more, and a step of it is due."""
        if jax.process_index() == 0:
            for change in workdir.write_config(self.config, self.directory):
                say(f"config changed since the last start: {change}")

    def _save_before_compiling(self, step: int, state: dict) -> None:
        # Compiling may take longer than a machine has left: what was learned is saved first, and
        # step 0 as a whole fallback. That first save connects devices, as slowly as a first step.
        # A run that saves nothing before its end is short: its start is made again as fast.
        if step == 0 and self.config.checkpoints.every_steps >= self.config.num_steps:
            return
        watched = self.watchdog.patient if step else self.watchdog.off
        with self.spent.spend("save"), watched():
            self._save(step, state)

    def _compile(self, jitted: jax.stages.Wrapped, arguments: tuple) -> jax.stages.Compiled:
        started = time.monotonic()
        with self._compiling():
            compiled = jitted.lower(*arguments).compile()
            distributed.wait_for_all("compiled")  # hosts differ in speed
        form = " x ".join(map(str, _largest(arguments[-1])))
        say(f"{form}: compiled in {time.monotonic() - started:.1f} s{self.spent.first_step()}")
        return compiled

    def _poll(self, step: int, state: dict) -> None:
        """Stops here if a signal came."""
        self.stopping = self.signals.should_stop()
        if self.stopping:
            self._stop(step, state)

    def _speed(self, stage: Stage, step: int) -> flops.Speed:
        tokens = max(map(math.prod, self.job.shapes(stage).values()))
        peak = self.config.logging.peak_flops_per_device or flops.peak_flops(jax.devices()[0])
        return flops.Speed(step, self.job.flops(stage) / tokens, peak and peak * self.mesh.size)

    def _report(self, pending: tuple | None, stage: Stage, speed: flops.Speed) -> None:
        """Logs a step that has run: `pending` is `(step, metrics, tokens)` or None."""
        if pending is None:
            return
        step, values, tokens = pending
        speed.add(tokens)
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
        self._account(step)
        say(self.spent.summary())
        raise Preempted(f"{self.signals.requested}: saved step {step:,}; run it again to go on")

    def _evaluate(self, step: int, state: dict) -> None:
        with self.watchdog.patient():
            evaluation = self.evaluations.of(stages.at(self.config, step - 1))
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
        verdict = self.evaluations.judge(step, values)
        self.checkpoints.spared = verdict.best
        self.decided = bool(distributed.first_decides(verdict.stop))
        if self.decided and step < self.config.num_steps:
            say(f"no better than at step {verdict.best:,}: ends at step {step:,}")


def _largest(batch: Batch) -> tuple[int, ...]:
    """The shape of a batch's largest array: B x L of its tokens."""
    return max((x.shape for x in batch.values()), key=math.prod)
