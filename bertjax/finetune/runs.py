"""Fine-tuning runs and their scores: one run, or a grid of rates, batch sizes, epochs and seeds.

    W/config.json, W/tokenizer/      shared by all runs
    W/runs/NAME/                     the directory of one run of a grid
    W/runs/NAME/scores.json          the run's scores, written when the run is finished
    W/results.json, W/results.png    the results of all runs

A fine-tuning of one run has no W/runs: W is the run's directory.
"""

import dataclasses
import itertools
import json
import math
import time
from pathlib import Path
from typing import Any

import jax

from bertjax import config as config_lib
from bertjax import kernels, loop, sharding, storage, workdir
from bertjax.errors import NonFiniteError, StorageError, UsageError
from bertjax.finetune import distillation, opening, resolve, span_files
from bertjax.finetune.job import Finetuning
from bertjax.finetune.scoring import picture, scores, table
from bertjax.metrics import writer
from bertjax.metrics.progress import say
from bertjax.processes import compilation_cache, distributed, lock

_EXAMPLES = "examples.json"  # hashes of the training and evaluation rows, and of the teacher
_LOSS_STEPS = 10  # the final training loss is the mean over this many logged steps
# Config sections that change a run's scores. A teacher is compared by the hash of its weights, so
# its path may change.
_DECIDING = ("seed", "model", "phases", "optimizer", "objective", "teacher", "task", "finetune")
_TEACHER_URI = "config.teacher.init_from"


def finetune(
    config: config_lib.Config, directory: Path, started: float | None = None
) -> list[dict]:
    """Trains all unfinished runs of a config in `directory`; returns the scores of all runs.

    Raises:
      Preempted, NonFiniteError: see `loop.run`; the same call again continues the run.
      UsageError, DataError, StorageError: see `opening.open` and `loop.run`; UsageError also if
        `directory` holds a run with another rate, number of steps, seed...
    """
    kept = workdir.programs(config, directory)
    with distributed.alone(directory, "finetune"), compilation_cache.kept(kept):
        job = opening.open(config, directory)
        return run_all(job, config, directory, {}, started)


def run_all(
    job: Finetuning,
    config: config_lib.Config,
    directory: Path,
    programs: dict,
    started: float | None = None,
) -> list[dict]:
    """Does the work of `finetune` for an opened job.

    Args:
      job: the result of `opening.open(config, directory)`.
      programs: compiled programs, see `loop.run`.
    """
    points = {name: resolve.job_of(job, point) for name, point in grid(config).items()}
    mesh = sharding.make_mesh(config.mesh)
    for one in points.values():  # check every run before the first one trains
        kernels.check(one.config, mesh)
    _require_form(storage.path(directory), several=len(points) > 1)
    places = {name: storage.path(directory) / "runs" / name for name in points}
    if len(points) == 1:
        places = {"": directory}
    for name, one in points.items():
        _require_same(one, places[name])
    if job.teacher and not all(map(_is_finished, places.values())):
        _say_teacher(job, programs)
    if len(points) == 1:
        return [_run(points[""], directory, programs, started)]
    if jax.process_index() == 0:
        for change in workdir.write_config(job.config, directory):
            say(f"config changed since the last start: {change}")
    results = []
    for number, (name, one) in enumerate(points.items(), start=1):
        say(f"run {number} of {len(points)}: {name}")
        results.append({"run": name, **_run(one, places[name], programs, started, goes_on=True)})
        started = None
    if jax.process_index() == 0:
        _write_results(results, directory, job.metric)
    distributed.wait_for_all("results")
    return results


def grid(config: config_lib.Config) -> dict[str, config_lib.Config]:
    """The config of every run by name; the seeds of one setting follow each other.

    A single run has the name "".
    """
    [(phase_name, phase)] = config.phases.items()
    asked, how, opt = config.grid, config.finetune, config.optimizer
    rates = tuple(dict.fromkeys(asked.learning_rate)) or (opt.learning_rate,)
    sizes = tuple(dict.fromkeys(asked.batch_size)) or (phase.batch_size,)
    epochs = tuple(dict.fromkeys(asked.epochs)) or (how.epochs,)
    seeds = range(config.seed, config.seed + config.seeds)
    result = {}
    for rate, size, passes, seed in itertools.product(rates, sizes, epochs, seeds):
        parts = {f"lr{rate:g}": len(rates), f"batch{size}": len(sizes)}
        parts |= {f"epochs{passes:g}": len(epochs), f"seed{seed}": len(seeds)}
        name = "_".join(part for part, values in parts.items() if values > 1)
        result[name] = dataclasses.replace(
            config,
            seed=seed,
            seeds=1,
            grid=config_lib.Grid(),
            phases={phase_name: dataclasses.replace(phase, batch_size=size)},
            optimizer=dataclasses.replace(opt, learning_rate=rate),
            finetune=dataclasses.replace(how, epochs=passes),
        )
    return result


