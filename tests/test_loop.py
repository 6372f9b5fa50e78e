"""The program as its users meet it: real processes on real text, killed, stopped and misused."""

import dataclasses
import json
import random
import shutil
import signal
import time

import jax
import numpy as np
import pytest
from random_models import random_model
from runs import assert_same_run, bertjax, losses, make_project, start, wait_for_step

from bertjax import convert, loop, workdir
from bertjax.convert import orbax
from bertjax.errors import DATA, DONE, INTERNAL, RESTART, USAGE, UsageError
from bertjax.metrics import goodput, writer
from bertjax.pretraining import Pretraining


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A config, its text, and its whole run."""
    root = make_project(tmp_path_factory.mktemp("loop"))
    run = bertjax(root, "pretrain", root / "whole")
    assert run.returncode == DONE, run.stderr
    return root


def test_a_run_learns_evaluates_and_keeps_what_the_design_says(project):
    whole = project / "whole"
    names = {"config.json", "metrics.jsonl", "checkpoints", "store", "tokenizer"}
    assert names <= {p.name for p in whole.iterdir()}
    lines = losses(whole)
    train = [line for line in lines if "loss" in line]
    assert [line["step"] for line in train] == list(range(1, 161))
    assert np.mean([t["mlm_loss"] for t in train[100:120]]) < train[0]["mlm_loss"] - 0.3
    evaluations = [line for line in lines if "eval/mlm_loss" in line]
    assert [line["step"] for line in evaluations] == [40, 80, 120, 160]
    assert evaluations[2]["eval/mlm_loss"] < evaluations[0]["eval/mlm_loss"]
    ledgers = [x for x in writer.read(whole / "metrics.jsonl") if "goodput/step" in x]
    assert ledgers[0]["step"] == 0  # written once it has compiled
    assert ledgers[-1]["step"] == 160
    assert all(
        ledgers[-1][f"goodput/{name}"] > 0 for name in goodput.CATEGORIES if name != "replay"
    )


def test_a_finished_run_started_again_changes_nothing(project):
    before = losses(project / "whole")
    run = bertjax(project, "pretrain", project / "whole")
    assert run.returncode == DONE, run.stderr
    assert "resuming at step 160 of 160: nothing is left to train" in run.stdout
    assert losses(project / "whole") == before


def test_a_run_past_its_end_is_refused_and_claims_nothing(tmp_path):
    orbax.write(
        random_model(moments=True, head="pretraining"), directory := tmp_path / "w"
    )  # at step 17
    before = (directory / "config.json").read_bytes()
    config = workdir.read_config(directory)
    phase = dataclasses.replace(config.phases["phase1"], steps=5)
    shorter = dataclasses.replace(config, phases={"phase1": phase})
    with pytest.raises(UsageError, match="its checkpoint is at step 17, this config ends at 5"):
        loop.run(Pretraining(shorter, None, directory), directory)
    assert (directory / "config.json").read_bytes() == before


def kill_and_resume(project, workdir, moments):
    """Starts again and again, kills each process at its moment, and lets the last one finish."""
    for moment in moments:
        process = start(project, "pretrain", workdir)
        moment(process, workdir)
        process.kill()
        process.communicate()
    run = bertjax(project, "pretrain", workdir)
    assert run.returncode == DONE, run.stderr


def test_kill_9_and_resume_equals_the_whole_run(project, tmp_path):
    steps = [15, 70, 130]
    kill_and_resume(
        project,
        tmp_path / "w",
        [lambda p, w, s=s: wait_for_step(p, w, s) for s in steps],
    )
    assert_same_run(tmp_path / "w", project / "whole")


@pytest.mark.slow
def test_kill_9_at_10_random_moments_and_resume_equals_the_whole_run(project, tmp_path):
    draws = random.Random(20261123)
    started = time.monotonic()
    bertjax(project, "pretrain", tmp_path / "timed")
    duration = time.monotonic() - started
    kill_and_resume(
        project,
        tmp_path / "w",
        [lambda p, w: time.sleep(draws.uniform(0, duration)) for _ in range(10)],
    )
    assert_same_run(tmp_path / "w", project / "whole")


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_signal_saves_and_exits_42_and_the_resumed_run_is_the_same(project, tmp_path, number):
    process = start(project, "pretrain", tmp_path / "w")
    wait_for_step(process, tmp_path / "w", 50)
    process.send_signal(number)
    sent = time.monotonic()
    _, error = process.communicate(timeout=60)
    assert process.returncode == RESTART, error
    assert time.monotonic() - sent < 20
    assert f"{number.name}: saved step" in error
    run = bertjax(project, "pretrain", tmp_path / "w")
    assert run.returncode == DONE, run.stderr
    assert_same_run(tmp_path / "w", project / "whole")


def test_updates_that_stay_non_finite_stop_the_run_and_spare_the_checkpoints(project, tmp_path):
    run = bertjax(
        project,
        "pretrain",
        tmp_path / "w",
        "--config.optimizer.learning_rate=1e30",
        "--config.optimizer.warmup_steps=1",
        "--config.optimizer.max_consecutive_skips=3",
    )
    assert run.returncode == INTERNAL
    assert "not finite 3 times in a row" in run.stderr.splitlines()[-1]
    assert "Traceback" not in run.stderr
    skipped = [line["skipped"] for line in losses(tmp_path / "w")]
    assert skipped[-3:] == [1, 1, 1]
    model = convert.read(str(tmp_path / "w"))
    assert all(np.isfinite(x).all() for x in model.params["blocks"]["query"].values())


def test_fill_mask_evaluate_verify_and_plot_on_the_finished_run(project, capsys):
    from bertjax import __main__ as command_line

    whole = str(project / "whole")
    assert command_line.run(["bertjax", "fill-mask", whole, "the [MASK] of a class"]) == DONE
    rows = capsys.readouterr().out.splitlines()
    probabilities = [float(row.split()[1]) for row in rows]
    assert len(rows) == 5
    assert probabilities == sorted(probabilities, reverse=True)
    assert 0 < sum(probabilities) <= 1
    assert command_line.run(["bertjax", "evaluate", f"--workdir={whole}"]) == DONE
    values = json.loads(capsys.readouterr().out)
    last = losses(project / "whole")[-1]
    assert values["step"] == last["step"] == 160
    # 8 devices here and 1 in the run: the same examples and masks, other sums.
    np.testing.assert_allclose(values["mlm_loss"], last["eval/mlm_loss"], rtol=1e-4)
    command = ["bertjax", "evaluate", f"--workdir={whole}", "--config.mesh.fsdp=4"]
    assert command_line.run(command) == DONE  # the run's own config, changed
    np.testing.assert_allclose(
        json.loads(capsys.readouterr().out)["mlm_loss"], values["mlm_loss"], rtol=1e-5
    )
    assert command_line.run(["bertjax", "verify", f"{whole}/checkpoints"]) == DONE
    assert capsys.readouterr().out.count("whole") == 3
    assert command_line.run(["bertjax", "plot", whole]) == DONE
    assert (project / "whole" / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert command_line.run(["bertjax", "fill-mask", whole, "no mask"]) == USAGE
    assert "holds no [MASK]" in capsys.readouterr().err


def test_cloze_ranks_the_missing_words_as_fill_mask_does(project, capsys):
    from bertjax import __main__ as command_line

    whole = str(project / "whole")
    assert command_line.run(["bertjax", "cloze", whole, "--questions=6", "--top_k=30"]) == DONE
    *rows, summary = capsys.readouterr().out.splitlines()
    ranks = []
    for row in rows:
        rank, word, *candidates = row.split()[:32]
        assert rank == (str(candidates.index(word) + 1) if word in candidates else "-")
        ranks.append(rank)
    hits = len(ranks) - ranks.count("-")
    assert 0 < hits < 6
    assert summary.endswith(f"for {hits} of 6 sentences, the first for {ranks.count('1')}")
    sentence = " ".join(rows[0].split()[32:])
    asked = ["bertjax", "fill-mask", whole, sentence, "--top_k=30"]
    assert command_line.run(asked) == DONE
    found = [line.split()[2] for line in capsys.readouterr().out.splitlines()]
    assert found == rows[0].split()[2:32]


def test_fill_mask_says_the_same_of_every_form(project, tmp_path, capsys):
    from bertjax import __main__ as command_line

    whole, said = str(project / "whole"), []
    forms = [whole, f"hf:{tmp_path}/hf", f"tf1:{tmp_path}/tf/m.ckpt"]
    for form in forms[1:]:
        convert.convert(whole, form)
    for form in forms:
        assert command_line.run(["bertjax", "fill-mask", form, "the [MASK] of a class"]) == DONE
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] == said[2]
    assert said[0].count("\n") == 5


def files_of(directory):
    return {p: p.read_bytes() for p in directory.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("overrides", "code", "said"),
    [
        (["--config.model.hidden_size=64"], DATA, "hidden_size"),
        (["--config.model.num_hidden_layers=3"], DATA, "num_hidden_layers"),
        (["--config.model.vocab_size=100"], USAGE, "config.model.vocab_size=100"),
        (["--config.mesh.data=2"], USAGE, "does not fit 1 devices"),
        (["--config.examples.builder=full_sentences"], USAGE, "makes no sentence pairs"),
    ],
)
def test_what_does_not_fit_the_run_is_one_line_and_changes_nothing(
    project, tmp_path, overrides, code, said
):
    workdir = shutil.copytree(project / "whole", tmp_path / "w")
    assert (before := files_of(workdir / "checkpoints"))
    run = bertjax(project, "pretrain", workdir, *overrides)
    assert run.returncode == code, run.stderr
    assert said in run.stderr
    assert run.stderr.count("\n") == 1
    assert files_of(workdir / "checkpoints") == before


def test_no_silent_start_from_zero_and_no_traceback_without_a_run(tmp_path):
    from bertjax import __main__ as command_line

    assert command_line.run(["bertjax", "fill-mask", str(tmp_path), "[MASK]"]) == DATA
    assert command_line.run(["bertjax", "verify", str(tmp_path)]) == DATA
    assert command_line.run(["bertjax", "plot", str(tmp_path)]) == DATA
    assert command_line.run(["bertjax", "evaluate", f"--workdir={tmp_path}"]) == DATA


def test_pretraining_goes_on_from_tensorflow_files_to_the_bit(project, tmp_path):
    """Step 120 of 160, out to TensorFlow's form and back: the rest of the run is the same."""
    half, back = tmp_path / "half", tmp_path / "back"
    shutil.copytree(project / "whole", half)
    for step in (140, 160):
        shutil.rmtree(half / "checkpoints" / str(step))
    convert.convert(str(half), f"tf1:{tmp_path}/tf/bert.ckpt")
    convert.convert(f"tf1:{tmp_path}/tf/bert.ckpt", str(back))
    run = bertjax(project, "pretrain", back)  # makes the store, with the tokenizer of the weights
    assert run.returncode == DONE, run.stderr
    assert "resuming at step 120 of 160" in run.stdout
    rest, whole = (
        [line for line in losses(workdir) if line["step"] > 120]
        for workdir in (back, project / "whole")
    )
    assert rest == whole
    ours, theirs = convert.read(str(back)), convert.read(str(project / "whole"))
    jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)


