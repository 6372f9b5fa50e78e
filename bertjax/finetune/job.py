"""Fine-tuning as a job: encoded examples, a head's logits, the loss of the task."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bertjax import config as config_lib
from bertjax import models, objectives, optimizer
from bertjax.config.stages import Stage
from bertjax.convert.pretrained import Pretrained
from bertjax.data.tokenizer_base import Tokenizer
from bertjax.distill.teacher import Teacher
from bertjax.errors import NothingHeldOut
from bertjax.finetune import batches, logits, losses, starts
from bertjax.finetune.rows import Rows
from bertjax.finetune.scoring import degenerate, evaluation, predictions, scores
from bertjax.finetune.tasks import Task
from bertjax.job import Batch, Terms, Verdict
from bertjax.metrics import flops
from bertjax.models.placement import Placement


@dataclasses.dataclass(frozen=True)
class Split:
    """The examples of a split, and the rows encoded from them."""

    examples: list
    rows: Rows


@dataclasses.dataclass(frozen=True)
class Finetuning:
    """The job (`job.Job`) of one run: one seed, learning rate, batch size and number of epochs.

    Attributes:
      config: the resolved config, from `resolve.config_of`.
      task: the record of the task.
      tokenizer: the tokenizer that belongs to the starting weights.
      train: the training split; None if the job only evaluates or predicts.
      heldout_splits: the evaluation splits by name, `dev` first.
      null_answers: whether a question may have no answer.
      read: reads the starting weights; None starts from random weights.
      others: the examples of all other splits by name: `test` and MNLI's `ax`.
      teacher: a model to learn from beside the labels. Its logits have the order and units of the
        student's logits (`distillation.fitted`).
    """

    config: config_lib.Config
    task: Task
    tokenizer: Tokenizer
    train: Split | None
    heldout_splits: dict[str, Split]
    null_answers: bool = False
    read: Callable[[], Pretrained] | None = None
    others: dict[str, list] = dataclasses.field(default_factory=dict)
    teacher: Teacher | None = None

    @property
    def frozen(self) -> dict:
        """The arguments that let all runs of a grid share one compiled program; teacher weights."""
        opt, steps = self.config.optimizer, self.config.num_steps
        teacher = {"teacher": self.teacher.params} if self.teacher else {}
        return teacher | {
            "seed": np.uint32(self.config.seed),
            "learning_rate": np.float32(opt.learning_rate),
            "warmup_steps": np.int32(opt.warmup_steps),
            "num_steps": np.int32(steps),
        }

    @property
    def identity(self) -> dict[str, str]:
        return {"teacher": self.teacher.sha256} if self.teacher else {}

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of the rows of every split; a restart compares them to detect other examples."""
        splits = {"train": self.train, **self.heldout_splits}
        return {name: split.rows.sha256 for name, split in splits.items() if split is not None}

    @property
    def program(self) -> str:
        [phase] = self.config.phases.values()
        c = self.config
        opt = dataclasses.replace(c.optimizer, learning_rate=0.0, warmup_steps=0)
        model = dataclasses.replace(c.model, label_names=())
        task = self.task.kind, c.task.span_loss, c.task.target_scale, phase.micro_batch_size
        teacher = self.teacher and dataclasses.replace(self.teacher.model, label_names=())
        return repr((model, opt, c.mesh, task, c.objective, teacher, c.teacher.temperature))

    def settings(self, frozen: dict) -> optimizer.Settings:
        schedule = optimizer.warmup_and_decay(
            self.config.optimizer,
            frozen["learning_rate"],
            frozen["warmup_steps"],
            frozen["num_steps"],
        )
        return optimizer.Settings(frozen["seed"], schedule)

    def init(self, key: jax.Array) -> dict:
        return models.init(self.config.model, key)

    def start(self, params: dict) -> tuple[dict, list[str]]:
        """See `starts.start`, also for the errors."""
        return starts.start(self.config, self.read and self.read(), params)

    def batches(self, stage: Stage) -> batches.Batches:
        how, phase = self.config.finetune, stage.phase
        assert self.train is not None
        return batches.Batches(
            self.train.rows,
            batch_size=phase.batch_size,
            longest=phase.sequence_length,
            pad_id=self.tokenizer.pad_id,
            seed=self.config.seed,
            shuffle=how.shuffle,
            group_lengths=how.group_lengths,
            buckets=how.buckets,
        )

    def heldout(self, stage: Stage) -> "HeldoutBatches":
        if not self.heldout_splits:
            raise NothingHeldOut("the task has no dev examples")
        return HeldoutBatches(self, stage)

    def shapes(self, stage: Stage) -> dict[str, tuple[int, ...]]:
        choices = self.train.rows.choices if self.train else 1
        phase = stage.phase
        return batches.batch_shapes(
            self.task.kind, phase.batch_size, phase.sequence_length, choices
        )

    def prepare(self, stage: Stage, *, heldout: bool = False) -> Callable[[Batch], Batch]:
        return lambda batch: batch

    def targets(self, frozen: dict, batch: Batch, placement: Placement) -> Batch:
        """The batch; with a teacher, also `teacher_logits`, which have no gradient."""
        if self.teacher is None:
            return batch
        model, params = self.teacher.model, frozen["teacher"]
        found = logits.of(model, params, batch, dropout_key=None, placement=placement)
        return batch | {"teacher_logits": jax.lax.stop_gradient(found)}

    def apply(
        self, params: dict, batch: Batch, *, dropout_key: jax.Array | None, placement: Placement
    ) -> dict:
        """`logits`, see `logits.of`."""
        model = self.config.model
        found = logits.of(model, params, batch, dropout_key=dropout_key, placement=placement)
        return {"logits": found}

    def weights(self, batch: Batch) -> dict[str, Any]:
        """The number of real examples for each sum; for `token`, the number of labeled words."""
        names = ["task_loss"] if self.task.kind in ("regression", "span") else _CLASSIFIED
        found = dict.fromkeys(names, jnp.sum(losses.labeled(batch, self.task.kind)))
        if self.teacher:
            names = ["distill_loss"] if self.task.kind == "regression" else _TAUGHT
            found |= dict.fromkeys(names, jnp.sum(losses.compared(batch, self.task.kind)))
        return found

    def sums(self, outputs: dict, batch: Batch) -> dict[str, Any]:
        """The sums of `losses.hard`; with a teacher, also those of `losses.soft`."""
        how, kind, found = self.config.task, self.task.kind, outputs["logits"]
        sums = losses.hard(how, kind, found, batch)
        if self.teacher:
            theirs, temperature = batch["teacher_logits"], self.config.teacher.temperature
            sums |= losses.soft(how, kind, temperature, found, theirs, batch)
        return sums

    def rows(self, outputs: dict, batch: Batch) -> dict:
        named = {name: batch[name] for name in ("split", "example_ids")}
        return named | {"logits": outputs["logits"]}

    def figures(self, totals: Terms, rows: dict[str, list[np.ndarray]]) -> dict[str, float]:
        """The mean loss, and the `evaluation.figures` of every split.

        With a teacher, also the means of the sums of `losses.soft`.
        """
        means = {name: float(value) for name, value in objectives.means(totals).items()}
        result = {"loss": means["task_loss"]}
        result |= {name: means[name] for name in _TAUGHT if name in means}
        for name, split, found in self.by_split(rows):
            labels = self.config.model.label_names
            own = evaluation.figures(self.task, labels, split.examples, found, self.null_answers)
            own |= degenerate.constant(found, split.examples, labels)
            prefix = name.removeprefix("dev").lstrip("_")
            result |= {f"{prefix}_{k}" if prefix else k: v for k, v in own.items()}
        return result

    def by_split(
        self, rows: dict[str, list[np.ndarray]]
    ) -> Iterator[tuple[str, Split, predictions.Predictions]]:
        """The predictions for every held-out split, from the output of `rows` for all batches."""
        for number, (name, split) in enumerate(self.heldout_splits.items()):
            yield name, split, self.predicted(split.examples, split.rows, _of_split(rows, number))

    def predicted(
        self, examples: list, encoded: Rows, rows: dict[str, list[np.ndarray]]
    ) -> predictions.Predictions:
        """The predictions for examples, from the output of `rows` for their batches."""
        return predictions.of(encoded, examples, rows, self.config.task, self.null_answers)

    def degenerate(self, figures: dict[str, float], last: dict[str, float]) -> str | bool:
        """The reason why a run learned nothing, or False.

        Args:
          figures: the evaluation's.
          last: means over the last training steps.
        """
        choices = self.config.model.num_labels if self.task.kind in ("single", "pair") else None
        if self.task.kind == "multiple_choice" and self.train:
            choices = self.train.rows.choices
        return degenerate.reason(figures, last, self.task.metrics, choices)

    @property
    def metric(self) -> str:
        """The figure that decides which weights and which runs are best."""
        return self.config.finetune.metric or self.task.metrics[0]

    def judge(self, evaluations: dict[int, dict[str, float]]) -> Verdict:
        """The step with the best metric so far, and whether patience has run out."""
        how, best, held = self.config.finetune, None, math.nan
        for step in sorted(evaluations):
            value = evaluations[step].get(self.metric, float("nan"))
            if best is None or scores.better(self.metric, value, held):
                best, held = step, value
        since = sum(step > (best or 0) for step in evaluations)
        return Verdict(best, stop=0 < how.patience <= since)

    def flops(self, stage: Stage) -> int:
        phase = stage.phase
        choices = self.train.rows.choices if self.train else 1
        size = phase.batch_size, phase.sequence_length, 1
        needed = flops.model_flops_per_step(self.config.model, *size)
        if self.teacher:  # a teacher runs the forward pass only, a third of a step
            needed += flops.model_flops_per_step(self.teacher.model, *size) // 3
        return choices * needed


