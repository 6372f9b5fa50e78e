"""A finished run's answers to SQuAD's dev questions, as files for the official scripts."""

from pathlib import Path

import jax
import numpy as np

from bertjax import storage
from bertjax.finetune import saved
from bertjax.finetune.job import Finetuning, Split
from bertjax.finetune.scoring import null_threshold, squad_scores, submission
from bertjax.finetune.scoring.predictions import Predictions
from bertjax.metrics.progress import say


def write(job: Finetuning, place: Path, step: int, programs: dict) -> None:
    """Writes predictions.json of the dev split into a run's directory.

    SQuAD 2.0 also gets null_odds.json and best_answers.json (see `submission.write_squad`). The
    threshold with the best F1 on dev decides: questions with a larger null difference get the
    answer "". Every process must call this function; the first process writes. Without a dev split,
    nothing happens.

    Args:
      step: the checkpoint to read.
      programs: compiled programs, see `loop.run`.

    Raises:
      DataError: no checkpoint is whole.
      StorageError: a file cannot be written.
    """
    if "dev" not in job.heldout_splits:
        return
    dev = {"dev": job.heldout_splits["dev"]}
    [(_, split, predictions)] = saved.predicted(job, place, step, dev, programs)
    if jax.process_index() == 0:
        for line in _written(split, predictions, storage.path(place), job.null_answers):
            say(line)


def _written(split: Split, found: Predictions, place: Path, null_answers: bool) -> list[str]:
    """Writes the files; returns lines about their content and about missing or extra ids."""
    assert found.spans is not None
    spans = dict(zip((e.id for e in split.examples), found.spans, strict=True))
    answers = {name: each.answer for name, each in spans.items()}
    golds = squad_scores.golds(split.examples, null_answers)
    if not null_answers:
        notes = squad_scores.score(golds, answers, null_answers=False).notes
        [path] = submission.write_squad(place, answers)
        return [*notes, f"{path}: the answers to {len(answers):,} dev questions"]
    differences = {name: each.difference or 0.0 for name, each in spans.items()}
    if not np.isfinite(list(differences.values())).all():
        return ["dev: the model's outputs are not finite; no predictions.json"]
    report = null_threshold.report(golds, answers, differences)
    threshold = report["tuned"]["threshold"]
    path, *others = submission.write_squad(place, answers, differences, threshold)
    beside = ", ".join(other.name for other in others)
    said = f"{path}: the answers to {len(answers):,} dev questions at threshold {threshold:.4f}"
    return [*report["notes"], f"{said} (tuned on dev); beside it {beside}"]
