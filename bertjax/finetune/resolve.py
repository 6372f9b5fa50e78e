"""Fills in the open fields of a fine-tuning config: model, labels, steps."""

import dataclasses
from collections.abc import Collection

import jax

from bertjax import config as config_lib
from bertjax.config import checks, tree
from bertjax.config.model_fields import Model
from bertjax.errors import UsageError
from bertjax.finetune import batches
from bertjax.finetune.job import Finetuning
from bertjax.finetune.rows import Settings
from bertjax.finetune.tasks import KINDS, TASKS, Task
from bertjax.models import compute_type

# Model fields that the run decides, whatever weights it starts from.
_RUN_FIELDS = (
    *("dtype", "attention", "layer_norm", "remat", "scan_unroll", "initializer_range"),
    *("hidden_dropout_prob", "attention_probs_dropout_prob"),
)


def task_of(config: config_lib.Config, kind: str, labels: tuple[str, ...]) -> Task:
    """The task's record in the table; for the user's own data, a new record of its kind."""
    if config.task.name is not None:
        return TASKS[config.task.name]
    return Task(kind, kind, kind, labels, KINDS[kind].metrics, KINDS[kind].metrics)


def require_metric(config: config_lib.Config, task: Task) -> None:
    """Raises UsageError if `finetune.metric` is not a figure of the task."""
    known, asked = (*task.metrics, "loss"), config.finetune.metric
    if asked not in (None, *known):
        raise UsageError(
            f"config.finetune.metric={asked!r}: {config.task.name or task.kind} has "
            f"{', '.join(known)}"
        )


def require_split(config: config_lib.Config, splits: Collection[str]) -> None:
    """Raises UsageError if `finetune.metric` needs a dev split that is missing."""
    if config.finetune.metric == "mismatched_accuracy" and "dev_mismatched" not in splits:
        raise UsageError(
            "config.finetune.metric='mismatched_accuracy': there is no dev_mismatched file; unset it"
        )


def null_answers(config: config_lib.Config) -> bool:
    """Whether a question may have no answer."""
    asked = config.task.null_answers
    return config.task.name == "squad2" if asked is None else asked


def settings_of(
    config: config_lib.Config, kind: str, labels: tuple[str, ...], longest: int
) -> Settings:
    """The settings that encode examples as rows of at most `longest` tokens.

    Args:
      config: a config whose model is resolved.
    """
    return Settings(
        kind,
        longest,
        labels,
        config.model.type_vocab_size,
        config.task.stride,
        config.task.question_length,
        null_answers(config),
    )


def model_of(
    config: config_lib.Config, source: Model | None, kind: str, labels: tuple[str, ...]
) -> Model:
    """The model to fine-tune: the source's encoder with the task's head.

    Args:
      source: the model of the starting weights; None takes the config's sizes.

    Raises:
      UsageError: the config asks for a head or labels other than the task's, or for an encoder
        other than the source's.
    """
    head = KINDS[kind].head
    if config.model.head not in ("none", head):
        raise UsageError(
            f"config.model.head={config.model.head!r}: {config.task.name or kind} needs {head}; "
            "leave it out"
        )
    base = source or config.model
    own = {name: getattr(config.model, name) for name in _RUN_FIELDS}
    for field in dataclasses.fields(Model) if source else ():
        asked, theirs = getattr(config.model, field.name), getattr(source, field.name)
        is_own = field.name in (*_RUN_FIELDS, "head", "num_labels", "label_names", "problem_type")
        is_open = field.name == "vocab_size" and not asked  # 0 takes the tokenizer's size
        if not (is_own or is_open) and asked not in (field.default, theirs):
            raise UsageError(
                f"config.model.{field.name}={asked!r}: config.init_from={config.init_from} has "
                f"{theirs!r}; leave it out"
            )
    given = config.model.label_names
    if given and sorted(given) != sorted(labels):
        raise UsageError(
            f"config.model.label_names={given}: {config.task.name or 'the data'} has {labels}"
        )
    problem = "regression" if kind == "regression" else None
    if labels:
        problem = "single_label_classification" if kind in ("single", "pair") else None
    model = dataclasses.replace(
        base,
        **own,
        head=head,
        num_labels=len(labels) or (1 if kind == "regression" else 2),
        label_names=labels,
        problem_type=problem,
    )
    return compute_type.resolved(model, jax.devices()[0])


def config_of(config: config_lib.Config, model: Model, num_rows: int) -> config_lib.Config:
    """The config with its number of steps, and with the losses of pretraining switched off.

    An epoch has `num_rows / batch_size` steps, unless `config.phases` gives the steps.
    `evaluation.every_steps=0` evaluates `finetune.evaluations_per_epoch` times an epoch.

    Raises:
      UsageError: see `checks.check`; or there are several phases, or a phase has a ramp or its own
        schedule.
    """
    checks.check_fields(tree.walk(config))  # a grid's values have not been checked before
    if len(config.phases) != 1:
        raise UsageError(f"config.phases={tuple(config.phases)}: fine-tuning has one phase")
    [(name, phase)] = config.phases.items()
    for field in ("learning_rate", "warmup_steps", "ramp_from", "ramp_steps"):
        if getattr(phase, field):
            instead = f"config.optimizer.{field}" if "ramp" not in field else "one batch size"
            raise UsageError(
                f"config.phases.{name}.{field}={getattr(phase, field)}: fine-tuning takes {instead}"
            )
    if phase.steps and config.grid.epochs:
        raise UsageError(
            f"config.grid.epochs={config.grid.epochs}: config.phases.{name}.steps={phase.steps} "
            "decides the steps; set it to 0"
        )
    how = config.finetune
    steps = phase.steps or batches.num_steps(num_rows, phase.batch_size, how.epochs)
    each = phase.batch_size * how.evaluations_per_epoch
    every = config.evaluation.every_steps or -(-num_rows // each)
    saves = config.checkpoints
    if how.select == "best" or how.patience:  # the weights of every evaluation may be the best
        saves = dataclasses.replace(saves, every_steps=every)
    warmup = config.optimizer.warmup_steps or int(how.warmup_fraction * steps)
    resolved = dataclasses.replace(
        config,
        model=model,
        phases={name: dataclasses.replace(phase, steps=steps, max_predictions_per_seq=1)},
        objective=dataclasses.replace(config.objective, mlm=0.0, nsp=0.0),
        optimizer=dataclasses.replace(config.optimizer, warmup_steps=warmup),
        evaluation=dataclasses.replace(config.evaluation, every_steps=every),
        checkpoints=saves,
    )
    checks.check(resolved)
    return resolved


def job_of(job: Finetuning, config: config_lib.Config) -> Finetuning:
    """The job with a new config, for another learning rate, batch size or seed."""
    assert job.train is not None
    config = dataclasses.replace(
        config, tokenizer=job.config.tokenizer, init_from=job.config.init_from
    )
    resolved = config_of(config, job.config.model, len(job.train.rows))
    return dataclasses.replace(job, config=resolved)
