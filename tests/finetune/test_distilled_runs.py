"""Distilled fine-tunings from end to end: they come to agree, share a teacher, and refuse another."""

import shutil

import pytest
from finetune_runs import config, run, write_task
from teachers import write_teacher

from bertjax import convert, initial, workdir
from bertjax.errors import UsageError
from bertjax.finetune import commands
from bertjax.metrics import writer

pytestmark = pytest.mark.usefixtures("shown")  # what is logged is printed

SHORT = {"finetune__epochs": 1.0, "finetune__buckets": 0, "objective__distill": 1.0}


@pytest.fixture
def sst2(tmp_path):
    write_task(tmp_path, "sst2", 32, 16)
    return tmp_path


def evaluations(place):
    found = writer.evaluations(writer.read(place / "metrics.jsonl"))
    return [found[step] for step in sorted(found)]


@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize("form", ["workdir", "hf"])
def test_a_student_comes_to_agree_with_a_fine_tuned_teacher(form, sst2, capsys):
    """By the teacher's logits alone; smaller, and without token types."""
    how = {"finetune__epochs": 20.0, "finetune__buckets": 0}
    (teacher,) = run(sst2, "sst2", sst2 / "teacher", evaluation__every_steps=1000, **how)
    place = str(sst2 / "teacher")
    if form == "hf":
        place = f"hf:{sst2}/exported"
        convert.convert(str(sst2 / "teacher"), place)
    student = {
        "model__num_hidden_layers": 1,
        "model__type_vocab_size": 0,
        "objective__task": 0.0,
        "objective__distill": 1.0,
        "teacher__init_from": place,
        "evaluation__every_steps": 10,
    }
    capsys.readouterr()
    (result,) = run(sst2, "sst2", sst2 / "student", **how, **student)
    said = capsys.readouterr().out
    assert said.count("teacher: loss ") == 1
    reached = teacher["figures"]
    line = f"teacher: loss {reached['loss']:.4f}, accuracy {reached['accuracy']:.4f}, on dev"
    assert line in said
    assert "kept by name: negative (row 0), positive (row 1)" in said
    figures = evaluations(sst2 / "student")
    assert figures[-1]["agreement"] >= 0.9 > figures[0]["agreement"]
    assert figures[-1]["distill_loss"] < 0.2 * figures[0]["distill_loss"]
    assert result["figures"]["accuracy"] >= reached["accuracy"] - 0.1
    # Nothing after training needs the teacher.
    shutil.rmtree(sst2 / "teacher")
    again = commands.evaluate(workdir.read_config(sst2 / "student"), sst2 / "student")
    assert again["accuracy"] == pytest.approx(result["figures"]["accuracy"])
    assert again["loss"] == pytest.approx(result["figures"]["loss"], rel=1e-5)
    assert "agreement" not in again


@pytest.mark.usefixtures("one_device")
def test_a_grid_reads_its_teacher_once_and_compiles_a_program_once(sst2, capsys, monkeypatch):
    read, asked = initial.read, []

    def counted(config, field=initial.START):
        asked.append(field)
        return read(config, field)

    monkeypatch.setattr(initial, "read", counted)
    place = write_teacher(sst2, "teacher", config(sst2, "sst2"))
    programs, how = {}, SHORT | {"teacher__init_from": place}
    run(sst2, "sst2", sst2 / "w", programs, seeds=2, **how)
    assert asked == [initial.TEACHER]
    # Two evaluations: of the student, and of the teacher before the first run.
    assert sorted(key[0] for key in programs) == ["evaluate", "evaluate", "init", "train"]
    said = capsys.readouterr().out
    assert said.count("compiled in") == 1
    assert said.count("teacher: loss ") == 1
    run(sst2, "sst2", sst2 / "w", programs, seeds=2, **how)
    said = capsys.readouterr().out
    assert said.count("finished already") == 2
    assert "teacher: loss " not in said


@pytest.mark.usefixtures("one_device")
def test_a_run_goes_on_with_the_same_teacher_wherever_it_lies(sst2):
    asked = config(sst2, "sst2")
    place = write_teacher(sst2, "teacher", asked)
    how = SHORT | {"teacher__init_from": place}
    (first,) = run(sst2, "sst2", sst2 / "w", **how)
    moved = write_teacher(sst2, "moved", asked)
    assert run(sst2, "sst2", sst2 / "w", **how | {"teacher__init_from": moved}) == [first]
    other = {"teacher__init_from": write_teacher(sst2, "other", asked, seed=8)}
    refused = pytest.raises(UsageError, match=r"w holds a run with another teacher.*another --work")
    with refused:  # a finished run
        run(sst2, "sst2", sst2 / "w", **how | other)
    (sst2 / "w/scores.json").unlink()
    with refused:  # one that is half-way trained
        run(sst2, "sst2", sst2 / "w", **how | other)
    with refused:
        run(sst2, "sst2", sst2 / "w", **SHORT | {"objective__distill": 0.0})
    with pytest.raises(UsageError, match=r"temperature=3.0: .* holds a run with 2.0; take"):
        run(sst2, "sst2", sst2 / "w", teacher__temperature=3.0, **how)
    with pytest.raises(UsageError, match=r"objective.task=0.5: .* holds a run with 1.0; take"):
        run(sst2, "sst2", sst2 / "w", objective__task=0.5, **how)
    (sst2 / "w/examples.json").unlink()
    with pytest.raises(UsageError, match="was trained with another teacher"):  # the checkpoint's
        run(sst2, "sst2", sst2 / "w", **how | other)


@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize("task", ["stsb", "swag", "squad", "token"])
def test_every_kind_trains_beside_a_teacher(task, tmp_path):
    """Towards scores, choices, spans and words: the soft loss falls on what is trained on."""
    write_task(tmp_path, task, same=True)
    place = write_teacher(tmp_path, "teacher", config(tmp_path, task))
    how = {
        "finetune__epochs": 15.0,
        "finetune__buckets": 0,
        "evaluation__every_steps": 15,
        "objective__distill": 1.0,
        "objective__task": 0.0,
        "teacher__init_from": place,
    }
    run(tmp_path, task, tmp_path / "w", **how)
    logged = [line for line in writer.read(tmp_path / "w/metrics.jsonl") if "loss" in line]
    assert all(line["loss"] == line["distill_loss"] for line in logged)
    assert logged[-1]["distill_loss"] < 0.5 * logged[0]["distill_loss"]
    assert evaluations(tmp_path / "w")[-1]["distill_loss"] < 0.5 * logged[0]["distill_loss"]
