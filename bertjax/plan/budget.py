"""Totals of a whole recipe before it runs: data, time and checkpoints."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bertjax import config as config_lib
from bertjax import pretraining, storage, train
from bertjax.config import stages
from bertjax.distill import student, teacher
from bertjax.job import Job
from bertjax.pretraining import Pretraining


@dataclasses.dataclass(frozen=True)
class AnyTokenizer:
    """Stands in for a tokenizer that is not available, with tables of the same sizes.

    Only the values of constants differ in the compiled masking program.
    """

    vocab_size: int
    special_ids: tuple[int, ...] = (0, 1, 2, 3, 4)
    marker_ids: tuple[int, ...] = ()
    cls_id: int = 2
    sep_id: int = 3
    mask_id: int = 4

    def word_starts(self) -> np.ndarray:
        """bool [V]."""
        return np.arange(self.vocab_size) % 3 != 0


def corpus(
    config: config_lib.Config, directory: Path | None
) -> tuple[Pretraining, list[int] | None]:
    """`(job, rows)`: the job of a config with its vocabulary size filled in.

    A prepared workdir gives the tokenizer, and the rows of an epoch for every phase
    (`[number of phases]`). Otherwise the tokenizer is a stand-in, and `rows` is None.

    Raises:
      DataError, UsageError: as `pretraining.open`.
    """
    if directory is None or not storage.is_directory(directory / "store"):
        source, taught = teacher.read(config), None
        trained = source.config.model.vocab_size if source else config.tokenizer.vocab_size
        size = config.model.vocab_size or trained
        stand_in: Any = AnyTokenizer(size)
        config = config.with_model(vocab_size=size)
        if source is not None:
            student.check(config, source)
            taught = teacher.abstract(config, source, teacher.PRETRAINING)
        return Pretraining(config, stand_in, teacher=taught), None
    job = pretraining.open(config, directory, build=False, abstract=True)
    first = [stage for stage in stages.of(job.config) if stage.first_row == 0]
    return job, [job.batches(stage).num_rows for stage in first]


def totals(job: Job, reports: list[dict], rows: list[int] | None) -> dict:
    """Data, time and checkpoints of a whole run.

    Args:
      reports: from `stage.plan_stage`, one for each stage, in order.
      rows: rows of an epoch for every phase; None without a corpus.

    Returns:
      `steps`; `tokens` (padding included); `epochs` of every phase or None; `predicted_seconds`
      of all steps, None if a stage has no prediction; `checkpoint_bytes` of one checkpoint and
      `checkpoints_kept_bytes` of all that are kept; `checkpoint_every_steps`, and
      `seconds_between_checkpoints`, predicted for the slowest stage.
    """
    times = [report["predicted_step_seconds"] for report in reports]
    known = all(seconds is not None for seconds in times)
    config = job.config
    state = jax.tree.leaves(jax.eval_shape(lambda: train.init_state(config, job.init)))
    checkpoint = sum(math.prod(x.shape) * x.dtype.itemsize for x in state)
    every = config.checkpoints.every_steps
    return {
        "steps": config.num_steps,
        "tokens": sum(r["steps"] * r["batch_size"] * r["sequence_length"] for r in reports),
        "epochs": rows and _epochs(config, rows),
        "predicted_seconds": (
            sum(r["steps"] * t for r, t in zip(reports, times, strict=True)) if known else None
        ),
        "checkpoint_bytes": checkpoint,
        "checkpoints_kept_bytes": checkpoint * config.checkpoints.keep,
        "checkpoint_every_steps": every,
        "seconds_between_checkpoints": every * max(times) if known else None,
    }


def _epochs(config: config_lib.Config, rows: list[int]) -> list[float]:
    """Passes over the corpus in each phase."""
    read = [0] * len(rows)
    for stage in stages.of(config):
        read[stage.phase_index] += stage.steps * stage.phase.batch_size
    return [total / size for total, size in zip(read, rows, strict=True)]