_CLASSIFIED = ("task_loss", "task_accuracy")
_TAUGHT = ("distill_loss", "agreement")


class HeldoutBatches:
    """The batches of all held-out splits in turn; `split` [B] is the number of each row's split."""

    def __init__(self, job: Finetuning, stage: Stage) -> None:
        self.batch_size = job.config.evaluation.batch_size
        self._parts = [
            batches.HeldoutBatches(
                split.rows,
                batch_size=self.batch_size,
                longest=stage.phase.sequence_length,
                pad_id=job.tokenizer.pad_id,
                buckets=job.config.finetune.buckets,
            )
            for split in job.heldout_splits.values()
        ]
        self._places = [(n, s) for n, p in enumerate(self._parts) for s in range(p.num_batches)]
        self.num_batches = len(self._places)

    def batch(self, step: int, rows: slice | np.ndarray = slice(None)) -> dict[str, np.ndarray]:
        number, own = self._places[step]
        batch = self._parts[number].batch(own, rows)
        return batch | {"split": np.full_like(batch["example_ids"], number)}


def _of_split(rows: dict[str, list[np.ndarray]], number: int) -> dict[str, list[np.ndarray]]:
    """The gathered rows, with the rows of other splits marked as padding."""
    numbered = zip(rows["split"], rows["example_ids"], strict=True)
    return rows | {"example_ids": [np.where(s == number, i, -1) for s, i in numbered]}
