"""What a config leaves open: steps, warm-up, evaluations; which weights count, and when a run ends."""

import dataclasses
import math
from types import SimpleNamespace

import pytest
from finetune_runs import config, run, write_task

from bertjax import config as config_lib
from bertjax import loop, workdir
from bertjax.checkpoints import manager
from bertjax.config import finetune_fields
from bertjax.errors import Preempted, UsageError
from bertjax.finetune import opening, recipes, resolve, runs, tasks
from bertjax.finetune.job import Finetuning
from bertjax.metrics import writer

pytestmark = pytest.mark.usefixtures("shown")  # what is logged is printed

EACH = "finetune__evaluations_per_epoch"


def resolved(folder, rows, **fields):
    asked = config(folder, "sst2", **fields)
    return resolve.config_of(asked, asked.model, rows)


def test_the_layout_laws_of_tasks_and_kinds():
    assert tuple(tasks.TASKS) == finetune_fields.TASKS
    assert tuple(tasks.KINDS) == finetune_fields.KINDS
    assert {task.kind for task in tasks.TASKS.values()} <= set(tasks.KINDS)


@pytest.mark.parametrize("task", [*finetune_fields.TASKS, *finetune_fields.KINDS])
@pytest.mark.parametrize("recipe", [recipes.bert, recipes.roberta, recipes.distilbert])
def test_every_recipe_of_every_task_can_be_run(recipe, task):
    asked = config_lib.from_config_dict(recipe(task))
    found = resolve.config_of(asked, asked.model, 1000)  # raises where it cannot be
    assert found.num_steps > 0
    assert found.model.max_sequence_length >= found.phases["phase1"].sequence_length


@pytest.mark.parametrize(
    ("rows", "batch", "epochs", "steps", "warmup"),
    [
        (3668, 32, 3.0, 343, 34),  # MRPC: int(343.875), int(34.3)
        (2490, 16, 10.0, 1556, 155),
        (100, 32, 0.5, 1, 0),  # int(1.5625)
        (10, 32, 1.0, 1, 0),  # never none
    ],
)
def test_steps_and_warm_up_are_the_papers_numbers(tmp_path, rows, batch, epochs, steps, warmup):
    found = resolved(tmp_path, rows, phases__phase1__batch_size=batch, finetune__epochs=epochs)
    assert (found.num_steps, found.optimizer.warmup_steps) == (steps, warmup)


def test_what_is_set_counts_before_what_is_derived(tmp_path):
    found = resolved(tmp_path, 1000, phases__phase1__steps=7, optimizer__warmup_steps=3)
    assert (found.num_steps, found.optimizer.warmup_steps) == (7, 3)
    assert resolved(tmp_path, 1600, finetune__warmup_fraction=0.25).optimizer.warmup_steps == 75
    assert resolved(tmp_path, 1600, evaluation__every_steps=9).evaluation.every_steps == 9


def test_evaluations_come_so_many_times_an_epoch(tmp_path):
    every = {
        n: resolved(tmp_path, 1600, **{EACH: n}).evaluation.every_steps for n in (1, 2, 3, 100, 999)
    }
    assert every == {1: 100, 2: 50, 3: 34, 100: 1, 999: 1}
    assert resolved(tmp_path, 5).evaluation.every_steps == 1


def test_the_weights_of_every_evaluation_are_saved_where_the_best_count(tmp_path):
    assert resolved(tmp_path, 1600).checkpoints.every_steps == 1000
    for how in ({"finetune__select": "best"}, {"finetune__patience": 2}):
        assert resolved(tmp_path, 1600, **how).checkpoints.every_steps == 100


def test_several_phases_and_unknown_metrics_are_refused(tmp_path):
    asked = config(tmp_path, "sst2")
    two = dataclasses.replace(asked, phases={**asked.phases, "phase2": asked.phases["phase1"]})
    with pytest.raises(UsageError, match="fine-tuning has one phase"):
        resolve.config_of(two, two.model, 10)
    write_task(tmp_path, "sst2")
    for metric in ("acuracy", "pearson", "f1"):
        asked = config(tmp_path, "sst2", finetune__metric=metric)
        with pytest.raises(UsageError, match=f"metric='{metric}': sst2 has accuracy, loss"):
            opening.open(asked, tmp_path / "w")


def judged(metric, values, **how):
    """The verdict on these values of a metric, at steps 10, 20..."""
    how = finetune_fields.Finetune(metric=metric, **how)
    job = SimpleNamespace(config=SimpleNamespace(finetune=how), metric=metric)
    found = {10 * i: {metric: value} for i, value in enumerate(values, 1)}
    return Finetuning.judge(job, found)