def _run(
    job: Finetuning,
    place: Path,
    programs: dict,
    started: float | None,
    *,
    goes_on: bool = False,
) -> dict:
    """Trains one run to its end, unless it is finished already; returns its scores.

    Args:
      goes_on: other runs follow, so a run that becomes non-finite is scored and does not raise.
    """
    path = storage.path(place) / workdir.SCORES
    if _is_finished(place):
        say(f"{place}: finished already")
        return json.loads(storage.read(path))
    began = time.monotonic()
    if jax.process_index() == 0:
        job.tokenizer.save(storage.path(place) / "tokenizer")
        write_json(storage.path(place) / _EXAMPLES, job.digests | job.identity)
    try:
        loop.run(job, storage.path(place), started, programs)
        result = scored(job, place)
        if job.task.kind == "span":
            span_files.write(job, place, result["step"], programs)
    except NonFiniteError as error:
        if not goes_on:
            raise
        say(f"{error}; the next run goes on")
        nothing = {"value": None, "figures": dict.fromkeys(job.task.metrics)}
        result = scored(job, place) | nothing | {"degenerate": "not finite"}
    result["seconds"] = round(time.monotonic() - began, 1)
    if jax.process_index() == 0:
        write_json(path, result)
    distributed.wait_for_all("scores")
    return result


def _is_finished(place: Path) -> bool:
    return bool(distributed.first_decides(storage.exists(storage.path(place) / workdir.SCORES)))


def _say_teacher(job: Finetuning, programs: dict) -> None:
    """Logs the teacher's figures on dev, for comparison with the runs."""
    if found := distillation.figures(job, programs):
        figures = ", ".join(f"{name} {value:.4f}" for name, value in found.items())
        say(f"teacher: {figures}, on dev")


def _require_form(place: Path, *, several: bool) -> None:
    """Refuses a grid in a single run's directory, and a single run in a grid's directory."""
    other = place / ("checkpoints" if several else "runs")
    if storage.is_directory(other):
        held, wanted = ("one run", "a grid") if several else ("a grid", "one run")
        raise UsageError(f"{place}: holds {held}; take another --workdir for {wanted}")


def _require_same(job: Finetuning, place: Path) -> None:
    """Refuses a directory that holds a run on other examples or with another config."""
    if not storage.exists(storage.path(place) / "config.json"):
        return
    config, examples = job.config, storage.path(place) / _EXAMPLES
    if storage.exists(examples):
        hashes = json.loads(storage.read(examples))
        if hashes.pop("teacher", None) != job.identity.get("teacher"):
            raise UsageError(
                f"{_TEACHER_URI}={config.teacher.init_from}: {place} holds a run with another teacher, "
                "or none; take another --workdir"
            )
        if hashes != job.digests:
            raise UsageError(
                f"config.data.files={config.data.files}: {place} holds a run on other examples; "
                "take another --workdir"
            )
    held, asked = config_lib.leaves(workdir.read_config(place)), config_lib.leaves(config)
    for field in sorted((held.keys() | asked.keys()) - {_TEACHER_URI}):
        theirs, ours = held.get(field), asked.get(field)
        if field.split(".")[1] in _DECIDING and theirs != ours:
            raise UsageError(
                f"{field}={ours!r}: {place} holds a run with {theirs!r}; take another --workdir"
            )


def scored(job: Finetuning, place: Path) -> dict[str, Any]:
    """The scores of a finished run: the evaluation of the selected weights."""
    lines = writer.read(storage.path(place) / "metrics.jsonl")
    evaluations = writer.evaluations(lines)
    step = selected(job, evaluations)
    figures = evaluations.get(step) or dict.fromkeys(job.task.metrics, math.nan)
    logged = [line for line in lines if "task_loss" in line][-_LOSS_STEPS:]
    last = {  # the unweighted loss against the labels, with or without a teacher
        name: sum(line[source] for line in logged) / len(logged)
        for name, source in (("loss", "task_loss"), ("grad_norm", "grad_norm"))
        if logged
    }
    [phase] = job.config.phases.values()
    return {
        "task": job.task.name,
        "title": job.task.title,
        "seed": job.config.seed,
        "learning_rate": job.config.optimizer.learning_rate,
        "batch_size": phase.batch_size,
        "epochs": job.config.finetune.epochs,
        "step": step,
        "metric": job.metric,
        "value": scores.as_json(figures).get(job.metric),
        "figures": scores.as_json(figures),
        "train_loss": scores.as_json(last).get("loss"),
        "degenerate": job.degenerate(figures, last),
    }


def selected(job: Finetuning, evaluations: dict[int, dict[str, float]]) -> int:
    """The step whose weights count: the best step with `select=best`, else the last."""
    best = job.judge(evaluations).best
    if job.config.finetune.select == "best" and best is not None:
        return best
    return max(evaluations, default=job.config.num_steps)


def _write_results(results: list[dict], directory: Path, metric: str) -> None:
    if not any("loss" in result["figures"] for result in results):
        write_json(
            storage.path(directory) / workdir.RESULTS, {"best": None, "runs": results, "cells": []}
        )
        return
    best = scores.best(results, metric)
    write_json(
        storage.path(directory) / workdir.RESULTS,
        {"best": best["run"], "runs": results, "cells": table.grid(results)},
    )
    say(table.grid_table(results))
    say(str(picture.draw(storage.path(directory) / "results.png", results)))


def write_json(path: Path, value: dict) -> None:
    """Writes a JSON file atomically; raises StorageError if writing fails, or as `lock.require`."""
    lock.require(path)
    try:
        storage.write(path, (json.dumps(value, indent=1) + "\n").encode())
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from None