@pytest.mark.slow
def test_a_run_starts_from_weights_of_another(project, tmp_path):
    """From a Hugging Face folder: the first loss is that of the trained model, not of a fresh one;
    a folder of weights alone is not resumed, and a foreign vocabulary is refused."""
    whole = project / "whole"
    convert.convert(str(whole), f"hf:{tmp_path}/hf")
    assert "| mlm_loss |" in (tmp_path / "hf/README.md").read_text()
    arguments = [
        f"--config.init_from=hf:{tmp_path}/hf",
        "--config.phases.phase1.steps=2",
        "--config.phases.phase2.steps=0",
        f"--config.tokenizer.path={tmp_path}/hf",
    ]
    run = bertjax(project, "pretrain", tmp_path / "w", *arguments)
    assert run.returncode == DONE, run.stderr
    assert "weights of hf:" in run.stdout
    fresh, trained = losses(whole)[0]["mlm_loss"], losses(whole)[119]["mlm_loss"]
    first = losses(tmp_path / "w")[0]["mlm_loss"]
    assert abs(first - trained) < abs(first - fresh)
    convert.convert(f"hf:{tmp_path}/hf", str(tmp_path / "weights"))
    shutil.copytree(whole / "store", tmp_path / "weights/store")
    run = bertjax(project, "pretrain", tmp_path / "weights")
    assert run.returncode == DATA
    assert "--config.init_from=" in run.stderr
    assert run.stderr.count("\n") == 1
    for field, value in (("model.hidden_act", "gelu_new"), ("tokenizer.vocab_size", 300)):
        overrides = [*arguments[:3], f"--config.{field}={value}"]
        run = bertjax(project, "pretrain", tmp_path / f"other-{value}", *overrides)
        assert run.returncode == USAGE, run.stderr
        assert "init_from" in run.stderr or field in run.stderr
