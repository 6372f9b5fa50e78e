"""The split that a file's name tells, and what is held out where no file is for evaluation."""

import random

import pytest
from labeled import read, write

from bertjax.errors import DataError, UsageError
from bertjax.finetune.examples import Choices, Dataset, Text, Words
from bertjax.finetune.readers import splits


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("train.tsv", "train"),
        ("wnut17train.conll", "train"),
        ("train-v1.1.json", "train"),
        ("train-00000-of-00001.parquet", "train"),
        ("TRAIN_A.csv", "train"),
        ("emerging.dev.conll", "dev"),
        ("half-dev-v2.0.json", "dev"),
        ("val.csv", "dev"),
        ("eng.testa", "dev"),
        ("eng.testb", "test"),
        ("validation-00000-of-00001.parquet", "dev"),
        ("my valid.jsonl.gz", "dev"),
        ("eval.jsonl", "dev"),
        ("test.tsv", "test"),
        ("test/train.tsv", "train"),
        ("test/rows.tsv", None),
        ("latest.json", None),
        ("contest.csv", None),
        ("evaluate.tsv", None),
        ("developer.tsv", None),
        ("new_wiki_v1.0.json", None),
    ],
)
def test_names(path, split):
    assert splits.told(path) == split


def test_files_that_tell_nothing(tmp_path):
    for name in ("a.tsv", "b.tsv", "my_dev.tsv", "notes.md"):
        (tmp_path / name).touch()
    a, b, dev = (str(tmp_path / name) for name in ("a.tsv", "b.tsv", "my_dev.tsv"))
    assert splits.assign([a, b], (".tsv",)) == ({"train": [a, b]}, [])
    assert splits.assign([a, dev], (".tsv",)) == ({"train": [a], "dev": [dev]}, [])
    assert splits.assign([dev], (".tsv",)) == ({"dev": [dev]}, [])
    assert splits.assign([str(tmp_path)], (".tsv",)) == ({"train": [a, b], "dev": [dev]}, [])
    (tmp_path / "train.tsv").touch()
    train = str(tmp_path / "train.tsv")
    found, notes = splits.assign([str(tmp_path)], (".tsv",))
    assert found == {"train": [train], "dev": [dev]}
    assert notes == [f"{name} is not read: its name tells no split" for name in (a, b)]
    with pytest.raises(
        UsageError, match=r"a.tsv says neither train, dev nor test, and .*train.tsv"
    ):
        splits.assign([train, a], (".tsv",))
    with pytest.raises(UsageError, match=r"notes.md is none of .tsv"):
        splits.assign([str(tmp_path / "notes.md")], (".tsv",))
    with pytest.raises(DataError, match=r"no .json in the folder"):
        splits.assign([str(tmp_path)], (".json",))
    with pytest.raises(UsageError, match=r"train-test.tsv says test and train; rename it"):
        splits.told("train-test.tsv")


def texts(count):
    return [Text(str(k), (f"Text {k}", "and another"), "a") for k in range(count)]


def test_held_out_by_the_text_and_not_by_the_place():
    examples = texts(2000)
    found = splits.hold_out(Dataset({"train": examples}), 0.1)
    assert 150 <= len(found.splits["dev"]) <= 250  # 200, standard deviation 13
    both = found.splits["train"] + found.splits["dev"]
    assert sorted(both) == sorted(examples)
    assert found.splits["train"] == [e for e in examples if e in set(found.splits["train"])]
    # Another order, other ids, and as many examples more: each text stays on its side.
    shuffled = [Text(str(-k), e.texts, "b") for k, e in enumerate(texts(4000))]
    random.Random(0).shuffle(shuffled)
    again = splits.hold_out(Dataset({"train": shuffled}), 0.1)
    held = {e.texts for e in again.splits["dev"]}
    assert {e.texts for e in found.splits["dev"]} == held & {e.texts for e in examples}
    # A larger share holds what the smaller one holds.
    more = {e.texts for e in splits.hold_out(Dataset({"train": examples}), 0.3).splits["dev"]}
    assert {e.texts for e in found.splits["dev"]} < more
    (note,) = found.notes
    assert f"{len(found.splits['dev'])} of 2000 training examples" in note


def test_what_is_held_out_of_other_kinds():
    passages = [
        Choices(f"{k}-{n}", f"P {k}", str(n), ("a", "b"), 0) for k in range(99) for n in "12"
    ]
    found = splits.hold_out(Dataset({"train": passages}), 0.3).splits
    assert not {e.context for e in found["dev"]} & {e.context for e in found["train"]}
    sentences = [Words(str(k), ("Word", str(k)), ("O", "O")) for k in range(99)]
    assert len(splits.hold_out(Dataset({"train": sentences}), 0.3).splits["dev"]) > 10


def test_nothing_is_held_out_where_there_is_dev_or_no_train():
    for parts in ({"train": texts(9), "dev": texts(1)}, {"dev": texts(9)}, {"test": texts(9)}):
        dataset = Dataset(parts)
        assert splits.hold_out(dataset, 0.5) is dataset
    none = splits.hold_out(Dataset({"train": texts(9)}), 0.0)
    assert set(none.splits) == {"train"}
    assert none.notes == ("there is no dev split, and config.data.heldout_fraction is 0",)


def test_a_label_whose_examples_are_all_held_out_is_refused(tmp_path):
    held = splits.hold_out(Dataset({"train": texts(99)}), 0.3).splits["dev"][0].texts[0]
    rows = [(f"Text {k}", "rare" if f"Text {k}" == held else "ab"[k % 2]) for k in range(99)]
    lines = [f"{text}\tand another\t{label}" for text, label in rows]
    write(tmp_path, a_tsv="\n".join(["text\tpair\tlabel", *lines]))
    with pytest.raises(
        DataError, match=r"the label 'rare' .*; all its examples are held out: chan"
    ):
        read(tmp_path, kind="pair", pair_column="pair", heldout=0.3)


def test_an_empty_side_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"heldout_fraction=1e-09: of 9 .* it leaves 0 for dev"):
        splits.hold_out(Dataset({"train": texts(9)}), 1e-9)
    write(tmp_path, a_tsv="text\tlabel\nx\ta\ny\tb\n")
    with pytest.raises(UsageError, match=r"it leaves 2 for dev and 0 for training; change it, or"):
        read(tmp_path, kind="single", heldout=0.9999999)
