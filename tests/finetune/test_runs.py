"""Runs and grids: one compiled program a shape, each run as if alone, interrupted anywhere."""

import functools
import json
import os
import random
import signal
import subprocess
import sys
import time

import jax
import pytest
from finetune_runs import config, flags, run, write_task
from runs import cluster
from xla_flags import CHEAP

from bertjax import sharding
from bertjax.errors import RESTART, UsageError
from bertjax.finetune import runs
from bertjax.metrics import writer

pytestmark = pytest.mark.usefixtures("shown")  # what is logged is printed

GRID = {
    "grid__learning_rate": (1e-3, 3e-3),
    "grid__epochs": (2.0, 3.0),
    "seeds": 2,
    "finetune__buckets": 0,
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
    (one,) = run(sst2, "sst2", sst2 / "alone", finetune__buckets=0, **alone)
    (same,) = [each for each in results if each["run"] == "lr0.003_epochs3_seed1"]
    assert untimed(one) == {k: v for k, v in untimed(same).items() if k != "run"}
    assert losses(sst2 / "alone") == losses(sst2 / "w/runs/lr0.003_epochs3_seed1")


@pytest.mark.usefixtures("one_device")
def test_buckets_and_batch_sizes_have_a_program_each(sst2, capsys):
    programs = {}
    run(sst2, "sst2", sst2 / "w", programs, grid__batch_size=(8, 12), seeds=2)
    forms = [key[-1] for key in programs if key[0] == "train"]
    shapes = {shape for form in forms for name, shape, _ in form if name == "input_ids"}
    assert {size for size, _ in shapes} == {8, 12}
    assert len(forms) == len(shapes)
    assert capsys.readouterr().out.count("compiled in") == len(shapes)


def test_a_grid_names_its_runs_and_takes_a_value_once(tmp_path):
    names = runs.grid(config(tmp_path, "sst2", **GRID))
    first = ["lr0.001_epochs2_seed0", "lr0.001_epochs2_seed1", "lr0.001_epochs3_seed0"]
    assert list(names)[:3] == first
    one = names["lr0.003_epochs3_seed1"]
    assert (one.seed, one.seeds, one.grid) == (1, 1, type(one.grid)())
    assert (one.optimizer.learning_rate, one.finetune.epochs) == (3e-3, 3.0)
    assert list(runs.grid(config(tmp_path, "sst2"))) == [""]
    twice = config(tmp_path, "sst2", grid__learning_rate=(1e-3, 1e-3), grid__batch_size=(8, 8))
    assert list(runs.grid(twice)) == [""]
    assert runs.grid(twice)[""].optimizer.learning_rate == 1e-3


@pytest.mark.usefixtures("one_device")
def test_a_finished_run_is_not_trained_again(sst2, capsys):
    how = {"finetune__epochs": 1, "finetune__buckets": 0}
    first = run(sst2, "sst2", sst2 / "w", **how)
    assert run(sst2, "sst2", sst2 / "w", **how) == first
    assert "finished already" in capsys.readouterr().out
    other = pytest.raises(
        UsageError, match=r"learning_rate=0.0001: .* holds a run with 0.003; take"
    )
    with other:
        run(sst2, "sst2", sst2 / "w", optimizer__learning_rate=1e-4, **how)
    (sst2 / "w/scores.json").unlink()  # nor is one that is half-way trained
    with other:
        run(sst2, "sst2", sst2 / "w", optimizer__learning_rate=1e-4, **how)


def test_a_batch_that_the_devices_cannot_split_is_refused_before_anything_is_trained(sst2):
    with pytest.raises(UsageError, match="batch_size=12"):
        run(sst2, "sst2", sst2 / "w", grid__batch_size=(16, 12))
    assert not (sst2 / "w/runs").exists()


@pytest.mark.usefixtures("one_device")
def test_a_grid_that_grows_keeps_its_finished_runs(sst2):
    how = {"finetune__epochs": 1, "finetune__buckets": 0}
    two = run(sst2, "sst2", sst2 / "w", seeds=2, **how)
    three = run(sst2, "sst2", sst2 / "w", seeds=3, **how)
    assert three[:2] == two  # their seconds too
    kept = json.loads((sst2 / "w/results.json").read_text())
    assert kept["runs"] == three


@pytest.mark.usefixtures("one_device")
def test_a_grid_without_anything_held_out_ends_well(sst2, capsys):
    (sst2 / "sst2/dev.tsv").unlink()
    how = {"finetune__epochs": 1, "finetune__buckets": 0, "data__heldout_fraction": 0.0}
    results = run(sst2, "sst2", sst2 / "w", seeds=2, **how)
    assert [each["value"] for each in results] == [None, None]
    assert json.loads((sst2 / "w/results.json").read_text())["best"] is None
    assert "no evaluation" in capsys.readouterr().out


def start(root, workdir, *, variables=None, **more):
    """The command in a process of its own, on one device."""
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(root / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count=1 {CHEAP}",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "bertjax", *flags(root, "sst2", workdir, **more)],
        env=environment | (variables or {}),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(process, code=0):
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, err
    return out


def wait_for_lines(process, place, count):
    """Waits until the run that `place` holds has logged `count` lines of training."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        if (place / "metrics.jsonl").exists() and len(losses(place)) >= count:
            return
        time.sleep(0.01)
    pytest.fail(f"{count} lines not reached: {process.communicate()}")


def reached(workdir):
    """All that a grid leaves, without what the clock says."""
    scores = {
        path.parent.name: untimed(json.loads(path.read_text()))
        for path in workdir.glob("runs/*/scores.json")
    }
    curves = {
        path.parent.name: losses(path.parent) for path in workdir.glob("runs/*/metrics.jsonl")
    }
    return untimed(json.loads((workdir / "results.json").read_text())), scores, curves


def table_of(out):
    """The last table on stdout, that of a grid's cells; the line after it is the picture's path."""
    return out[out.rindex("\ntask ") :].strip().splitlines()[:-1]


INTERRUPTED = {
    "grid__learning_rate": (1e-3, 3e-3),
    "seeds": 2,
    "finetune__epochs": 20.0,
    "finetune__buckets": 0,
    "finetune__select": "best",
    "checkpoints__keep": 2,
    "model__hidden_dropout_prob": 0.1,
}


@pytest.mark.slow
def test_a_grid_that_is_killed_twice_and_stopped_once_ends_as_if_it_never_was(sst2):
    whole = finish(start(sst2, sst2 / "whole", **INTERRUPTED))
    steps = len(losses(sst2 / "whole/runs/lr0.001_seed0"))
    assert steps == 45
    rng = random.Random(time.time_ns())
    for run_name in ("lr0.001_seed0", "lr0.003_seed0"):
        at = rng.randrange(1, steps + 1)
        process = start(sst2, sst2 / "killed", **INTERRUPTED)
        wait_for_lines(process, sst2 / "killed/runs" / run_name, at)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    process = start(sst2, sst2 / "killed", **INTERRUPTED)
    wait_for_lines(process, sst2 / "killed/runs/lr0.003_seed1", 2)
    process.send_signal(signal.SIGTERM)
    finish(process, RESTART)
    out = finish(start(sst2, sst2 / "killed", **INTERRUPTED))
    assert out.count("finished already") >= 3
    assert reached(sst2 / "killed") == reached(sst2 / "whole")
    assert table_of(out) == table_of(whole)
    assert len(table_of(whole)) == 4  # a header, a rule, a line for each rate


def close(ours, theirs, tolerance):
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, abs=tolerance), name


@pytest.mark.slow
@pytest.mark.parametrize("task", ["sst2", "squad", "token"])
def test_eight_devices_give_the_scores_of_one(task, tmp_path, monkeypatch):
    """21 dev examples divide by neither the devices nor the batch of 16."""
    write_task(tmp_path, task, 40, 21)
    how = {"finetune__epochs": 8.0, "finetune__evaluations_per_epoch": 1}
    (eight,) = run(tmp_path, task, tmp_path / "eight", **how)
    make = functools.partial(sharding.make_mesh, devices=jax.devices()[:1])
    monkeypatch.setattr(sharding, "make_mesh", make)
    (one,) = run(tmp_path, task, tmp_path / "one", **how)
    close(losses_by_step(tmp_path / "eight"), losses_by_step(tmp_path / "one"), 1e-3)
    loss = "loss"
    assert eight["figures"].pop(loss) == pytest.approx(one["figures"].pop(loss), abs=1e-3)
    assert eight["figures"] == one["figures"]


def losses_by_step(workdir):
    return dict(enumerate(losses(workdir)))


@pytest.mark.slow
def test_two_processes_give_the_scores_of_one(sst2):
    how = {"finetune__epochs": 8.0, "seeds": 2}
    finish(start(sst2, sst2 / "one", **how))
    both = [start(sst2, sst2 / "two", variables=member, **how) for member in cluster(2)]
    for process in both:
        finish(process)
    results, scores, curves = reached(sst2 / "one")
    theirs, their_scores, their_curves = reached(sst2 / "two")
    assert scores.keys() == their_scores.keys() == {"seed0", "seed1"}
    for name in scores:
        close(dict(enumerate(their_curves[name])), dict(enumerate(curves[name])), 1e-3)
        ours, other = scores[name]["figures"], their_scores[name]["figures"]
        assert ours.pop("loss") == pytest.approx(other.pop("loss"), abs=1e-3)
        assert ours == other
    assert results["best"] == theirs["best"]


@pytest.mark.usefixtures("one_device")
def test_other_examples_and_a_grid_in_the_place_of_a_run_are_refused(sst2):
    how = {"finetune__epochs": 1.0, "finetune__buckets": 0}
    run(sst2, "sst2", sst2 / "w", **how)
    with pytest.raises(UsageError, match="holds one run; take another --workdir for a grid"):
        run(sst2, "sst2", sst2 / "w", seeds=2, **how)
    dev = sst2 / "sst2" / "dev.tsv"
    dev.write_text(dev.read_text().replace("fine", "dull", 1))
    with pytest.raises(UsageError, match="holds a run on other examples"):
        run(sst2, "sst2", sst2 / "w", **how)


@pytest.mark.usefixtures("one_device")
def test_what_goes_on_without_init_from_starts_where_its_first_start_did(sst2, capsys):
    how = {"finetune__epochs": 1.0, "finetune__buckets": 0}
    run(sst2, "sst2", sst2 / "source", **how)
    start = {"init_from": str(sst2 / "source")}
    run(sst2, "sst2", sst2 / "w", seeds=2, **how, **start)
    (sst2 / "w" / "runs" / "seed1").rename(sst2 / "gone")
    capsys.readouterr()
    run(sst2, "sst2", sst2 / "w", seeds=2, **how)
    said = capsys.readouterr().out
    assert f"weights of {sst2}/source" in said
    assert losses(sst2 / "w" / "runs" / "seed1") == losses(sst2 / "gone")
