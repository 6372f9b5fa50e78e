"""Runs and grids: one compiled program a shape, each run as if alone, interrupted anywhere."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from finetune_runs import config, fields, flags, run, write_task
from runs import cluster
from xla_flags import CHEAP

from bertjax.errors import RESTART, UsageError
from bertjax.finetune import runs
from bertjax.metrics import writer

GRID = {
    "grid__learning_rate": (1e-3, 3e-3),
    "grid__epochs": (2.0, 3.0),
    "seeds": 2,
    "finetune__buckets": False,
}


@pytest.fixture
def sst2(tmp_path):
    """A root with files of SST-2, 36 to train on and 21 to evaluate."""
    write_task(tmp_path, "sst2", 36, 21)
    return tmp_path


def losses(workdir):
    lines = writer.read(workdir / "metrics.jsonl")
    return [line["loss"] for line in lines if "loss" in line]


def untimed(results):
    """results.json or scores without what the clock says."""
    if isinstance(results, dict):
        return {name: untimed(value) for name, value in results.items() if name != "seconds"}
    return [untimed(value) for value in results] if isinstance(results, list) else results


@pytest.mark.usefixtures("one_device")
def test_a_grid_compiles_a_program_once_and_each_run_is_as_if_alone(sst2, capsys):
    programs = {}
    results = run(sst2, "sst2", sst2 / "w", programs, **GRID)
    assert len(results) == 8
    assert sorted(key[0] for key in programs) == ["evaluate", "init", "train"]
    said = capsys.readouterr().out
    assert said.count("compiled in") == 1
    assert "run 8 of 8: lr0.003_epochs3_seed1" in said
    assert len({tuple(losses(sst2 / "w" / "runs" / each["run"])) for each in results}) == 8
    alone = {"optimizer__learning_rate": 3e-3, "finetune__epochs": 3.0, "seed": 1}
    (one,) = run(sst2, "sst2", sst2 / "alone", finetune__buckets=False, **alone)
    (same,) = [each for each in results if each["run"] == "lr0.003_epochs3_seed1"]
    assert untimed(one) == {k: v for k, v in untimed(same).items() if k != "run"}
    assert losses(sst2 / "alone") == losses(sst2 / "w/runs/lr0.003_epochs3_seed1")


@pytest.mark.usefixtures("one_device")
def test_buckets_and_batch_sizes_have_a_program_each(sst2, capsys):
    programs = {}
    run(sst2, "sst2", sst2 / "w", programs, grid__batch_size=(8, 12), seeds=2)
    shapes = {
        dict((n, s) for n, s, _ in key[-1])["input_ids"] for key in programs if "train" in key
    }
    assert {size for size, _ in shapes} == {8, 12}
    assert sum("train" in key for key in programs) == len(shapes)
    assert capsys.readouterr().out.count("compiled in") == len(shapes)


def test_a_grid_names_its_runs_and_takes_a_value_once(tmp_path):
    names = runs.grid(config(tmp_path, "sst2", **GRID))
    assert list(names)[:3] == ["lr0.001_epochs2_seed0", "lr0.001_epochs2_seed1"] + [
        "lr0.001_epochs3_seed0"
    ]
    one = names["lr0.003_epochs3_seed1"]
    assert (one.seed, one.seeds, one.grid) == (1, 1, type(one.grid)())
    assert (one.optimizer.learning_rate, one.finetune.epochs) == (3e-3, 3.0)
    assert list(runs.grid(config(tmp_path, "sst2"))) == [""]
    twice = config(tmp_path, "sst2", grid__learning_rate=(1e-3, 1e-3), grid__batch_size=(8, 8))
    assert list(runs.grid(twice)) == [""]
    assert runs.grid(twice)[""].optimizer.learning_rate == 1e-3


@pytest.mark.usefixtures("one_device")
def test_a_finished_run_is_not_trained_again(sst2, capsys):
    how = {"finetune__epochs": 1, "finetune__buckets": False}
    first = run(sst2, "sst2", sst2 / "w", **how)
    assert run(sst2, "sst2", sst2 / "w", **how) == first
    assert "finished already" in capsys.readouterr().out
    with pytest.raises(UsageError, match=r"learning_rate.*take another --workdir"):
        run(sst2, "sst2", sst2 / "w", optimizer__learning_rate=1e-4, **how)


@pytest.mark.usefixtures("one_device")
def test_a_grid_that_grows_keeps_its_finished_runs(sst2):
    how = {"finetune__epochs": 1, "finetune__buckets": False}
    two = run(sst2, "sst2", sst2 / "w", seeds=2, **how)
    three = run(sst2, "sst2", sst2 / "w", seeds=3, **how)
    assert three[:2] == two  # their seconds too
    kept = json.loads((sst2 / "w/results.json").read_text())
    assert kept["runs"] == three


@pytest.mark.usefixtures("one_device")
def test_a_grid_without_anything_held_out_ends_well(sst2, capsys):
    (sst2 / "sst2/dev.tsv").unlink()
    how = {"finetune__epochs": 1, "finetune__buckets": False, "data__heldout_fraction": 0.0}
    results = run(sst2, "sst2", sst2 / "w", seeds=2, **how)
    assert [each["value"] for each in results] == [None, None]
    assert json.loads((sst2 / "w/results.json").read_text())["best"] is None
    assert "no evaluation" in capsys.readouterr().out
