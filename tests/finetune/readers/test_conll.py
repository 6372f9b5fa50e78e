"""CoNLL columns: sentences, tags, and every gold entity counted."""

from collections import Counter

import pytest
from labeled import read, real_data, write

from bertjax.errors import DataError, UsageError
from bertjax.finetune.examples import Words

WNUT = "Empire\tB-location\nState\tI-location\n\n\u00a0\tO\n@paul\tB-person\n.\tO\n\n\n"
CONLL = "-DOCSTART- -X- O O\n\nEU NNP I-NP B-ORG\nrejects VBZ I-VP O\n\nPeter NNP I-NP B-PER"


def test_tabs(tmp_path):
    write(tmp_path, wnut17train_conll=WNUT, emerging_dev_conll=WNUT.replace("person", "group"))
    (tmp_path / "emerging_dev.conll").rename(tmp_path / "emerging.dev.conll")
    found = read(tmp_path, kind="token")
    assert found.splits["train"] == [
        Words("0", ("Empire", "State"), ("B-location", "I-location")),
        Words("1", ("\u00a0", "@paul", "."), ("O", "B-person", "O")),
    ]
    assert found.labels == ("O", "B-location", "B-person", "I-location", "B-group")
    assert found.notes == (
        "the tags B-group are in no training example; they are labels too, so that evaluation "
        "counts them",
    )


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_spaces_documents_and_another_column(tmp_path, end):
    write(tmp_path, eng_train=CONLL.replace("\n", end))
    found = read(tmp_path / "eng.train", kind="token")
    assert found.splits["train"] == [
        Words("0", ("EU", "rejects"), ("B-ORG", "O")),
        Words("1", ("Peter",), ("B-PER",)),
    ]
    assert found.notes[0] == f"{tmp_path}/eng.train: 1 -DOCSTART- lines are skipped"
    chunks = read(tmp_path / "eng.train", kind="token", label_column="2")
    assert chunks.labels == ("I-NP", "I-VP")
    same = read(tmp_path / "eng.train", kind="token", label_column="-2")
    assert same.splits == chunks.splits


def test_a_test_file_of_words_alone(tmp_path):
    write(tmp_path, train_conll=WNUT, test_conll="One\ntwo\n\nthree\n")
    found = read(tmp_path, kind="token")
    assert found.splits["test"] == [Words("0", ("One", "two"), None), Words("1", ("three",), None)]


def test_label_names(tmp_path):
    write(tmp_path, train_conll=WNUT)
    names = ("B-location", "I-location", "B-person", "O", "B-group")
    assert read(tmp_path, kind="token", label_names=names).labels == names
    with pytest.raises(
        DataError, match=r"train.conll:5: unknown label 'B-person', known are 'O', "
    ):
        read(tmp_path, kind="token", label_names=("O", "B-location", "I-location"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("One\tO\ntwo\n", r"train.conll:2: 'two' has 1 columns, but the first line of the file"),
        ("One\tO\ntwo\t\n", r"train.conll:2: 'two\\t' has 1 columns"),
        ("One\tO\n\nb\tc\td\n", r"train.conll:3: .* has 3 columns"),
        ("One\n", r"train.conll:1: 1 columns \(One\): no tag in column -1"),
        ("\n\n \n\t\n", r"train.conll: no sentences"),
        ("", r"train.conll: an empty file"),
        ("-DOCSTART-\n", r"train.conll: no sentences"),
    ],
)
def test_bad_files(tmp_path, text, message):
    write(tmp_path, train_conll=text)
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, kind="token")
    assert "\n" not in str(caught.value)


def test_bad_columns(tmp_path):
    write(tmp_path, train_conll=WNUT)
    with pytest.raises(UsageError, match=r"label_column='tag': CoNLL columns have no names"):
        read(tmp_path, kind="token", label_column="tag")
    for column in ("2", "0", "-2", "-3"):
        with pytest.raises(DataError, match=rf"train.conll:1: 2 columns .* column {column} "):
            read(tmp_path, kind="token", label_column=column)


def test_published_files():
    folder = real_data("ner", "wnut17")
    found = read(folder, kind="token")
    assert {split: len(some) for split, some in found.splits.items()} == {
        "train": 3394,
        "dev": 1009,
    }
    for split, name in (("train", "wnut17train.conll"), ("dev", "emerging.dev.conll")):
        lines = (folder / name).read_bytes().decode().split("\n")
        gold = Counter(line.split("\t")[1] for line in lines if line.strip())
        assert Counter(tag for e in found.splits[split] for tag in e.tags) == gold
    assert len(found.labels) == 13
    assert found.labels[0] == "O"
