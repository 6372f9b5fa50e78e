"""Several real processes train as one: on the same examples, through every kind of loss."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from random_models import random_model
from runs import assert_same_run, cluster, losses, make_project, wait_for_step
from xla_flags import CHEAP

from bertjax.checkpoints import manager
from bertjax.convert import hf
from bertjax.data import tokenizer
from bertjax.data.tokenizer import WORDPIECE_SPECIALS
from bertjax.errors import DONE, RESTART, USAGE
from bertjax.metrics import writer
from bertjax.processes.lock import Lock

ROOT = Path(__file__).parents[2]
# Rows for eight devices in every phase.
OVERRIDES = ("--config.phases.phase2.batch_size=8", "--config.checkpoints.keep=20")
SHORTER = ("--config.phases.phase1.steps=50", "--config.phases.phase2.steps=20")
TWO_DEVICES = f"--xla_force_host_platform_device_count=2 {CHEAP}"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return make_project(tmp_path_factory.mktemp("processes"))


def environment(root, **variables):
    return os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(root / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": TWO_DEVICES,
        **variables,
    }


def start_all(root, command, members, **variables):
    """A process for each member of a cluster, its output and errors in one pipe."""
    return [
        subprocess.Popen(
            command,
            env=environment(root, **variables, **member),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for member in members
    ]


SLOW = """
import sys, time
from bertjax import __main__
from bertjax.checkpoints import integrity
from bertjax.processes import distributed
from bertjax.data import prepare

def late(function, seconds):
    return lambda *a, **named: (time.sleep(seconds), function(*a, **named))[1]

distributed._SHUTDOWN_SECONDS = 3
prepare.prepare = late(prepare.prepare, 40)
integrity.write = late(integrity.write, 6)
sys.exit(__main__.run(sys.argv))
"""


@pytest.mark.slow
def test_weights_that_do_not_fit_are_refused_by_all_before_anything_is_prepared(project, tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join([*WORDPIECE_SPECIALS, "old", "."]) + "\n")
    encoder = tokenizer.load(tmp_path / "vocab.txt", True)
    weights = dataclasses.replace(random_model(vocab_size=encoder.vocab_size), tokenizer=encoder)
    hf.write(weights, tmp_path / "hf")
    command = [
        sys.executable,
        "-m",
        "bertjax",
        "pretrain",
        f"--config={project}/config.py",
        f"--workdir={tmp_path}/w",
        *OVERRIDES,
        f"--config.init_from=hf:{tmp_path}/hf",
    ]
    processes = start_all(project, command, cluster(2))
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [USAGE, USAGE], outputs
    said = f"a new vocabulary trained on the corpus; set config.tokenizer.path={tmp_path}/hf"
    assert all(said in output for output in outputs)
    assert not (tmp_path / "w/store").exists()
    assert not (tmp_path / "w/tokenizer").exists()


@pytest.mark.slow
def test_the_others_wait_for_process_0_as_long_as_it_takes(project, tmp_path):
    """It prepares longer than devices wait for each other, and hashes longer than JAX's exit waits."""
    command = [
        sys.executable,
        "-c",
        SLOW,
        "pretrain",
        f"--config={project}/config.py",
        f"--workdir={tmp_path}/w",
        *OVERRIDES,
        *SHORTER,
        "--config.checkpoints.every_steps=1000",
    ]
    processes = start_all(project, command, cluster(2))
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [DONE, DONE], outputs
    assert [r.step for r in manager.verify(tmp_path / "w/checkpoints") if not r.problems][-1] == 70


@pytest.mark.slow
def test_a_run_on_a_workdir_in_use_ends_in_every_process(project, tmp_path):
    command = [
        sys.executable,
        "-m",
        "bertjax",
        "pretrain",
        f"--config={project}/config.py",
        f"--workdir={tmp_path}/w",
        *OVERRIDES,
    ]
    with Lock(tmp_path / "w", "pretrain"):
        processes = start_all(project, command, cluster(2))
        outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [USAGE, USAGE], outputs
    assert all(f"process {os.getpid()}, since" in output for output in outputs)


def train_recorded(root, workdir, count, record, stop_after=None, overrides=SHORTER):
    """Runs `count` processes of two devices each to their end, or until one is told to stop."""
    record.mkdir(parents=True)
    command = [
        sys.executable,
        str(ROOT / "tests/helpers/recorded_pretrain.py"),
        "pretrain",
        f"--config={root}/config.py",
        f"--workdir={workdir}",
        *OVERRIDES,
        *overrides,
    ]
    members = cluster(count) if count > 1 else [{}]
    processes = start_all(root, command, members, RECORD=str(record))
    if stop_after is not None:
        wait_for_step(processes[0], workdir, stop_after)
        processes[-1].send_signal(signal.SIGTERM)
    outputs = [process.communicate(timeout=600)[0] for process in processes]
    code = DONE if stop_after is None else RESTART
    assert [process.returncode for process in processes] == [code] * count, outputs


