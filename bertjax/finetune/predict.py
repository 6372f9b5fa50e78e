"""Predictions of a fine-tuned model for a file of any size, in its order, a chunk at a time."""

import contextlib
import dataclasses
import functools
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import jax
import numpy as np
from rich import console, progress

from bertjax import config as config_lib
from bertjax import storage
from bertjax.convert import read
from bertjax.convert.pretrained import Hints, Pretrained
from bertjax.errors import DataError, StorageError, UsageError
from bertjax.finetune import batches, encoding, logits, prediction_records, resolve
from bertjax.finetune.examples import Question, Words
from bertjax.finetune.job import Finetuning
from bertjax.finetune.prediction_records import Figures
from bertjax.finetune.readers import inputs, lines
from bertjax.finetune.readers.lines import Bad
from bertjax.finetune.readers.row_examples import Reading
from bertjax.finetune.rows import Rows
from bertjax.finetune.scoring.predictions import Predictions
from bertjax.finetune.tasks import TASKS
from bertjax.models.placement import Unplaced

CHUNK, BATCH = 512, 32  # examples that are read, and rows that are computed, at once
_SHOWN = 20  # bad rows that stderr names


@dataclasses.dataclass(frozen=True)
class Model:
    """A fine-tuned model at work: `predict` takes examples of `reading.kind`.

    Attributes:
      job: computes the logits; it has nothing to train on.
      params: on the device.
      reading: how files become its examples.
      longest: most tokens of a row.
    """

    job: Finetuning
    params: dict
    reading: Reading
    longest: int

    def predict(self, examples: list) -> Predictions:
        """What the model says of examples, in their order; their labels count for nothing.

        Raises:
          UsageError: the rows have no room, as `encoding.encode`.
          DataError: the model's outputs are not finite.
        """
        bare, rows = self.encoded(examples)
        return self.predicted(bare, rows, self._outputs(rows))

    def encoded(self, examples: list) -> tuple[list, Rows]:
        """Examples without their labels, and their rows; raises UsageError as `predict`."""
        config, kind = self.job.config, self.job.task.kind
        settings = resolve.settings_of(config, kind, self.reading.labels, self.longest)
        settings = dataclasses.replace(settings, training=False)
        bare = [_unlabeled(example) for example in examples]
        return bare, encoding.encode(bare, self.job.tokenizer, settings)

    def predicted(self, bare: list, rows: Rows, found: dict[str, list[np.ndarray]]) -> Predictions:
        """What the outputs `found` for `rows` say of examples; raises DataError as `predict`."""
        if not all(np.isfinite(each).all() for each in found["logits"]):
            raise DataError("the model's outputs are not finite: its weights are damaged")
        return self.job.predicted(bare, rows, found)

    def _outputs(self, rows: Rows) -> dict[str, list[np.ndarray]]:
        """As `Finetuning.rows`, of all batches; rows of like length share one."""
        padded = batches.HeldoutBatches(
            rows, batch_size=BATCH, longest=self.longest, pad_id=self.job.tokenizer.pad_id
        )
        found: dict[str, list] = {"example_ids": [], "logits": []}
        for step in range(padded.num_batches):
            batch = padded.batch(step)
            tokens = {name: batch[name] for name in ("input_ids", "token_type_ids")}
            tokens["attention_mask"] = batch["attention_mask"]
            apply = _program(self.job.config.model)
            found["logits"].append(np.asarray(apply(self.params, tokens)))
            found["example_ids"].append(batch["example_ids"])
        return found


@functools.cache
def _program(model: config_lib.Model) -> Callable[[dict, dict], jax.Array]:
    """`(params, batch) -> logits`, as of `logits.of`; compiled once a shape."""
    return jax.jit(functools.partial(logits.of, model, dropout_key=None, placement=Unplaced()))


def open(source: str, hints: Hints = Hints()) -> tuple[Model, tuple[str, ...]]:  # noqa: B008
    """The fine-tuned model at a run's workdir or another source of `convert`, and notes.

    Raises:
      UsageError: it has no head of a task, or `convert.read` refuses it.
      DataError: it has no tokenizer, or `convert.read` refuses it.
    """
    pretrained = read(source, hints)
    return of(pretrained, source), pretrained.notes


def of(pretrained: Pretrained, source: str) -> Model:
    """As `open`, of weights that were read from `source`, which messages name."""
    config = pretrained.config.with_model(attention="auto")  # whatever kernel trained it
    kind = _kind(pretrained, source)
    if pretrained.tokenizer is None:
        raise DataError(f"{source}: has no tokenizer; name its file or folder: --tokenizer=PATH")
    model = config.model
    names = model.label_names
    if model.head_record.has_labels and not names:
        names = tuple(f"LABEL_{number}" for number in range(model.num_labels))
    task = TASKS.get(config.task.name or "")
    if task is None:
        of_kind = "single" if kind == "classification" else kind
        task = resolve.task_of(config, of_kind, names)
    longest = model.max_sequence_length
    if config.is_finetuning:
        [phase, *_] = config.phases.values()
        longest = phase.sequence_length
    nulls = resolve.null_answers(config)
    reading = Reading(kind, config.task, TASKS.get(config.task.name or ""), names, nulls)
    job = Finetuning(config, task, pretrained.tokenizer, None, {}, nulls)
    return Model(job, jax.device_put(pretrained.params), reading, longest)


