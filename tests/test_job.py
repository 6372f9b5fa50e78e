"""The seam: the loop trains what it knows nothing of, and several runs follow each other."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_job
from jax.sharding import NamedSharding, PartitionSpec
from runs import cluster, losses
from xla_flags import CHEAP

from bertjax import evaluate, loop, objectives, sharding, storage, train
from bertjax.checkpoints import manager
from bertjax.config import Objective, stages
from bertjax.errors import NothingHeldOut, UsageError
from bertjax.metrics import goodput, writer
from bertjax.processes import distributed, lock
from bertjax.processes.owner import Owner

pytestmark = pytest.mark.usefixtures("shown")  # what is logged is printed


def params(directory):
    job = toy_job.Line()
    abstract = {"params": jax.eval_shape(job.init, jax.random.key(0))}
    step, state = manager.read_newest(directory / "checkpoints", abstract)
    assert step == toy_job.STEPS
    return jax.device_get(state["params"]["line"]["dense"])


def assert_same(directory, other):
    assert losses(directory) == losses(other)
    jax.tree.map(np.testing.assert_array_equal, params(directory), params(other))


def test_a_line_is_fitted_evaluated_saved_and_resumed_by_the_same_loop(tmp_path, capsys):
    """Three runs in one process: one whole, one stopped by SIGTERM, the same one resumed."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert toy_job.train(whole)
    assert "the line starts at zero" in capsys.readouterr().out
    lines = losses(whole)
    assert [x["step"] for x in lines if "loss" in x] == list(range(1, toy_job.STEPS + 1))
    errors = [x["eval/error"] for x in lines if "eval/error" in x]
    assert len(errors) == 3
    assert errors[-1] < 0.15 < 0.5 < errors[0]
    np.testing.assert_allclose(params(whole)["kernel"][:, 0], toy_job.SLOPES, atol=0.1)
    assert not toy_job.train(stopped, stop_at=2)
    assert len(losses(stopped)) < len(lines)
    assert toy_job.train(stopped)
    said = capsys.readouterr().out
    assert f"resuming at step 41 of {toy_job.STEPS}" in said
    assert "square" in said  # the terminal shows the job's terms
    assert_same(stopped, whole)


def test_the_time_of_a_run_starts_with_the_run(tmp_path):
    time.sleep(1)  # since the package was imported
    started = time.monotonic()
    assert toy_job.train(tmp_path)
    took = time.monotonic() - started
    (*_, ledger) = [x for x in writer.read(tmp_path / "metrics.jsonl") if "goodput/step" in x]
    spent = sum(ledger[f"goodput/{name}"] for name in goodput.CATEGORIES)
    assert 0 < spent <= took + 0.01


def test_a_run_without_anything_held_out_says_so_once_and_goes_on(tmp_path, capsys):
    class Blind(toy_job.Line):
        def heldout(self, stage):
            raise NothingHeldOut("no points are left")

    with distributed.alone(tmp_path, "fit"):
        loop.run(Blind(), tmp_path)
    assert capsys.readouterr().out.count("no evaluation: no points are left\n") == 1
    assert not any("eval/error" in line for line in losses(tmp_path))
    mesh, (stage,) = sharding.make_mesh(toy_job.config().mesh), stages.of(toy_job.config())
    with pytest.raises(NothingHeldOut):
        evaluate.Evaluation(Blind(), mesh, stage)


def test_an_evaluation_runs_one_batch_at_a_time():
    """Two at once may begin their collectives in another order on another host: both then wait."""

    class Slow(toy_job.Line):
        def sums(self, outputs, batch):
            grown = jnp.ones((200, 200)) * outputs["values"].mean()
            for _ in range(50):
                grown = jnp.tanh(grown @ grown)
            return {"square_loss": grown.sum()}

    (stage,) = stages.of(toy_job.config())
    mesh = sharding.make_mesh(toy_job.config().mesh)
    evaluation = evaluate.Evaluation(Slow(), mesh, stage)
    program, last, ready = evaluation._program, [], []

    def watched(params, batch):
        def run(*arguments):
            ready.extend(x.is_ready() for x in jax.tree.leaves(last))
            last[:] = [program(params, batch)(*arguments)]
            return last[0]

        return run

    evaluation._program = watched
    evaluation.batches.num_batches = 4
    evaluation(jax.device_put(toy_job.Line().init(jax.random.key(0))))
    assert ready
    assert all(ready)