def seen(*records):
    """`{(step, row): (example id, epoch, masked row)}` of all processes of some runs."""
    rows = {}
    for path in [path for record in records for path in record.iterdir()]:
        for line in path.read_text().splitlines():
            step, numbers, *columns = json.loads(line)
            for number, *row in zip(numbers, *columns, strict=True):
                assert rows.setdefault((step, number), row) == row
    return rows


def curve(workdir, name):
    return np.array([line[name] for line in losses(workdir) if name in line])


def assert_equal_curves(workdir, whole):
    for name in ("loss", "eval/mlm_loss", "grad_norm"):
        ours, theirs = curve(workdir, name), curve(whole, name)
        assert len(ours) == len(theirs)
        print(name, "differs by at most", np.abs(ours - theirs).max())
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_1_2_and_4_processes_and_any_sequence_of_them_train_the_same_run(project, tmp_path):
    """The same examples and masks at every step, and losses within 1e-5."""
    for count in (1, 2, 4):
        train_recorded(project, tmp_path / f"{count}", count, tmp_path / f"seen/{count}")
    for start, (count, stop_after) in enumerate([(4, 10), (2, 25), (1, 45), (2, None)]):
        record = tmp_path / f"changed/{start}"
        train_recorded(project, tmp_path / "changing", count, record, stop_after)
    whole = seen(tmp_path / "seen/1")
    assert len(whole) == 70 * 8
    assert seen(tmp_path / "seen/2") == whole
    assert seen(tmp_path / "seen/4") == whole
    assert seen(*(tmp_path / "changed").iterdir()) == whole
    for other in ("2", "4", "changing"):
        assert_equal_curves(tmp_path / other, tmp_path / "1")


@pytest.mark.slow
def test_one_number_of_masks_for_a_batch_whatever_holds_it(project, tmp_path):
    """Two processes and two micro-batches draw the masks of one: other masks, other losses."""
    common = (
        "--config.masking.smoothing=0.7",
        "--config.masking.budget=batch",
        "--config.phases.phase1.steps=4",
        "--config.phases.phase2.steps=0",
    )
    parts = (*common, "--config.phases.phase1.micro_batch_size=4")
    train_recorded(project, tmp_path / "one", 1, tmp_path / "seen/one", overrides=common)
    train_recorded(project, tmp_path / "two", 2, tmp_path / "seen/two", overrides=parts)
    assert len(curve(tmp_path / "one", "loss")) == 4
    assert_equal_curves(tmp_path / "two", tmp_path / "one")