def _kind(pretrained: Pretrained, source: str) -> str:
    """What the model is for: as its config says, or by its head."""
    config, model = pretrained.config, pretrained.config.model
    if model.head not in ("classification", "multiple_choice", "span", "token"):
        raise UsageError(
            f"{source}: model.head={model.head}: has no head of a task; fine-tune it first "
            "(bertjax finetune)"
        )
    if model.problem_type == "multi_label_classification":
        raise UsageError(f"{source}: predicts several labels at once; bertjax predicts one")
    if config.is_finetuning:
        return TASKS[config.task.name].kind if config.task.name else str(config.task.kind)
    one = model.head == "classification" and model.num_labels == 1
    return "regression" if one or model.problem_type == "regression" else model.head


def _unlabeled(example: Any) -> Any:
    if isinstance(example, Question):
        return example._replace(answers=(), answerable=None)
    if isinstance(example, Words):
        return example._replace(tags=None)
    return example._replace(label=None)


@dataclasses.dataclass
class Counts:
    """How many examples `run` predicted, and how many rows it could not read."""

    predicted: int = 0
    bad: int = 0


def run(model: Model, source: str, output: str | None = None) -> None:
    """Writes a line of JSON for each row of the file `source` ("-": standard input), in its order.

    Args:
      output: a file, which appears when it is whole; None writes to standard output.

    Raises:
      DataError: `source` is missing, empty, lacks a column, or has no row that can be read.
      UsageError: no room in a row; `output` is `source`, or cannot be written from here.
      StorageError: the disk refuses.
    """
    counts, figures = Counts(), Figures(model.job.task, model.reading, model.job.null_answers)
    examples = inputs.read(source, model.reading)
    first = next(examples, None)
    if first is None:
        raise DataError(f"{source}: no rows")
    examples = itertools.chain([first], examples)
    shown = console.Console(stderr=True)
    columns = ("predicted {task.completed:,}", progress.TimeElapsedColumn())
    bar = progress.Progress(*columns, console=shown, transient=True, disable=not _shows(output))
    with _opened(source, output) as file, bar:
        at = bar.add_task("")
        while some := list(itertools.islice(examples, CHUNK)):
            for record in _predicted(model, some, counts, figures):
                text = json.dumps(record, ensure_ascii=False, allow_nan=False)
                file.write(f"{text}\n")
            bar.update(at, advance=len(some))
        if not counts.predicted:
            raise DataError(f"{source}: none of its {counts.bad:,} rows can be read")
    for line in _summary(source, counts, figures):
        print(line, file=sys.stderr)


def _shows(output: str | None) -> bool:
    """Whether a bar is in nobody's way: on a terminal to which no predictions go."""
    return sys.stderr.isatty() and (output is not None or not sys.stdout.isatty())


def _predicted(
    model: Model, some: list, counts: Counts, figures: Figures
) -> Iterator[dict[str, Any]]:
    """What is written of a chunk of examples and bad rows."""
    good = [example for example in some if not isinstance(example, Bad)]
    found: Iterable[dict] = ()
    if good:
        predictions = model.predict(good)
        figures.add(good, predictions)
        found = prediction_records.records(good, predictions, model.reading)
    records = iter(found)
    for each in some:
        if isinstance(each, Bad):
            counts.bad += 1
            if counts.bad <= _SHOWN:
                print(each.reason, file=sys.stderr)
            yield {"id": each.id, "error": each.reason}
        else:
            counts.predicted += 1
            yield next(records)


def _summary(source: str, counts: Counts, figures: Figures) -> list[str]:
    said = [f"{counts.predicted:,} predicted"]
    if counts.bad:
        said.append(f"{counts.bad:,} bad rows, each with its error in the output")
    return [f"{source}: {', '.join(said)}", *figures.lines()]


@contextlib.contextmanager
def _opened(source: str, output: str | None) -> Iterator[IO[str]]:
    """Where predictions go: standard output, or a file that is moved to its place at the end."""
    if output is None:
        yield sys.stdout
        return
    if storage.is_remote(output):
        raise UsageError(f"--output={output}: write to a disk, and copy the file from there")
    target = Path(output)
    local = source != lines.STDIN and not storage.is_remote(source)
    if local and target.exists() and os.path.samefile(source, target):
        raise UsageError(f"--output={output}: is the input; name another file")
    if target.is_dir():
        raise UsageError(f"--output={output}: is a folder; name a file")
    scratch = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with scratch.open("w", encoding="utf-8") as file:
            yield file
        os.replace(scratch, target)
    except OSError as error:
        raise StorageError(f"{output}: {error.strerror or error}; nothing was written") from None
    finally:
        scratch.unlink(missing_ok=True)
