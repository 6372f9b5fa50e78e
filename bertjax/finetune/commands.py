"""The commands of fine-tuning: `finetune`, `glue`."""

import dataclasses
import sys
import time
from pathlib import Path

from bertjax import commands, storage, workdir
from bertjax import config as config_lib
from bertjax.commands import Values
from bertjax.errors import UsageError

_STARTED = time.monotonic()


def finetune(values: Values, args: list[str]) -> list[str]:
    """finetune --config=configs/finetune.py:TASK --workdir=W --config.init_from=URI
        --config.data.files=PATH [--config.FIELD=VALUE ...]

    Trains on a task and scores it. TASK: cola sst2 mrpc stsb qqp mnli qnli rte wnli squad squad2
    swag race imdb; for data of your own single pair regression multiple_choice span token, with
    config.task to name columns. PATH is the task's folder as it is published, or files. init_from is
    any source of convert; its own tokenizer is taken. --config.seeds=5 and config.grid run several,
    one after the other, and make a table, W/results.json and W/results.png. What was interrupted
    goes on where it was. With --config.teacher.init_from=URI, a model fine-tuned on the same task, and
    --config.objective.distill=1 the model learns from its logits beside the labels.
    """
    from bertjax.finetune import runs
    from bertjax.processes import distributed

    if values.config is None:
        raise UsageError("--config: missing; for example --config=configs/finetune.py:mrpc")
    directory = commands.workdir_of(values)
    config = config_lib.from_config_dict(values.config)
    with distributed.processes():
        runs.finetune(config, directory, _STARTED)
    return commands.after_finetune(values.workdir)


def glue(values: Values, args: list[str]) -> None:
    """glue --init_from=URI --files=GLUE --workdir=W [--recipe=bert] [--tasks=rte,mrpc]
        [--config.FIELD=VALUE ...]

    Fine-tunes on every task of GLUE whose folder is in the directory GLUE, one after the other, by
    the recipe of bert, roberta or distilbert; prints one table in the papers' order with each
    paper's average, and writes W/results.json, W/results.png and W/submission.zip for the
    leaderboard. --config.seeds=5 runs five seeds of each. What was interrupted goes on.
    """
    from bertjax.config.tree import override
    from bertjax.finetune import glue, recipes
    from bertjax.processes import distributed

    for flag in ("files", "workdir"):
        if not values[flag].value:
            raise UsageError(f"--{flag}: missing; see bertjax glue --help")
    recipe = {"bert": recipes.bert, "roberta": recipes.roberta, "distilbert": recipes.distilbert}

    def make(task: str) -> config_lib.Config:
        tree = recipe[values.recipe](task)
        tree.init_from, tree.data.files = values.init_from, str(tasks[task])
        for name, value in values.config.items():
            override(tree, name, value)
        return config_lib.from_config_dict(tree)

    tasks = glue.at_hand(
        storage.path(values.files), [t for t in (values.tasks or "").split(",") if t]
    )
    with distributed.processes():
        from_mnli = values.recipe == "roberta"
        glue.run(make, tasks, storage.path(values.workdir), from_mnli=from_mnli)


def evaluate(config: config_lib.Config, directory: Path) -> dict[str, float | None]:
    """The dev figures of a fine-tuned run: of the step that counts, and of a grid the best run.

    They need no teacher: none is read.
    """
    from bertjax import evaluate
    from bertjax.finetune import opening, resolve
    from bertjax.finetune.scoring import scores

    alone = dataclasses.replace(config.objective, task=1.0, distill=0.0)
    config = dataclasses.replace(config, objective=alone, teacher=config_lib.Teacher())
    job, place = opening.open(config, directory), workdir.best_run(directory)
    if place != directory:
        print(f"{directory}: the best run is {place}", file=sys.stderr)
        run = workdir.read_config(place)
        run = dataclasses.replace(run, mesh=config.mesh, evaluation=config.evaluation)
        job = resolve.job_of(job, run)
    step, _ = workdir.selected(place) or (None, "")
    figures = evaluate.newest(job, place, step)
    return scores.as_json(figures)
