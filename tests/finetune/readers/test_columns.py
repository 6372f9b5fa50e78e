"""A user's own rows, by the columns that the config names."""

import gzip
import json

import pytest
from labeled import read, write, write_parquet

from bertjax.errors import DataError, UsageError
from bertjax.finetune.examples import Choices, Text
from bertjax.finetune.readers import files

ROWS = [('a, "b"', "yes"), ("c\u2028d", "no"), ("e", "yes")]
SINGLE = [Text("0", ('a, "b"',), "yes"), Text("1", ("c\u2028d",), "no"), Text("2", ("e",), "yes")]


def write_rows(folder, suffix, rows, columns=("text", "label"), stem="train"):
    """The rows as a file of a format."""
    path = folder / f"{stem}.{suffix}"
    dicts = [dict(zip(columns, row, strict=True)) for row in rows]
    if suffix == "parquet":
        return write_parquet(path, {name: [row[name] for row in dicts] for name in columns})
    if suffix == "tsv":
        lines = ["\t".join(columns), *("\t".join(map(str, row)) for row in rows)]
    elif suffix == "csv":
        cells = [['"' + str(cell).replace('"', '""') + '"' for cell in row] for row in rows]
        lines = [",".join(columns), *(",".join(row) for row in cells)]
    else:
        lines = [json.dumps(row) for row in dicts]
    data = ("\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(data) if suffix.endswith(".gz") else data)
    return path


FORMATS = ["tsv", "csv", "jsonl", "jsonl.gz", "parquet"]


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_gives_the_same_examples(tmp_path, suffix):
    write_rows(tmp_path, suffix, ROWS)
    write_rows(tmp_path, suffix, ROWS[:1], stem="dev")
    found = read(tmp_path, kind="single")
    assert found.splits == {"train": SINGLE, "dev": SINGLE[:1]}
    assert found.labels == ("no", "yes")


@pytest.mark.parametrize("suffix", FORMATS)
def test_pairs_ids_and_other_columns(tmp_path, suffix):
    columns = ("n", "first", "second", "gold", "more")
    rows = [("x1", "a", "b", 10, "-"), ("x2", "c", "d", 9, "-"), ("x3", "e", "f", 10, "-")]
    path = write_rows(tmp_path, suffix, rows, columns)
    names = {"text_column": "first", "pair_column": "second", "label_column": "gold"}
    found = read(path, kind="pair", id_column="n", **names)
    assert found.labels == ("9", "10")  # as numbers
    assert found.splits["train"][1] == Text("x2", ("c", "d"), "9")
    scored = read(path, kind="regression", id_column="n", **names)
    assert scored.labels == ()
    assert [example.label for example in scored.splits["train"]] == [10.0, 9.0, 10.0]


def test_csv_keeps_line_breaks_in_quotes_and_counts_lines(tmp_path):
    text = 'text,label\r\n"one\r\ntwo",a\r\n\r\n"three ""3""",b\r\n'
    write(tmp_path, train_csv=text)
    found = read(tmp_path, kind="single").splits["train"]
    assert [example.texts[0] for example in found] == ["one\r\ntwo", 'three "3"']
    write(tmp_path, train_csv=text + "four,c,d\r\n")
    with pytest.raises(DataError, match=r"train.csv:6: 3 columns, expected 2 \(text, label\)"):
        read(tmp_path, kind="single")
    write(tmp_path, train_csv=text + '"open,a\r\n')
    with pytest.raises(DataError, match=r"train.csv:6: not CSV"):
        read(tmp_path, kind="single")


def test_a_cell_of_100000_words(tmp_path):
    long = " ".join(f"word{k}" for k in range(100_000))
    for suffix in FORMATS:
        path = write_rows(tmp_path, suffix, [(long, "yes"), ("b", "no")])
        assert read(path, kind="single").splits["train"][0].texts == (long,)


def test_quotes_of_tsv_are_literal(tmp_path):
    write(tmp_path, train_tsv='text\tlabel\n"open\ta\nit\'s "so"\tb\n')
    found = read(tmp_path, kind="single").splits["train"]
    assert [example.texts[0] for example in found] == ['"open', 'it\'s "so"']


def test_label_names_give_the_order_and_the_limits(tmp_path):
    path = write_rows(tmp_path, "tsv", ROWS)
    assert read(path, kind="single", label_names=("yes", "no")).labels == ("yes", "no")
    with pytest.raises(
        DataError, match=r"train.tsv:3: unknown label 'no', known are 'yes', 'maybe'"
    ):
        read(path, kind="single", label_names=("yes", "maybe"))
    with pytest.raises(
        DataError, match=r"no training example has the label 'maybe' \(the labels: "
    ):
        read(path, kind="single", label_names=("yes", "no", "maybe"))


def test_labels_of_dev_must_be_those_of_training(tmp_path):
    write_rows(tmp_path, "jsonl", ROWS)
    write_rows(tmp_path, "jsonl", [("x", "yes"), ("y", "perhaps")], stem="valid")
    with pytest.raises(DataError, match=r"valid.jsonl:2: unknown label 'perhaps', known are 'no'"):
        read(tmp_path, kind="single")


def test_numbers_are_labels_however_they_are_written(tmp_path):
    write_parquet(tmp_path / "train.parquet", {"text": ["a", "b"], "label": [1.0, 0.0]})
    write(tmp_path, dev_jsonl='{"text": "c", "label": 1}\n{"text": "d", "label": "0"}\n')
    found = read(tmp_path, kind="single")
    assert found.labels == ("0", "1")
    assert [example.label for example in found.splits["dev"]] == ["1", "0"]


def test_numbers_are_places_among_class_names_that_are_numbers_too(tmp_path):
    rows = {"text": ["a", "b", "c"], "label": [1, 0, 2]}
    path = write_parquet(tmp_path / "train.parquet", rows, ["1", "2", "3"])
    found = read(path, kind="single")
    assert [example.label for example in found.splits["train"]] == ["2", "1", "3"]
    assert found.labels == ("1", "2", "3")


def test_class_names_of_parquet_are_the_labels_in_their_order(tmp_path):
    rows = {"text": ["a", "b", "c"], "label": [2, 0, 2]}
    path = write_parquet(tmp_path / "train.parquet", rows, ["world", "sports", "arts"])
    found = read(path, kind="single")
    assert found.labels == ("world", "arts")
    assert [example.label for example in found.splits["train"]] == ["arts", "world", "arts"]
    write_parquet(path, {**rows, "label": [2, 0, 3]}, ["world", "sports", "arts"])
    with pytest.raises(
        DataError, match=r"train.parquet, row 2: unknown label 3, known are 'world'"
    ):
        read(path, kind="single")
    write_parquet(path, {**rows, "label": [2, 0, -1]}, ["world", "sports", "arts"])
    with pytest.raises(DataError, match=r"train.parquet, row 2: no label in 'label'"):
        read(path, kind="single")


def test_a_test_split_may_have_no_labels(tmp_path):
    write_rows(tmp_path, "tsv", ROWS)
    write(tmp_path, test_tsv="text\nx\ny\n")
    found = read(tmp_path, kind="single")
    assert found.splits["test"] == [Text("0", ("x",), None), Text("1", ("y",), None)]
    write(tmp_path, test_tsv="text\tlabel\nx\tyes\ny\t\n")
    assert [example.label for example in read(tmp_path, kind="single").splits["test"]] == [
        "yes",
        None,
    ]
    write(tmp_path, dev_tsv="text\tlabel\nx\tyes\ny\t\n")
    with pytest.raises(DataError, match=r"dev.tsv:3: no label in 'label'; only a test split may"):
        read(tmp_path, kind="single")


@pytest.mark.parametrize("labels", [["b", "A"], ["two", "0"], ["B", "one"], [1, 0]])
def test_multiple_choice(tmp_path, labels):
    """The label is an option's column, number or letter; 'b' alone is a column here."""
    options = ("b", "two") if labels[0] == "b" else ("one", "two")
    if labels[0] == "b":
        labels = ["two", "A"]
    columns = ("story", "start", *options, "label")
    rows = [("It rained.", "He", "left.", "ate.", labels[0]), ("So", "It", "x", "y", labels[1])]
    path = write_rows(tmp_path, "jsonl", rows, columns)
    names = {"text_column": "story", "pair_column": "start", "option_columns": options}
    found = read(path, kind="multiple_choice", **names)
    assert found.splits["train"] == [
        Choices("0", "It rained.", "He", ("left.", "ate."), 1),
        Choices("1", "So", "It", ("x", "y"), 0),
    ]
    assert found.labels == ()


def test_bad_options(tmp_path):
    names = {"text_column": "story", "option_columns": ("one", "two")}
    path = write_rows(tmp_path, "tsv", [("a", "b", "c", "C")], ("story", "one", "two", "label"))
    with pytest.raises(
        DataError, match=r"train.tsv:2: unknown label 'C', known are 'one', 'two', '0"
    ):
        read(path, kind="multiple_choice", **names)
    path = write_rows(tmp_path, "tsv", [("a", "b", " ", "B")], ("story", "one", "two", "label"))
    with pytest.raises(DataError, match=r"train.tsv:2: the option 'two' is empty"):
        read(path, kind="multiple_choice", **names)
    with pytest.raises(UsageError, match=r"config.task.option_columns=\('one',\): .* two options"):
        read(path, kind="multiple_choice", text_column="story", option_columns=("one",))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("train.tsv", "text\tlabel\na\tyes\nb\n", r"train.tsv:3: 1 columns, expected 2"),
        ("train.tsv", "text\tlabel\na\tb\tyes\n", r"train.tsv:2: 3 columns, expected 2"),
        ("train.tsv", "body\tlabel\na\tyes\n", r"no column 'text', it has body, label; set config"),
        ("train.tsv", "text\tgold\na\tyes\n", r"it has text, gold; set config.task.label_column"),
        ("train.tsv", "text\tlabel\n", r"train.tsv: no rows"),
        ("train.tsv", "text\tlabel\na\tyes\nb\tyes\n", r"train.tsv: all labels are 'yes'"),
        ("train.tsv", "text\ttext\na\tb\n", r"train.tsv:1: two columns are called 'text'"),
        ("train.csv", "text,label\n", r"train.csv: no rows"),
        ("train.jsonl", "", r"train.jsonl: an empty file"),
        ("train.jsonl", "\n{\n", r"train.jsonl:2: not JSON"),
        ("train.jsonl", "[1]\n", r"train.jsonl:1: a JSON list, expected an object"),
        ("train.jsonl", '{"text": 3, "label": "a"}\n', r"train.jsonl:1: 'text' is int, expected"),
        ("train.jsonl", '{"text": "b", "label": ["a"]}\n', r"train.jsonl:1: the label is a list"),
        ("train.jsonl", '{"text": "b", "label": null}\n', r"train.jsonl:1: no label in 'label'"),
        ("train.parquet", "nothing", r"train.parquet: damaged parquet"),
    ],
)
def test_bad_files(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, kind="single")
    assert "\n" not in str(caught.value)


