"""GLUE: a fine-tuning for each task that has files, one table, and the leaderboard's zip.

W/TASK/            the runs of one task (see `runs`)
W/results.json     the results of all tasks; W/results.png plots them
W/submission.zip   the test predictions of the best run of each task
"""

import dataclasses
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import jax

from bertjax import config as config_lib
from bertjax import storage, workdir
from bertjax.errors import DataError, UsageError
from bertjax.finetune import opening, runs, saved
from bertjax.finetune.job import Finetuning
from bertjax.finetune.readers import sources
from bertjax.finetune.scoring import picture, submission, table
from bertjax.finetune.scoring.predictions import Predictions
from bertjax.finetune.scoring.table import GLUE_ORDER
from bertjax.finetune.tasks import TASKS
from bertjax.metrics.progress import say
from bertjax.processes import compilation_cache, distributed

# Tasks that RoBERTa's recipe starts from an MNLI model (Liu et al. 2019, section 5.1).
_FROM_MNLI = ("rte", "mrpc", "stsb")


def at_hand(files: Path, asked: Sequence[str] = ()) -> dict[str, Path]:
    """The task folders in a GLUE directory, by task; a folder is called MRPC or mrpc.

    Args:
      asked: the tasks to look for; () looks for all.

    Raises:
      UsageError: an asked task is not in GLUE.
      DataError: no folder is there, or the folder of an asked task is missing.
    """
    unknown = [name for name in asked if name not in GLUE_ORDER]
    if unknown:
        raise UsageError(f"--tasks={','.join(unknown)}: GLUE has {' '.join(sorted(GLUE_ORDER))}")
    found = {}
    for name in (n for n in GLUE_ORDER if n in asked or not asked):
        places = [files / TASKS[name].folder, files / name]
        folder = next((place for place in places if storage.is_directory(place)), None)
        if folder is None and asked:
            raise DataError(f"{places[0]}: no such folder; give GLUE's directory with --files")
        if folder is not None and storage.find(f"{folder}/*train*"):
            found[name] = folder
        elif folder is not None:
            say(f"{folder}: no training file; the task is left out")
    if not found:
        wanted = ", ".join(TASKS[name].folder for name in GLUE_ORDER)
        raise DataError(f"{files}: has none of the folders {wanted}; give GLUE's with --files")
    return found


def run(
    make: Callable[[str], config_lib.Config],
    tasks: Collection[str],
    directory: Path,
    *,
    from_mnli: bool,
) -> None:
    """Fine-tunes on every unfinished task, then writes the table and the zip.

    Args:
      make: returns the config of a task.
      from_mnli: start RTE, MRPC and STS-B from the best MNLI run, if MNLI is among the tasks.

    Raises what `runs.finetune` raises.
    """
    programs: dict = {}
    results, predicted = [], {}
    for task in tasks:  # an unreadable file stops the command here, not after hours of training
        sources.read(make(task))
    kept = workdir.programs(make(next(iter(tasks))), directory)
    with distributed.alone(directory, "glue"), compilation_cache.kept(kept):
        for number, task in enumerate(tasks, start=1):
            place, config = directory / task, make(task)
            if from_mnli and task in _FROM_MNLI and "mnli" in tasks:
                best = workdir.best_run(directory / "mnli")
                config = dataclasses.replace(config, init_from=str(best))
            say(f"task {number} of {len(tasks)}: {TASKS[task].title}")
            job = opening.open(config, place)
            results += runs.run_all(job, config, place, programs)
            predicted |= _test_predictions(job, place, programs)
    if jax.process_index() == 0:
        _write(directory, results, predicted)


def _write(directory: Path, results: list[dict], predicted: dict) -> None:
    results = [result for result in results if "loss" in result["figures"]]
    report = {"runs": results, **table.glue(results)}
    runs.write_json(storage.path(directory) / workdir.RESULTS, report)
    print(table.glue_table(results))
    picture.draw(storage.path(directory) / "results.png", results, "GLUE, dev")
    zip_file = storage.path(directory) / "submission.zip"
    for note in submission.write_glue(zip_file, predicted):
        say(note)
    print(f"{directory}/results.json, results.png, submission.zip")


def _test_predictions(job: Finetuning, place: Path, programs: dict) -> dict[str, list]:
    """The best run's predictions for the test rows, by the keys of `submission.GLUE`."""
    splits = opening.encoded(job.others, job.tokenizer, opening.settings_of(job), place)
    if not splits:
        say(f"{TASKS[job.task.name].title}: no test file; nothing to hand in")
        return {}
    best = workdir.best_run(place)
    step, _ = workdir.selected(best) or (None, "")
    found = {}
    for name, split, predictions in saved.predicted(job, best, step, splits, programs):
        key = {"test": job.task.name, "test_mismatched": "mnli_mismatched"}.get(name, name)
        values = labels_of(job, predictions)
        found[key] = [(e.id, v) for e, v in zip(split.examples, values, strict=True)]
    return found


def labels_of(job: Finetuning, predictions: Predictions) -> list[str | float]:
    """The predicted label of each example; for regression, the predicted number."""
    if predictions.values is not None:
        return [float(value) for value in predictions.values]
    assert predictions.probabilities is not None
    names = job.config.model.label_names
    return [names[number] for number in predictions.probabilities.argmax(-1)]