def test_a_call_whose_directory_was_taken_over_raises_and_writes_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.02)
    metrics, seen = tmp_path / "metrics.jsonl", []

    def until_lost():
        for _ in range(1000):
            lock.require(metrics)
            time.sleep(0.02)

    class Robbed(toy_job.Line):
        def figures(self, totals, rows):  # of the evaluation at step 20
            other = dataclasses.replace(Owner.this("pretrain"), host="far")
            storage.write(tmp_path / "lock", json.dumps(dataclasses.asdict(other)).encode())
            with pytest.raises(UsageError, match="taken over"):
                until_lost()
            seen.append(metrics.read_bytes())
            return super().figures(totals, rows)

    said = pytest.raises(UsageError, match="taken over by pretrain on far")
    with said, distributed.alone(tmp_path, "fit"):
        loop.run(Robbed(), tmp_path)
    assert seen == [metrics.read_bytes()]
    assert (tmp_path / "lock").exists()  # it is the other's


def test_two_processes_train_twice_each_stopped_once_and_resumed(tmp_path):
    """JAX's own listener hears one SIGTERM in the life of a process, and knows a barrier once."""
    names = [str(tmp_path / name) for name in ("first", "second")]
    program = [sys.executable, str(Path(toy_job.__file__)), *names]
    running = [
        subprocess.Popen(program, env=os.environ | {"XLA_FLAGS": CHEAP} | variables)
        for variables in cluster(2)
    ]
    assert [process.wait(timeout=240) for process in running] == [0, 0]
    assert_same(tmp_path / "first", tmp_path / "second")


def test_a_loss_is_weighed_by_its_field_and_once_without_one():
    values = {"mlm_loss": 2.0, "nsp_loss": 3.0, "square_loss": 5.0, "mlm_accuracy": 7.0}
    assert objectives.total(Objective(mlm=0.5, nsp=0.0), values) == 0.5 * 2 + 5


def test_frozen_parameters_reach_every_part_and_are_not_trained(tmp_path):
    """Targets that a frozen line gives, a part of a batch at a time."""

    class Student(toy_job.Line):
        def targets(self, frozen, batch, placement):
            return batch | {"targets": self.apply(frozen, batch, **NOTHING)["values"]}

    config = toy_job.config()
    teacher = {"line": {"dense": {"kernel": jnp.full((10, 1), 0.5), "bias": jnp.full(1, -1.0)}}}
    mesh = sharding.make_mesh(config.mesh)
    teacher = jax.device_put(teacher, NamedSharding(mesh, PartitionSpec()))
    job = Student(config, frozen=teacher)
    with distributed.alone(tmp_path, "fit"):
        loop.run(job, tmp_path)
    np.testing.assert_allclose(params(tmp_path)["kernel"], 0.5, atol=0.1)
    np.testing.assert_array_equal(teacher["line"]["dense"]["kernel"], 0.5)
    text = (
        train.compile_step(job, mesh, lambda batch: batch)
        .lower(train.abstract_state(job, mesh), teacher, toy_job.Points(0).batch(0))
        .as_text()
    )
    assert "5.000000e-01" not in text  # an argument of the program, not a constant in it


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (
            "a" * 64,
            "b" * 64,
            r"config.teacher: .*/20 was trained .* \(SHA-256 aaaaaaaaaaaa, now bbbb",
        ),
        ("a" * 64, "", r"SHA-256 aaaaaaaaaaaa, now none\); name the same one, or take another"),
        (
            "",
            "b" * 64,
            r"config.teacher: .*/20 was trained without one; take another --workdir, with config.init",
        ),
    ],
)
def test_a_run_goes_on_beside_the_same_teacher_alone(tmp_path, before, after, said):
    place = tmp_path / "checkpoints"
    checkpoints = manager.Checkpoints(place, 2, identity={"teacher": before} if before else {})
    state = {"params": {"line": {"dense": {"kernel": jnp.ones((10, 1))}}}}
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    checkpoints.save(20, state)
    checkpoints.close()
    same = manager.Checkpoints(place, 2, identity=toy_job.Line(teacher=before).identity)
    assert same.restore(abstract)[0] == 20
    same.close()
    other = manager.Checkpoints(place, 2, identity=toy_job.Line(teacher=after).identity)
    with pytest.raises(UsageError, match=said):
        other.restore(abstract)
    other.close()
    assert manager.read_newest(place, abstract)[0] == 20  # readers need no teacher
    assert not manager.verify(place)[0].problems


NOTHING = {"dropout_key": None, "placement": None}
