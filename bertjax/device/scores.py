"""Scores a program on a labeled file, for a given batch size.

int8 activations have one scale for the whole batch, so other rows and padding change a row's logits
(`convert.onnx.write_int8`). The score is therefore taken twice: with one row at a time without
padding, and with 32 rows padded to the longest of them.
"""

import dataclasses
from typing import Any

import numpy as np

from bertjax.convert.pretrained import Hints
from bertjax.device.programs import TOKENS, Batch, Program
from bertjax.errors import DataError, UsageError
from bertjax.finetune import batches, predict
from bertjax.finetune.prediction_records import Figures
from bertjax.finetune.readers import inputs
from bertjax.finetune.readers.lines import Bad
from bertjax.finetune.scoring import scores


@dataclasses.dataclass(frozen=True)
class Dev:
    """A labeled file, read for the task of a model.

    Attributes:
      model: the fine-tuned model, which encodes and scores rows; it makes no predictions here.
      examples: with their labels.
      notes: what was left out.
    """

    model: predict.Model
    examples: list
    notes: list[str]


def read(source: str, path: str, hints: Hints) -> Dev:
    """Reads the labeled file `path` for the task of the model at `source`.

    Raises:
      UsageError, DataError: as `predict.open` and `inputs.read`; or no row can be read.
    """
    model, _ = predict.open(source, hints)
    try:
        found = list(inputs.read(path, model.reading))
    except UsageError as error:  # its message names the flag of `predict`
        raise UsageError(str(error).replace("--input=", "--dev=", 1)) from None
    examples = [example for example in found if not isinstance(example, Bad)]
    if not examples:
        raise DataError(f"{path}: none of its {len(found):,} rows can be read")
    bad = len(found) - len(examples)
    return Dev(model, examples, [f"{path}: {bad:,} bad rows are not scored"] if bad else [])


def require_same_task(program: Program, dev: Dev) -> None:
    """Raises UsageError if a program's outputs or labels differ from the task's."""
    model = dev.model.job.config.model
    wanted = tuple(output.name for output in model.head_record.outputs)
    if program.outputs != wanted:
        raise UsageError(
            f"{program.place}: gives {', '.join(program.outputs)}; the task of --dev needs "
            f"{', '.join(wanted)}: export the fine-tuned model"
        )
    if program.labels and model.label_names and program.labels != model.label_names:
        raise UsageError(
            f"{program.place}: its labels are {', '.join(program.labels)}; those of --source are "
            f"{', '.join(model.label_names)}"
        )


def figures(program: Program, dev: Dev, batch_size: int) -> dict[str, Any]:
    """The figures of the task, its main metrics first; None for an undefined figure.

    Rows keep the file's order. A batch is padded to its longest row, or to the model's longest if
    every shape costs a compilation.

    Raises:
      DataError: no example has a label, or the outputs are not finite.
    """
    job = dev.model.job
    examples, rows = dev.model.encoded(dev.examples)
    padded = batches.HeldoutBatches(
        rows,
        batch_size=batch_size,
        longest=dev.model.longest,
        pad_id=job.tokenizer.pad_id,
        buckets=0,
    )
    gathered: dict[str, list] = {"example_ids": [], "logits": []}
    for step in range(padded.num_batches):
        batch = padded.batch(step)
        tokens = {name: batch[name] for name in TOKENS}
        gathered["logits"].append(_logits(program, tokens))
        gathered["example_ids"].append(batch["example_ids"])
    found = Figures(job.task, dev.model.reading, job.null_answers)
    found.add(dev.examples, dev.model.predicted(examples, rows, gathered))
    values = found.values
    if not values:
        raise DataError(f"{program.place}: no row of --dev has a label that the model knows")
    first = [name for name in job.task.metrics if name in values]
    rest = [name for name in values if name not in first]
    return scores.as_json({name: values[name] for name in (*first, *rest)})


def _logits(program: Program, tokens: Batch) -> np.ndarray:
    """The logits of a batch, as `Finetuning.apply` shapes them."""
    if not program.compiles:
        longest = int(tokens["attention_mask"].sum(-1).max())
        tokens = {name: array[..., :longest] for name, array in tokens.items()}
    found: dict[str, Any] = program.run(tokens)
    if "start_logits" in found:
        return np.stack([found["start_logits"], found["end_logits"]], -1)
    return found["logits"]
