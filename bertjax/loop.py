"""The loop: restore or start, train phase by phase, evaluate, save, stop when asked to."""

import contextlib
import functools
import time
from pathlib import Path

import jax

from bertjax import config as config_lib
from bertjax import errors, evaluate, initial, sharding, storage, train, workdir
from bertjax.checkpoints import manager
from bertjax.config import stages
from bertjax.data import pipeline
from bertjax.errors import NonFiniteError, Preempted
from bertjax.metrics import flops as metrics_flops
from bertjax.metrics import goodput, progress, writer
from bertjax.processes import distributed, lock, watchdog


def pretrain(config: config_lib.Config, directory: Path):
    """Trains `config` in `directory` to its last step, from wherever that directory stands.

    Raises:
      Preempted: a signal asked to stop; the state is saved and the same call goes on.
      NonFiniteError: too many updates in a row were not finite.
      UsageError, DataError, StorageError: as the config, the corpus, the checkpoints and the
        disk give reason to.
    """
    train.check(config, sharding.make_mesh(config.mesh))  # before hours of preparation
    one = lock.Lock(directory, "pretrain", _leave) if jax.process_index() == 0 else None
    with one or contextlib.nullcontext():  # one process of this run answers for all of them
        if one and not storage.is_directory(storage.path(directory) / "store"):
            initial.check(config, directory)
        # Before the signals are caught: there is nothing to save yet, so they may just end it.
        # (With several processes JAX keeps SIGTERM until the first step.)
        config, tokenizer = workdir.open_corpus(config, directory, build=True)
        with distributed.StopSignals() as signals:
            Trainer(config, tokenizer, directory, signals).run()


# Ends this process, to be started again, with one line that says why.
_leave = functools.partial(distributed.leave, errors.RESTART)

# Seconds between two lines of the ledger in metrics.jsonl: what a kill may leave out of it.
_ACCOUNT_SECONDS = 60.0


