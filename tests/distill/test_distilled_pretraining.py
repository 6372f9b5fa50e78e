"""`bertjax pretrain` beside a teacher: one command, killed, resumed, refused, on several devices."""

import copy
import dataclasses
import json
import signal

import numpy as np
import pytest
from runs import assert_same_run, bertjax, cluster, losses, make_project, start, wait_for_step

from bertjax import config as config_lib
from bertjax import convert, pretraining, workdir
from bertjax.convert import hf
from bertjax.errors import DataError, UsageError

STEPS = 30
SHORT = (
    f"--config.phases.phase1.steps={STEPS}",
    "--config.phases.phase2.steps=0",
    "--config.checkpoints.every_steps=10",
    "--config.evaluation.every_steps=15",
)
STUDENT = (
    *SHORT,
    "--config.model.num_hidden_layers=1",
    "--config.model.type_vocab_size=0",
    "--config.model.head=masked_lm",
    "--config.teacher.layers=(1,)",
    "--config.objective.nsp=0",
    "--config.objective.mlm=2",
    "--config.objective.distill=5",
    "--config.objective.cosine=1",
    "--config.masking.smoothing=0.7",
)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A corpus and a teacher that was trained on it for a moment."""
    root = make_project(tmp_path_factory.mktemp("distill"))
    taught = bertjax(root, "pretrain", root / "teacher", *SHORT)
    assert taught.returncode == 0, taught.stderr
    return root


def beside(root, *more):
    return (*STUDENT, f"--config.teacher.init_from={root}/teacher", *more)


@pytest.fixture(scope="module")
def whole(project):
    run = bertjax(project, "pretrain", project / "whole", *beside(project))
    assert run.returncode == 0, run.stderr
    return project / "whole", run.stdout


def test_one_command_learns_from_the_teacher_with_its_tokenizer(project, whole):
    place, said = whole
    assert "blocks 1 of" in said
    assert "token type 0 of the teacher: added to every position" in said
    vocabularies = [
        (w / "tokenizer" / "tokenizer.json").read_text() for w in (place, project / "teacher")
    ]
    assert vocabularies[0] == vocabularies[1]
    evaluations = [line for line in losses(place) if "eval/agreement" in line]
    assert [line["step"] for line in evaluations] == [15, 30]
    names = ("agreement", "distill_loss", "cosine_loss", "mlm_accuracy", "teacher_mlm_accuracy")
    assert all(0 <= evaluations[-1][f"eval/{name}"] < 1 for name in names)
    assert evaluations[-1]["eval/cosine_loss"] < 0.2  # a start at random would be near 1
    student = convert.read(str(place))
    assert set(student.params) == {"embeddings", "blocks", "masked_lm"}  # and not the teacher
    figures = pretraining.evaluate(workdir.read_config(place), place)
    assert figures["distill_loss"] == pytest.approx(evaluations[-1]["eval/distill_loss"], rel=1e-5)


def test_killed_and_resumed_it_is_the_same_run(project, whole, tmp_path):
    process = start(project, "pretrain", tmp_path / "w", *beside(project))
    wait_for_step(process, tmp_path / "w", 12)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    again = bertjax(project, "pretrain", tmp_path / "w", *beside(project))
    assert again.returncode == 0, again.stderr
    assert "resuming at step" in again.stdout
    assert_same_run(tmp_path / "w", whole[0], STEPS)


def test_bad_teachers_are_refused_before_anything_is_prepared(project, whole, tmp_path):
    tree = config_lib.to_dict(workdir.read_config(whole[0]))
    tree["tokenizer"]["path"] = None
    bare = convert.read(str(project / "teacher"))
    bare = dataclasses.replace(bare, config=bare.config.with_model(head="pooler"))
    bare.params.pop("masked_lm")
    bare.params.pop("next_sentence")
    hf.write(bare, tmp_path / "bare")
    other, place = tmp_path / "vocab.txt", tmp_path / "w"
    found = json.loads((project / "teacher/tokenizer/tokenizer.json").read_text())["model"]["vocab"]
    pieces = sorted(found, key=found.get)
    other.write_text("\n".join([*pieces[:-1], "another"]) + "\n")
    cases = [
        ({"teacher": {"init_from": f"{tmp_path}/none"}}, DataError, "none"),
        ({"teacher": {"init_from": None}}, UsageError, "distill=5.0: needs a teacher; name one"),
        (
            {"teacher": {"init_from": f"hf:{tmp_path}/bare"}},
            UsageError,
            "its head is pooler, without",
        ),
        ({"teacher": {"layers": [2]}}, UsageError, "has 2 blocks, counted from 0"),
        ({"tokenizer": {"path": str(other)}}, UsageError, "here 'another'; set"),
        ({"model": {"hidden_size": 64}}, UsageError, "has shape"),
        ({"model": {"vocab_size": 500}}, UsageError, "vocab_size=500: the teacher"),
    ]
    for changes, kind, said in cases:
        changed = copy.deepcopy(tree)
        for group, fields in changes.items():
            changed[group] |= fields
        with pytest.raises(kind, match=said):
            pretraining.open(config_lib.from_config_dict(changed), place, build=True)
        assert not (place / "store").exists()


@pytest.mark.slow
def test_another_teacher_is_refused_on_resume(project, whole, tmp_path):
    more = bertjax(project, "pretrain", tmp_path / "other", *SHORT, "--config.seed=1")
    assert more.returncode == 0, more.stderr
    run = bertjax(
        project, "pretrain", whole[0], *STUDENT, f"--config.teacher.init_from={tmp_path}/other"
    )
    line = run.stderr.strip().splitlines()[-1]
    assert run.returncode == 64
    assert "was trained with another teacher (SHA-256" in line
    assert "Traceback" not in run.stderr


@pytest.mark.slow
def test_two_processes_of_four_devices_and_two_micro_batches_are_one(project, whole, tmp_path):
    parts = beside(project, "--config.phases.phase1.micro_batch_size=8")
    running = [
        start(
            project,
            "pretrain",
            tmp_path / "w",
            *parts,
            "--config.phases.phase1.batch_size=16",
            "--config.mesh.fsdp=2",
            **variables,
            XLA_FLAGS="--xla_force_host_platform_device_count=4",
        )
        for variables in cluster(2)
    ]
    ends = [process.communicate(timeout=600) for process in running]
    assert [process.returncode for process in running] == [0, 0], ends
    alone = bertjax(
        project,
        "pretrain",
        tmp_path / "one",
        *beside(project),
        "--config.phases.phase1.batch_size=16",
    )
    assert alone.returncode == 0, alone.stderr
    pairs = zip(losses(tmp_path / "w"), losses(tmp_path / "one"), strict=True)
    for ours, theirs in pairs:
        assert ours.keys() == theirs.keys()
        for name in ours:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=2e-4, err_msg=name)


@pytest.mark.slow
def test_a_teacher_that_one_of_two_hosts_lacks_ends_both(project, tmp_path):
    teachers = (f"{project}/teacher", f"{tmp_path}/none")
    running = [
        start(
            project,
            "pretrain",
            tmp_path / "w",
            *STUDENT,
            f"--config.teacher.init_from={uri}",
            **variables,
        )
        for uri, variables in zip(teachers, cluster(2), strict=True)
    ]
    ends = [process.communicate(timeout=300) for process in running]
    assert all(process.returncode for process in running), ends
    assert "none" in ends[1][1].strip().splitlines()[-1]
    assert "Traceback" not in ends[0][1] + ends[1][1]
