"""The predictions of a finished run: reads its weights back and decodes its outputs."""

import dataclasses
from pathlib import Path

from bertjax import sharding, storage
from bertjax.config import stages
from bertjax.evaluate import Evaluation, read_params
from bertjax.finetune.job import Finetuning, Split
from bertjax.finetune.scoring.predictions import Predictions


def predicted(
    job: Finetuning, place: Path, step: int | None, splits: dict[str, Split], programs: dict
) -> list[tuple[str, Split, Predictions]]:
    """The predictions for each of `splits`, in every process.

    Args:
      place: the run's directory.
      step: the checkpoint to read; None takes the newest.
      programs: compiled programs, see `loop.run`.

    Raises:
      DataError: no checkpoint is whole.
    """
    job = dataclasses.replace(job, heldout_splits=splits)
    mesh, [stage] = sharding.make_mesh(job.config.mesh), stages.of(job.config)
    _, params = read_params(job, mesh, storage.path(place), step)
    _, rows = Evaluation(job, mesh, stage, programs).measure(params)
    return list(job.by_split(rows))