class Trainer:
    """One run of the loop over `directory`: restores or starts, trains, leaves a checkpoint.

    The metrics of a step are read while the device runs the next one. Between steps the order is
    metrics, checkpoint, evaluation: a checkpoint never misses a line before it, and a run that
    resumes at a step where an evaluation is due makes that evaluation again.
    """

    def __init__(self, config: config_lib.Config, tokenizer, directory: Path, signals):
        self.config, self.tokenizer, self.directory = config, tokenizer, directory
        self.signals, self.stopping = signals, signals.requested is not None
        self.mesh = sharding.make_mesh(config.mesh)
        sharding.check(config, self.mesh)  # with the vocabulary's size, unknown to the check before
        self.skips = 0  # non-finite updates in a row
        self.evaluations = {}  # phase index -> Evaluation
        self.goodput = goodput.Goodput()

    def run(self):
        """Trains to the last step; raises as `pretrain`."""
        config = self.config
        with contextlib.ExitStack() as stack:
            directory = self.directory / "checkpoints"
            self.checkpoints = stack.enter_context(
                contextlib.closing(manager.Checkpoints(directory, config.checkpoints.keep))
            )
            step, state = self._start()
            log = self.directory / "metrics.jsonl"
            if jax.process_index() == 0 and storage.exists(log):
                self.goodput.go_on(writer.read(log), step)
            self.writer = stack.enter_context(
                contextlib.closing(
                    writer.MetricsWriter(
                        self.directory, step, tensorboard=config.logging.tensorboard
                    )
                )
            )
            self.progress = stack.enter_context(progress.Progress(config.num_steps, step))
            self.watchdog = stack.enter_context(watchdog.Watchdog(config.watchdog_seconds, _leave))
            self._account(step)  # its lines from here on were dropped just now
            self.goodput.begin_steps()
            self._between_steps(step, state)
            for stage in stages.of(config):
                if step < stage.end_step:
                    state = self._run_stage(stage, step, state)
                    step = stage.end_step
            with self._patiently("save"):
                self.checkpoints.wait()
            self._end(step)

    @contextlib.contextmanager
    def _compiling(self):
        with self.goodput.spend("compile"), self.watchdog.off():
            yield

    @contextlib.contextmanager
    def _patiently(self, category):
        with self.goodput.spend(category), self.watchdog.patient():
            yield

    def _account(self, step):
        """Writes down where the time went up to now."""
        self.writer.write(step, self.goodput.seconds, prefix="goodput")
        self.accounted = time.monotonic()

    def _end(self, step):
        self._account(step)
        _say(self.goodput.summary())

    def _start(self):
        """`(step, state)`: the newest whole checkpoint, or step 0 fresh from the seed."""
        abstract = train.abstract_state(self.config, self.mesh)
        with self.goodput.spend("restore"):
            restored = self.checkpoints.restore(abstract)
        if restored is not None:
            self.config = workdir.resumed(self.config, self.directory)
            _say(stages.resuming(self.config, restored[0], self.directory))
            return restored
        shardings = jax.tree.map(lambda x: x.sharding, abstract)
        state = jax.jit(lambda: train.init_state(self.config), out_shardings=shardings)()
        if self.config.init_from is not None:
            state["params"], missing = initial.load(self.config, self.tokenizer, state["params"])
            random = f"; at random: {', '.join(missing)}" if missing else ""
            _say(f"weights of {self.config.init_from}{random}")
        return 0, state

    def _run_stage(self, stage, start, state):
        with self._patiently("init"):
            corpora = workdir.open_stores(self.config, self.directory, "train")
            batches = pipeline.Batches(corpora, self.tokenizer, self.config, stage)
        # Nothing refuses the config any more, and a step of it is due.
        for change in workdir.write_config(self.config, self.directory):
            _say(f"config changed since the last start: {change}")
        start, prefetch = max(start, stage.first_step), self.config.data.prefetch_batches
        rows = sharding.local_rows(self.mesh, stage.phase.batch_size)
        reader = pipeline.iterate(
            batches, start - stage.first_step, stage.steps, rows=rows, prefetch=prefetch
        )
        train_step, pending = None, None
        with contextlib.closing(reader):
            for step in range(start, stage.end_step):
                with self.goodput.spend("data"):
                    batch = sharding.to_global(self.mesh, next(reader), stage.phase.batch_size)
                if train_step is None:
                    train_step = self._compile(stage, batches, step, state, batch)
                    self.speed = self._clock(stage.phase, step)
                self._profile(step)
                state, values = train_step(state, batch)
                if pending:
                    self._report(*pending, stage)
                pending = step + 1, values
                self.stopping = self.signals.should_stop()
                if self._must_pause(step + 1):
                    self._report(*pending, stage)
                    pending = None
                    self._between_steps(step + 1, state)
                    self.speed.restart(step + 1)
        if pending:
            self._report(*pending, stage)
        return state

    def _compile(self, stage, batches, step, state, batch):
        # It may take longer than a machine has left: what was learned is saved first, and step 0
        # as a whole fallback. That first save connects devices, as slowly as a first step.
        watched = self.watchdog.patient if step else self.watchdog.off
        with self.goodput.spend("save"), watched():
            self._save(step, state)
        started, phase = time.monotonic(), stage.phase
        mask = train.masker(self.config, self.tokenizer, stage)
        train_step = train.compile_step(self.config, self.mesh, mask, stage.micro_batches)
        with self._compiling():
            compiled = train_step.lower(state, batch).compile()
            distributed.wait_for_all(f"step {step} is compiled")  # hosts differ in speed
        kernel = train.attention_kernel(self.config, self.mesh, phase.sequence_length)
        _say(
            f"phase {stage.phase_index + 1}: {stage.steps:,} steps of {phase.batch_size} x "
            f"{phase.sequence_length} on {self.mesh.size} {jax.devices()[0].device_kind} "
            f"({dict(self.mesh.shape)}), {kernel} attention, "
            f"compiled in {time.monotonic() - started:.0f} s; {batches.describe()}"
        )
        self._account(step)
        self.stopping = self.signals.should_stop()
        if self.stopping:
            self._stop(step, state)
        return compiled

    def _clock(self, phase, step):
        length, predictions = phase.sequence_length, phase.max_predictions_per_seq
        flops = metrics_flops.model_flops_per_step(
            self.config.model, phase.batch_size, length, predictions
        )
        peak = self.config.logging.peak_flops_per_device or metrics_flops.peak_flops(
            jax.devices()[0]
        )
        return metrics_flops.Speed(
            step, phase.batch_size * length, flops, peak and peak * self.mesh.size
        )

    def _report(self, step, values, stage):
        values = {name: float(value) for name, value in jax.device_get(values).items()}
        self.watchdog.beat()
        if step % self.config.logging.every_steps == 0 or step == self.config.num_steps:
            rated = values | self.speed.rates(step)
            self.writer.write(step, rated)
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

    def _due(self, step, every):
        return step > 0 and every > 0 and (step % every == 0 or step == self.config.num_steps)

    def _must_pause(self, step):
        every = self.config.checkpoints.every_steps, self.config.evaluation.every_steps
        return self.stopping or any(self._due(step, n) for n in every)

    def _between_steps(self, step, state):
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
            with self.goodput.spend("evaluation"):
                self._evaluate(step, state)

    def _save(self, step, state):
        self.writer.save()  # a run that resumes here does not write these lines again
        self.checkpoints.save(step, state)

    def _stop(self, step, state):
        with self._patiently("save"):
            self._save(step, state)
            self.checkpoints.wait()
        self._end(step)
        raise Preempted(f"{self.signals.requested}: saved step {step:,}; run it again to go on")

    def _evaluate(self, step, state):
        stage = stages.at(self.config, step - 1)
        index = stage.phase_index
        if index not in self.evaluations:
            heldout = workdir.open_stores(self.config, self.directory, "heldout")
            needed = 2 if self.config.objective.nsp else 1
            fewest = min(corpus.num_documents for corpus in heldout)
            if fewest < needed:
                _say(
                    f"no evaluation: {fewest} held-out documents, {needed} needed; "
                    "raise config.data.heldout_fraction and prepare again"
                )
                return
            with self.watchdog.patient():
                self.evaluations[index] = evaluate.Evaluation(
                    self.config, self.mesh, heldout, self.tokenizer, stage
                )

        def on_batch():
            self.watchdog.alive()
            if self.signals.should_stop():
                self._stop(step, state)

        with self._compiling():
            self.evaluations[index].compile(state["params"])
        values = self.evaluations[index](state["params"], on_batch)
        self.writer.write(step, values, prefix="eval")
        _say(f"held out, step {step:,}: " + "  ".join(f"{k} {v:.4f}" for k, v in values.items()))

    def _profile(self, step):
        start, steps = self.config.logging.profile_start, self.config.logging.profile_steps
        if start and step == start:
            # The profiler writes to disks only.
            remote = storage.is_remote(self.directory)
            jax.profiler.start_trace("profile" if remote else str(self.directory / "tensorboard"))
        if start and step == start + steps:
            jax.profiler.stop_trace()


def _say(line: str):
    if jax.process_index() == 0:
        print(line, flush=True)
