"""Laws of bertjax.finetune.scoring.submission: what GLUE's and SQuAD's scripts read."""

import json
import math
import os
import zipfile
from pathlib import Path

import pytest

from bertjax.errors import DataError, StorageError
from bertjax.finetune.scoring import null_threshold, submission
from bertjax.finetune.tasks import TASKS

NAMES = (
    "CoLA.tsv SST-2.tsv MRPC.tsv STS-B.tsv QQP.tsv MNLI-m.tsv MNLI-mm.tsv QNLI.tsv RTE.tsv "
    "WNLI.tsv AX.tsv"
)


def labels(key):
    return TASKS["mnli" if key in ("ax", "mnli_mismatched") else key].labels


def rows(key, count=6):
    if key == "stsb":
        return [(str(i), i / 2) for i in range(count)]
    return [(str(i), labels(key)[i % len(labels(key))]) for i in range(count)]


def lines(text):
    return [line.split("\t") for line in text.splitlines()]


@pytest.mark.parametrize(
    ("key", "values"),
    [
        *((key, ["0", "1"]) for key in ("cola", "sst2", "mrpc", "qqp", "wnli")),
        *((key, ["entailment", "not_entailment"]) for key in ("qnli", "rte")),
        *(
            (key, ["entailment", "neutral", "contradiction"])
            for key in ("mnli", "mnli_mismatched", "ax")
        ),
    ],
)
def test_values_are_words_or_digits(key, values):
    got = lines(submission.tsv(key, rows(key)))
    assert got[0] == ["index", "prediction"]
    assert [value for _, value in got[1:]] == (values * 6)[:6]
    assert [index for index, _ in got[1:]] == list("012345")


def test_digits_go_by_the_labels_meaning():
    assert lines(submission.tsv("wnli", [("0", "entailment")]))[1] == ["0", "1"]
    assert lines(submission.tsv("cola", [("0", "acceptable")]))[1] == ["0", "1"]
    assert lines(submission.tsv("qqp", [("0", "not_duplicate")]))[1] == ["0", "0"]


def test_similarities_are_clipped_and_have_three_decimals():
    values = [-0.3, -0.0, 0.0004, 2.34567, 5.0, 7.5]
    got = lines(submission.tsv("stsb", [(str(i), v) for i, v in enumerate(values)]))
    assert [value for _, value in got[1:]] == ["0.000", "0.000", "0.000", "2.346", "5.000", "5.000"]


@pytest.mark.parametrize(
    ("key", "bad", "message"),
    [
        (
            "rte",
            [("0", "entailment"), ("1", "neutral")],
            "RTE.tsv: index 1: 'neutral' is not a label",
        ),
        ("cola", [("7", "1")], "CoLA.tsv: index 7: '1' is not a label; take one of unaccept"),
        ("sst2", [("3", "negative")] * 2, "SST-2.tsv: row 1: index 3 occurs twice"),
        ("stsb", [("0", math.nan)], "STS-B.tsv: index 0: nan is not a finite number"),
    ],
)
def test_bad_rows_are_one_line(key, bad, message):
    with pytest.raises(DataError) as refused:
        submission.tsv(key, bad)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_zip_has_every_file_and_row(tmp_path):
    path = tmp_path / "glue.zip"
    notes = submission.write_glue(path, {key: rows(key) for key in submission.GLUE})
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == NAMES.split()
        for name in archive.namelist():
            assert len(archive.read(name).decode().splitlines()) == 7
    assert "QQP.tsv: 6 rows; the official test has 390965" in notes
    assert len(notes) == 11
    before = path.read_bytes()
    submission.write_glue(path, {key: rows(key) for key in submission.GLUE})
    assert path.read_bytes() == before


def test_what_is_missing_or_short_is_said(tmp_path):
    notes = submission.write_glue(tmp_path / "glue.zip", {"wnli": rows("wnli", 146)})
    (note,) = notes
    assert "leaderboard needs all files: CoLA.tsv, SST-2.tsv" in note
    assert "WNLI" not in note


def test_counts_are_those_of_the_official_files():
    if "BERTJAX_TEST_DATA" not in os.environ:
        pytest.skip("BERTJAX_TEST_DATA is not set: no official test files")
    found = 0
    for file in submission.GLUE.values():
        path = Path(
            os.environ["BERTJAX_TEST_DATA"], "glue", file.name.removesuffix(".tsv"), "test.tsv"
        )
        if path.exists():
            found += 1
            assert path.read_bytes().rstrip(b"\n").count(b"\n") == file.rows, path
    assert found >= 7


def test_a_disk_that_refuses_is_one_line(tmp_path):
    (tmp_path / "w").write_text("a file, not a folder")
    with pytest.raises(StorageError, match=r"w/glue\.zip: "):
        submission.write_glue(tmp_path / "w/glue.zip", {"wnli": rows("wnli", 146)})
    with pytest.raises(StorageError, match=r"w/predictions\.json: "):
        submission.write_squad(tmp_path / "w", {"a": "b"})


def test_squad_1(tmp_path):
    (path,) = submission.write_squad(tmp_path, {"a": "Ångström", "b": ""})
    assert path.name == "predictions.json"
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": "Ångström", "b": ""}


def test_squad_2_holds_answers_back_and_keeps_the_odds(tmp_path):
    answers, odds = {"a": "x", "b": "y", "c": "z"}, {"a": -1.0, "b": 1.0, "c": 0.0}
    paths = submission.write_squad(tmp_path, answers, odds, threshold=0.5)
    read = {path.name: json.loads(path.read_text()) for path in paths}
    assert read == {
        "predictions.json": {"a": "x", "b": "", "c": "z"},
        "best_answers.json": answers,
        "null_odds.json": odds,
    }
    assert read["predictions.json"] == null_threshold.apply(answers, odds, 0.5)
