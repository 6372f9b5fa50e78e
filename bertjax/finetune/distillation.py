"""The teacher of a fine-tuning: a frozen model that was fine-tuned on the same task."""

import dataclasses

from bertjax import config as config_lib
from bertjax import evaluate, initial, sharding
from bertjax.config import stages
from bertjax.convert.pretrained import Pretrained
from bertjax.data.tokenizer_base import Tokenizer
from bertjax.distill import teacher
from bertjax.distill.teacher import Teacher
from bertjax.errors import NothingHeldOut, UsageError
from bertjax.finetune import label_order
from bertjax.finetune.job import Finetuning
from bertjax.finetune.tasks import KINDS
from bertjax.initial import TEACHER


def read(config: config_lib.Config) -> Pretrained | None:
    """The teacher that the config names; None if the config names none and needs none.

    Raises:
      UsageError: see `teacher.read`; or the objective has no loss, or a loss that only pretraining
        has.
      DataError: see `teacher.read`.
    """
    weights = config.objective
    if weights.cosine:
        raise UsageError(
            f"config.objective.cosine={weights.cosine}: fine-tuning compares logits, not hidden "
            "states; set it to 0"
        )
    if config.teacher.layers:
        raise UsageError(
            f"config.teacher.layers={config.teacher.layers}: a pretraining starts its student so; "
            "name the model to fine-tune: config.init_from"
        )
    if not weights.task and not weights.distill:
        raise UsageError(
            f"config.objective.task={weights.task}: with config.objective.distill=0 there is no "
            "loss; set one of them to 1"
        )
    return teacher.read(config)


def fitted(
    config: config_lib.Config,
    source: Pretrained,
    tokenizer: Tokenizer,
    kind: str,
    labels: tuple[str, ...],
) -> tuple[Pretrained, list[str]]:
    """The teacher with its logits in the order of the student's labels, and lines to log.

    For regression, the logits are also converted to the student's units: a model's score is its
    logit times `task.target_scale`. The logit of a teacher without a known scale is taken as the
    score itself, because `transformers` trains that way.

    Args:
      config: a config whose model is the student's, resolved.
      tokenizer: the tokenizer that encoded the rows.

    Raises:
      UsageError: the teacher was trained for something else, lacks a label, has another
        vocabulary, or has too few positions.
    """
    _require_fit(config, source, tokenizer, kind)
    lines = [f"teacher: {note}" for note in source.notes]
    rows, factor = list(range(source.config.model.num_labels)), 1.0
    if kind == "regression":
        theirs, ours = source.config.task.target_scale, config.task.target_scale
        factor = theirs / ours
        said = "" if source.config.is_finetuning else " (assumed: it names no scale)"
        lines.append(f"teacher: its scores are its logits times {theirs:g}{said}")
    elif labels:
        rows, line = _rows(config, source, labels)
        lines.append(line)
    if source.tokenizer is None:
        lines.append("teacher: has no tokenizer; its vocabulary is assumed to be the model's")
    if not config.objective.distill:
        lines.append("teacher: only compared with the model, as config.objective.distill=0")
    return _with_logits(source, rows, factor, labels), lines


def _require_fit(
    config: config_lib.Config, source: Pretrained, tokenizer: Tokenizer, kind: str
) -> None:
    """Raises UsageError if the teacher's head, outputs, vocabulary or positions do not fit."""
    named = f"config.teacher.init_from={initial.named(config, TEACHER)}"
    theirs, task = source.config.model, config.task.name or kind
    if theirs.head != KINDS[kind].head:
        raise UsageError(
            f"{named}: its head is {theirs.head}, {task} needs {KINDS[kind].head}; take a teacher "
            "that was fine-tuned on the task"
        )
    if theirs.problem_type == "multi_label_classification":
        raise UsageError(f"{named}: predicts several labels at once; take one that predicts one")
    one = theirs.problem_type == "regression" or theirs.num_labels == 1
    if theirs.head == "classification" and one != (kind == "regression"):
        given = "numbers" if one else "classes"
        raise UsageError(
            f"{named}: predicts {given}, which {task} cannot use; take another teacher"
        )
    if theirs.vocab_size != config.model.vocab_size:
        raise UsageError(
            f"{named}: has a vocabulary of {theirs.vocab_size:,}, the model one of "
            f"{config.model.vocab_size:,}; take a teacher with the model's"
        )
    if difference := initial.tokenizer_difference(source.tokenizer, tokenizer):
        raise UsageError(f"{named}: {difference}; take a teacher with the model's tokenizer")
    for name, phase in config.phases.items():
        if phase.sequence_length > theirs.max_sequence_length:
            raise UsageError(
                f"{named}: has positions for {theirs.max_sequence_length} tokens; set "
                f"config.phases.{name}.sequence_length={theirs.max_sequence_length} "
                f"(here: {phase.sequence_length})"
            )


def _rows(
    config: config_lib.Config, source: Pretrained, labels: tuple[str, ...]
) -> tuple[list[int], str]:
    """The row of the teacher's classifier for each label, and a line to log.

    Raises:
      UsageError: the teacher lacks a label.
    """
    theirs = source.config.model
    names = theirs.label_names or tuple(f"LABEL_{i}" for i in range(theirs.num_labels))
    rows, line = label_order.reorder(names, labels)
    if missing := [name for name, row in zip(labels, rows, strict=True) if row is None]:
        raise UsageError(
            f"config.teacher.init_from={initial.named(config, TEACHER)}: lacks {', '.join(missing)} "
            f"(it has {', '.join(names)}); take a teacher that was fine-tuned on these labels"
        )
    return [row for row in rows if row is not None], f"teacher: {line}"


def _with_logits(
    source: Pretrained, rows: list[int], factor: float, labels: tuple[str, ...]
) -> Pretrained:
    """The source with only these `rows` of its last layer, scaled by `factor`."""
    theirs = source.config.model
    part = theirs.head_record.parts[-1]
    if part.width != "num_labels":
        return source
    dense = source.params[part.name]["dense"]
    chosen = {"kernel": dense["kernel"][:, rows] * factor, "bias": dense["bias"][rows] * factor}
    config = source.config.with_model(num_labels=len(rows), label_names=labels)
    params = source.params | {part.name: {"dense": chosen}}
    return dataclasses.replace(source, config=config, params=params)


def placed(
    config: config_lib.Config, source: Pretrained, tokenizer: Tokenizer, kind: str
) -> Teacher:
    """Puts the teacher from `fitted` on the devices, for all runs of a config.

    Raises what `teacher.open` raises.
    """
    mesh = sharding.make_mesh(config.mesh)
    return teacher.open(config, source, tokenizer, KINDS[kind].head, mesh)


def figures(job: Finetuning, programs: dict) -> dict[str, float]:
    """The teacher's loss and task metrics on dev; {} if the task has no dev examples.

    Args:
      programs: compiled programs, see `loop.run`.
    """
    assert job.teacher is not None
    config = dataclasses.replace(job.config, model=job.teacher.model)
    own = dataclasses.replace(job, config=config, teacher=None)
    [stage] = stages.of(config)
    try:
        run = evaluate.Evaluation(own, sharding.make_mesh(config.mesh), stage, programs)
    except NothingHeldOut:
        return {}
    found = run(job.teacher.params)
    return {name: found[name] for name in ("loss", *job.task.metrics) if name in found}