class Launched:
    """`launch/local.py` with two processes of two devices."""

    def __init__(self, root, workdir, *overrides, restarts=0):
        command = [
            sys.executable,
            str(ROOT / "launch/local.py"),
            "--num_processes=2",
            "--cpu_devices=2",
            f"--restarts={restarts}",
            "--",
            "pretrain",
            f"--config={root}/config.py",
            f"--workdir={workdir}",
            *OVERRIDES,
            *overrides,
        ]
        self.log = Path(f"{workdir}.log")
        self.before = len(self.text) if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, env=environment(root), stdout=log, stderr=subprocess.STDOUT
            )
        self.workdir = workdir

    def children(self, seconds=120.0):
        """The two processes of the attempt that runs, by index."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            children = psutil.Process(self.process.pid).children()
            by_index = {child.environ().get("JAX_PROCESS_ID"): child for child in children}
            if {"0", "1"} <= by_index.keys():
                return by_index["0"], by_index["1"]
            time.sleep(0.05)
        pytest.fail(f"no two processes: {self.text}")

    def finish(self, seconds=1800):
        """The exit code. Two processes on two cores beside other tests are ten times slower than alone."""
        return self.process.wait(seconds)

    @property
    def text(self):
        """What all that was launched on this workdir has said."""
        return self.log.read_text()

    @property
    def said(self):
        """What this one has said."""
        return self.text[self.before :]


def newest_step(workdir):
    """The last step that metrics.jsonl or a checkpoint has."""
    path = workdir / "metrics.jsonl"
    return writer.read(path)[-1]["step"] if path.exists() and writer.read(path) else -1


@pytest.mark.slow
def test_kill_9_of_10_random_processes_under_the_launcher_changes_nothing(project, tmp_path):
    whole = Launched(project, tmp_path / "whole")
    assert whole.finish() == DONE, whole.text
    draws = random.Random(5)
    run = Launched(project, tmp_path / "w", restarts=10)
    left_after = []
    for kill in range(10):
        # The coordinator every other time; anywhere from start-up on.
        children = run.children()
        if kill % 3:
            wait_for_step(run.process, tmp_path / "w", min(14 * kill + draws.randrange(14), 150))
        else:
            time.sleep(draws.uniform(1, 8))
        victim = kill % 2
        children[victim].kill()
        killed = time.monotonic()
        children[1 - victim].wait(30)
        left_after.append(time.monotonic() - killed)
    assert run.finish() == DONE, run.text
    print("survivors left after", [f"{s:.2f}" for s in left_after])
    # At start-up they may not know each other yet: then the launcher's ten seconds of grace end them.
    assert max(left_after[::3]) < 15
    assert max(s for kill, s in enumerate(left_after) if kill % 3) < 5
    assert "Traceback" not in run.text
    assert run.text.count("is lost; start the same command again") >= 5
    assert_same_run(tmp_path / "w", tmp_path / "whole")


@pytest.mark.slow
def test_a_stopped_process_is_left_behind_within_the_watchdogs_time(project, tmp_path):
    run = Launched(project, tmp_path / "w", "--config.watchdog_seconds=5")
    children = run.children()
    wait_for_step(run.process, tmp_path / "w", 20)
    children[1].send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    assert run.finish() == RESTART
    # Five seconds of silence, and the launcher's ten for the one that cannot leave by itself.
    print("all gone after", time.monotonic() - stopped)
    assert time.monotonic() - stopped < 20
    assert not any(child.is_running() for child in children)
    assert "no step in" in run.text
    assert "bertjax/loop.py" in run.text  # the stack that shows where it was stuck


MOMENTS = ("compile", "step", "evaluation", "save")


def evaluates(workdir):
    """Whether the last line is that of a step at which an evaluation is due, and not made yet."""
    lines = losses(workdir)
    return bool(lines) and lines[-1]["step"] % 40 == 0 and "eval/mlm_loss" not in lines[-1]


def wait_for_moment(run, workdir, kind, draws):
    """Returns while the run is at such a moment, as its files and its words tell."""

    def wait(condition, pause=0.005, seconds=200):
        deadline = time.monotonic() + seconds
        while not condition():
            assert run.process.poll() is None, run.said
            assert time.monotonic() < deadline, run.said
            time.sleep(pause)

    if kind == "compile":
        begins = "resuming at" if newest_step(workdir) > 0 else "written"
        wait(lambda: begins in run.said)
        time.sleep(draws.uniform(0, 1))
        return
    wait(lambda: "compiled in" in run.said)
    if kind == "step":
        wait_for_step(run.process, workdir, newest_step(workdir) + draws.randrange(1, 12))
    elif kind == "evaluation":
        wait(lambda: evaluates(workdir))
    else:
        saving = workdir / "checkpoints"
        wait(lambda: any("tmp" in path.name for path in saving.iterdir()), pause=0.001)


@pytest.mark.slow
def test_sigterm_at_10_moments_loses_nothing(project, tmp_path):
    """On either process, while compiling, in a step, an evaluation or with a save on its way."""
    # Agreeing on a step takes a moment, in which steps as small as these go on.
    longer = ("--config.phases.phase1.steps=600", "--config.evaluation.num_examples=512")
    whole = Launched(project, tmp_path / "whole", *longer)
    assert whole.finish() == DONE, whole.text
    workdir, draws = tmp_path / "w", random.Random(3)
    stops, evaluations = [], 0
    for number in range(10):
        run = Launched(project, workdir, *longer)
        children = run.children()
        wait_for_moment(run, workdir, MOMENTS[number % 4], draws)
        children[number % 2].send_signal(signal.SIGTERM)
        assert run.finish(600) == RESTART, run.text
        saved = max(r.step for r in manager.verify(workdir / "checkpoints") if not r.problems)
        assert saved == max(newest_step(workdir), saved)
        stops.append(saved)
        evaluations += evaluates(workdir)
    run = Launched(project, workdir, *longer)
    assert run.finish() == DONE, run.text
    print("stopped at", stops, "of them in evaluations", evaluations)
    assert evaluations
    assert stops == sorted(stops)
    assert_same_run(workdir, tmp_path / "whole", steps=640)