@pytest.mark.parametrize(
    ("metric", "values", "best", "stops"),
    [
        ("accuracy", [0.5, 0.7, 0.6], 20, False),
        ("accuracy", [0.5, 0.7, 0.7, 0.7], 20, True),  # no better is no better
        ("loss", [0.5, 0.7, 0.6], 10, True),
        ("loss", [0.5, 0.4, 0.3], 30, False),
        ("matthews", [math.nan, -0.2, -0.3], 20, False),  # NaN is never best
        ("matthews", [math.nan, math.nan, math.nan], 10, True),
        ("matthews", [0.1, math.nan, math.nan], 10, True),
    ],
)
def test_the_best_evaluation_by_the_metrics_direction_and_patience(metric, values, best, stops):
    assert judged(metric, values, patience=2) == (best, stops)
    assert judged(metric, values) == (best, False)


def saved(place):
    return sorted(int(p.name) for p in (place / "checkpoints").iterdir() if p.name.isdigit())


@pytest.fixture
def scripted(monkeypatch):
    """Evaluations give these accuracies, one after the other; at step s the one number s."""
    values = [0.5, 0.9, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6]
    original = Finetuning.figures
    count = {"steps": 0}

    def figures(self, totals, rows):
        count["steps"] += 1
        return original(self, totals, rows) | {"accuracy": values[count["steps"] - 1]}

    monkeypatch.setattr(Finetuning, "figures", figures)
    return count


SHORT = {"finetune__buckets": 0, "phases__phase1__batch_size": 16, "finetune__epochs": 8.0}


@pytest.mark.usefixtures("one_device")
def test_the_best_checkpoint_stays_and_its_step_counts(tmp_path, scripted):
    write_task(tmp_path, "sst2", 16, 8)
    (result,) = run(tmp_path, "sst2", tmp_path / "w", finetune__select="best", **SHORT)
    assert (result["step"], result["value"]) == (2, 0.9)
    assert saved(tmp_path / "w") == [2, 6, 7, 8]


@pytest.mark.usefixtures("one_device")
def test_a_run_that_resumes_between_evaluations_keeps_its_best_checkpoint(
    tmp_path, scripted, monkeypatch
):
    write_task(tmp_path, "sst2", 32, 8)
    how = SHORT | {"finetune__select": "best", "checkpoints__keep": 2}  # evaluates every 2 steps
    reported = loop.Trainer._must_pause

    def stop_at_9(self, step):
        if step == 9:
            self.stopping, self.signals.requested = True, "SIGTERM"
        return reported(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "_must_pause", stop_at_9)
        with pytest.raises(Preempted):
            run(tmp_path, "sst2", tmp_path / "w", **how)
    assert saved(tmp_path / "w") == [4, 8, 9]
    spared, save = [], manager.Checkpoints.save
    monkeypatch.setattr(
        manager.Checkpoints,
        "save",
        lambda self, step, state: (spared.append((step, self.spared)), save(self, step, state)),
    )
    (result,) = run(tmp_path, "sst2", tmp_path / "w", **how)
    assert spared[0] == (9, 4)  # the next save may remove it before an evaluation speaks for it
    assert (result["step"], result["value"]) == (4, 0.9)
    assert saved(tmp_path / "w") == [4, 14, 16]


@pytest.mark.usefixtures("one_device")
def test_patience_ends_a_run_and_a_run_that_ended_so_stays_ended(tmp_path, scripted, capsys):
    write_task(tmp_path, "sst2", 16, 8)
    how = SHORT | {"finetune__select": "best", "finetune__patience": 2}
    (result,) = run(tmp_path, "sst2", tmp_path / "w", **how)
    assert (result["step"], result["value"]) == (2, 0.9)
    assert "no better than at step 2: ends at step 4" in capsys.readouterr().out
    lines = writer.read(tmp_path / "w/metrics.jsonl")
    assert max(line["step"] for line in lines) == 4
    (tmp_path / "w/scores.json").unlink()  # as if killed before it was written
    scripted["steps"] = 3  # step 4 is evaluated again
    (again,) = run(tmp_path, "sst2", tmp_path / "w", **how)
    assert {**again, "seconds": 0} == {**result, "seconds": 0}
    assert "compiled in" not in capsys.readouterr().out.partition("resuming")[2]
    assert saved(tmp_path / "w") == [2, 3, 4]


@pytest.mark.usefixtures("one_device")
def test_the_config_that_is_written_reads_back(tmp_path):
    write_task(tmp_path, "rte", 16, 8)
    asked = config(tmp_path, "rte", finetune__epochs=1.0, finetune__buckets=0)
    job = opening.open(asked, tmp_path / "w")
    runs.run_all(job, asked, tmp_path / "w", {})
    found = workdir.read_config(tmp_path / "w")
    assert found == job.config
    assert found.model.label_names == ("entailment", "not_entailment")
    assert (found.model.head, found.num_steps) == ("classification", 1)
    assert found.model.vocab_size == job.tokenizer.vocab_size
    assert opening.open(asked, tmp_path / "w").config == job.config


def test_the_size_of_the_vocabulary_may_be_left_to_the_tokenizer(tmp_path):
    write_task(tmp_path, "sst2")
    job = opening.open(config(tmp_path, "sst2", model__vocab_size=0), tmp_path / "w")
    assert job.config.model.vocab_size == job.tokenizer.vocab_size > 100
