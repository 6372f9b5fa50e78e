"""Whole published files as inputs: every row is one example, in order, with the readers' labels."""

import labeled
import pytest

from bertjax.finetune.readers import inputs
from bertjax.finetune.readers.lines import Bad
from bertjax.finetune.readers.row_examples import Reading
from bertjax.finetune.tasks import TASKS

REAL = ("cola", "sst2", "mrpc", "stsb", "rte", "wnli")


@pytest.mark.parametrize("name", REAL)
def test_glue_files_give_what_training_reads_of_them(name):
    task = TASKS[name]
    folder = labeled.real_data("glue", task.folder)
    splits = labeled.read(folder, name).splits
    for split in ("dev", "test"):
        how = Reading(task.kind, task=task, labels=task.labels)
        assert list(inputs.read(str(folder / f"{split}.tsv"), how)) == splits[split]


def test_conll_and_squad_give_what_training_reads_of_them():
    path = labeled.real_data("ner", "wnut17", "emerging.dev.conll")
    found = list(inputs.read(str(path), Reading("token", labels=("O", "B-person"))))
    assert found == labeled.read(path, kind="token").splits["dev"]
    path = labeled.real_data("squad", "v2.0", "half-dev-v2.0.json")
    found = list(inputs.read(str(path), Reading("span", null_answers=True)))
    assert found == labeled.read(path, "squad2").splits["dev"]


def test_labels_are_read_by_name_word_number_and_position():
    """RTE's 0 is entailment in the export; of WNLI it is the reverse (its labels' order)."""
    from bertjax.finetune.readers import row_examples

    for name, written, label in (
        ("rte", "entailment", "entailment"),
        ("rte", "0", "entailment"),
        ("wnli", "0", "not_entailment"),
        ("sst2", "1", "positive"),
    ):
        for labels in (TASKS[name].labels, TASKS[name].labels[::-1]):
            how = Reading("pair", task=TASKS[name], labels=labels)
            assert row_examples.label_of(written, how) == label
    unnamed = Reading("classification", labels=("LABEL_0", "LABEL_1"))
    assert row_examples.label_of("1", unnamed) == "LABEL_1"
    assert row_examples.label_of("x", unnamed) == "x"


def test_line_breaks_in_quotes_stay_as_in_training(tmp_path):
    """Answers are characters of the context, and CRLF is two of them."""
    (tmp_path / "a.csv").write_bytes(b'text,n\r\n"one\r\ntwo",1\r\n"a\n\nb",2\r\nc\r\n\r\n')
    *rows, bad = inputs.read(str(tmp_path / "a.csv"), Reading("single"))
    assert [row.texts for row in rows] == [("one\r\ntwo",), ("a\n\nb",)]
    assert bad.reason.startswith(f"{tmp_path}/a.csv:7: 1 columns, expected 2 (text, n); put a text")


def test_hans_is_read_by_its_header_whatever_the_suffix(tmp_path):
    """Of a model that names its labels, with or without a task."""
    head = "gold_label\tsentence1_parse\tsentence1\tsentence2\tpairID\theuristic\n"
    path = tmp_path / "heuristics_evaluation_set.txt"
    path.write_text(f"{head}non-entailment\t(a)\ta b .\tc .\tex0\tsubsequence\n")
    mnli = TASKS["mnli"]
    for how in (Reading("classification", labels=mnli.labels), Reading("pair", task=mnli)):
        (row,) = inputs.read(str(path), how)
        assert (row.texts, row.label) == (("a b .", "c ."), "non-entailment")


def test_a_blank_line_inside_is_a_bad_row_and_at_the_end_is_none(tmp_path):
    (tmp_path / "a.tsv").write_text("text\tn\na\t1\n\nb\t1\n\n\n")
    rows = list(inputs.read(str(tmp_path / "a.tsv"), Reading("single")))
    assert [isinstance(row, Bad) for row in rows] == [False, True, False]
