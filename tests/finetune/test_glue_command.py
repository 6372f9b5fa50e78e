"""`bertjax glue`: every task at hand, one table, the leaderboard's zip."""

import json
import random
import zipfile

import pytest
from finetune_runs import BAD, GOOD, NAMES, fields, sentence, write_vocab

from bertjax import __main__ as main
from bertjax import errors
from bertjax.finetune import glue, tasks

TEST_ROWS = 19  # divides by neither the batch nor the devices


def write_pairs(path, labels, count, label_column="label"):
    rng, head = random.Random(path.name), "index\tsentence1\tsentence2"
    lines = [head + (f"\t{label_column}" if labels else "")]
    for i in range(count):
        pair = f"{i}\t{sentence(rng, NAMES)}\t{sentence(rng, GOOD if i % 2 else BAD)}"
        lines.append(pair + (f"\t{labels[i % len(labels)]}" if labels else ""))
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def directory(tmp_path):
    """RTE and MNLI with its diagnostic; QNLI without a training file; a vocabulary."""
    root = tmp_path / "glue"
    for name in ("RTE", "MNLI", "QNLI"):
        (root / name).mkdir(parents=True)
    two, three = ("entailment", "not_entailment"), tasks.TASKS["mnli"].labels
    write_pairs(root / "RTE" / "train.tsv", two, 32)
    write_pairs(root / "RTE" / "dev.tsv", two, 13)
    write_pairs(root / "RTE" / "test.tsv", (), TEST_ROWS)
    write_pairs(root / "MNLI" / "train.tsv", three, 48, "gold_label")
    for split in ("matched", "mismatched"):
        write_pairs(root / "MNLI" / f"dev_{split}.tsv", three, 11, "gold_label")
        write_pairs(root / "MNLI" / f"test_{split}.tsv", (), TEST_ROWS)
    write_pairs(root / "MNLI" / "diagnostic.tsv", (), 7)
    write_pairs(root / "QNLI" / "dev.tsv", two, 5)
    write_vocab(tmp_path)
    return root


def run(directory, workdir, *more):
    own = fields(directory.parent, "rte", finetune__epochs=1.0)
    own.pop("data.files")
    set_to = [f"--config.{name}={value}" for name, value in own.items()]
    arguments = ["bertjax", "glue", f"--files={directory}", f"--workdir={workdir}", *set_to, *more]
    return main.run(arguments)


def test_all_tasks_at_hand_one_table_and_a_zip(directory, one_device, tmp_path, capsys):
    workdir = tmp_path / "w"
    assert run(directory, workdir, "--recipe=roberta") == errors.DONE
    said = capsys.readouterr().out
    assert "QNLI: no training file; the task is left out" in said
    report = json.loads((workdir / "results.json").read_text())
    assert [(r["task"], r["seed"]) for r in report["runs"]] == [
        ("mnli", 0), ("rte", 0)
    ]  # fmt: skip
    assert "mismatched_accuracy" in report["runs"][0]["figures"]
    with zipfile.ZipFile(workdir / "submission.zip") as archive:
        rows = {n: archive.read(n).decode().splitlines() for n in archive.namelist()}
    counts = {name: len(lines) - 1 for name, lines in rows.items()}
    assert counts == {
        "MNLI-m.tsv": TEST_ROWS,
        "MNLI-mm.tsv": TEST_ROWS,
        "RTE.tsv": TEST_ROWS,
        "AX.tsv": 7,
    }
    assert {line.split("\t")[1] for line in rows["RTE.tsv"][1:]} <= {"entailment", "not_entailment"}
    assert {line.split("\t")[1] for line in rows["AX.tsv"][1:]} <= set(tasks.TASKS["mnli"].labels)
    assert [line.split("\t")[0] for line in rows["RTE.tsv"][1:]] == [
        str(i) for i in range(TEST_ROWS)
    ]
    table = said[said.rindex("task  metric") :]
    assert "2 of 9 tasks" not in table.split("average")[0]
    assert f"weights of {workdir}/mnli; at random: classifier" in said
    assert run(directory, workdir, "--recipe=roberta") == errors.DONE
    again = capsys.readouterr().out
    assert again.count("finished already") == 2
    assert again[again.rindex("task  metric") :] == table


def test_tasks_are_found_by_either_name_or_refused(directory, tmp_path, capsys):
    (directory / "RTE").rename(directory / "rte")
    assert list(glue.at_hand(directory)) == ["mnli", "rte"]
    assert list(glue.at_hand(directory, ["rte"])) == ["rte"]
    for more, said in (
        (["--tasks=rte,foo"], "--tasks=foo: GLUE has"),
        (["--tasks=cola"], "CoLA: no such folder"),
    ):
        assert run(directory, tmp_path / "w", *more) in (errors.USAGE, errors.DATA)
        assert said in capsys.readouterr().err
    assert run(tmp_path, tmp_path / "w") == errors.DATA
    assert "none of the folders MNLI, QQP" in capsys.readouterr().err