def test_the_content_tells_the_compression(tmp_path):
    path = write_rows(tmp_path, "jsonl.gz", ROWS)
    packed = path.read_bytes()
    path.write_bytes(gzip.decompress(packed))
    assert read(path, kind="single").splits["train"] == SINGLE
    path.write_bytes(packed[:-9])
    said = r"train.jsonl.gz: truncated or damaged gzip, in the member that starts at byte 0 of"
    with pytest.raises(DataError, match=said):
        read(path, kind="single")
    with pytest.raises(DataError, match=said):
        files.read_text(str(path))


@pytest.mark.parametrize("value", ["good", "nan", "inf"])
def test_bad_numbers(tmp_path, value):
    path = write_rows(tmp_path, "tsv", [("a", "1"), ("b", value)])
    with pytest.raises(DataError, match=rf"train.tsv:3: the label '{value}' is not a finite num"):
        read(path, kind="regression")


def test_columns_that_do_not_fit_the_kind(tmp_path):
    path = write_rows(tmp_path, "tsv", ROWS)
    with pytest.raises(UsageError, match=r"pair_column is unset; config.task.kind=pair needs"):
        read(path, kind="pair")
    with pytest.raises(UsageError, match=r"pair_column='b': config.task.kind=single reads one"):
        read(path, kind="single", pair_column="b")
    with pytest.raises(UsageError, match=r"pair_column is unset; config.task.kind=span needs"):
        read(path, kind="span")
