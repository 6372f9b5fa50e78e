"""Which reader a config leads to: of files and of TFDS."""

import subprocess
import sys

import numpy as np
import pytest
from labeled import read, write

from bertjax.config import Config, Data
from bertjax.config.finetune_fields import Task
from bertjax.errors import DataError, UsageError
from bertjax.finetune.examples import Answer, Question, Text
from bertjax.finetune.readers import sources


def build(tfds, folder, name, features, **splits):
    """A TFDS dataset as its builder prepares it."""

    def info(self):
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features(tfds))
        )

    def generators(self, manager):
        return {split: iter(list(enumerate(rows))) for split, rows in splits.items()}

    members = {
        "VERSION": tfds.core.Version("1.0.0"),
        "_info": info,
        "_split_generators": generators,
        "_generate_examples": lambda self: None,
    }
    builder = type(name, (tfds.core.GeneratorBasedBuilder,), members)
    builder(data_dir=str(folder), file_format="array_record").download_and_prepare()


@pytest.fixture(scope="module")
def tfds():
    return pytest.importorskip("tensorflow_datasets")


def test_a_task_of_the_papers_from_tfds(tmp_path, tfds):
    def features(tfds):
        names = ["not_entailment", "entailment"]  # another order than ours
        return {
            "sentence1": tfds.features.Text(),
            "sentence2": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=names),
            "idx": np.int32,
        }

    rows = [
        {"sentence1": f"é {k}", "sentence2": "b", "label": k % 2, "idx": k + 100} for k in range(4)
    ]
    hidden = [{**row, "label": -1} for row in rows]
    build(tfds, tmp_path, "TinyRte", features, train=rows, validation=rows[:3], test=hidden)
    found = read(None, "rte", tfds="tiny_rte", tfds_dir=tmp_path)
    words = ("not_entailment", "entailment")
    expected = [Text(str(k + 100), (f"é {k}", "b"), words[k % 2]) for k in range(4)]
    assert sorted(found.splits["train"]) == expected  # TFDS shuffles
    assert sorted(found.splits["dev"]) == expected[:3]
    assert {e.label for e in found.splits["test"]} == {None}
    assert len(found.splits["test"]) == 4
    assert found.labels == ("entailment", "not_entailment")
    names = {"text_column": "sentence1", "pair_column": "sentence2", "id_column": "idx"}
    own = read(None, kind="pair", tfds="tiny_rte", tfds_dir=tmp_path, **names)
    assert sorted(own.splits["train"]) == expected
    assert own.labels == words  # as the dataset orders them


def test_squad_and_imdb_from_tfds(tmp_path, tfds):
    def squad(tfds):
        answers = {"text": tfds.features.Text(), "answer_start": np.int32}
        return {
            "id": tfds.features.Text(),
            "context": tfds.features.Text(),
            "question": tfds.features.Text(),
            "answers": tfds.features.Sequence(answers),
        }

    row = {"id": "a", "context": "東京 é it.", "question": "What?"}
    row["answers"] = {"text": ["é", "it"], "answer_start": [3, 5]}
    empty = {**row, "answers": {"text": [], "answer_start": []}}
    build(tfds, tmp_path, "TinySquad", squad, train=[row], validation=[row, {**empty, "id": "b"}])
    found = read(None, "squad2", tfds="tiny_squad", tfds_dir=tmp_path)
    question = Question("a", "What?", row["context"], (Answer("é", 3), Answer("it", 5)), True)
    assert found.splits["train"] == [question]
    assert question._replace(id="b", answers=(), answerable=False) in found.splits["dev"]

    def reviews(tfds):
        return {
            "text": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=["neg", "pos"]),
        }

    rows = [{"text": "Good.", "label": 1}, {"text": "Bad.", "label": 0}]
    build(tfds, tmp_path, "TinyImdb", reviews, train=rows, test=rows, unsupervised=rows)
    found = read(None, "imdb", tfds="tiny_imdb", tfds_dir=tmp_path)
    assert set(found.splits) == {"train", "dev"}
    assert {e.texts[0]: e.label for e in found.splits["dev"]} == {"Good.": "pos", "Bad.": "neg"}


def test_tfds_that_is_not_there(tmp_path, tfds):
    with pytest.raises(DataError, match=r"config.data.tfds_name='no_such_set'"):
        read(None, "rte", tfds="no_such_set", tfds_dir=tmp_path)
    with pytest.raises(UsageError, match=r"source=tfds: token is read from files only"):
        read(None, kind="token", tfds="conll2003", tfds_dir=tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, r"config.task.name is unset: name a task \(cola sst2 .*\), or set config.task.kind"),
        ({"name": "colla"}, r"config.task.name='colla': there are cola sst2"),
        ({"name": "cola", "kind": "pair"}, r"config.task.kind=pair: cola is single; unset config"),
        ({"name": "cola"}, r"config.data.files is unset: name the task's folder or its files"),
    ],
)
def test_configs_that_cannot_be_read(fields, message):
    with pytest.raises(UsageError, match=message):
        read(None, **fields)


def test_paths_that_are_not_there(tmp_path):
    with pytest.raises(DataError, match=r"/none': no file or folder matches"):
        read(tmp_path / "none", "cola")
    write(tmp_path / "train.tsv", x_md="")
    with pytest.raises(DataError, match=r"no .tsv .csv .*in the folder .*train.tsv"):
        read(tmp_path / "train.tsv", kind="single")


def test_which_package_a_docstring_is_of():
    found = sources.read(Config(data=Data(source="sample"), task=Task(kind="single")))
    assert len(found.labels) >= 2
    assert {e.label for e in found.splits["train"]} == set(found.labels)
    assert {e.label for e in found.splits["dev"]} == set(found.labels)
    texts = [e.texts for split in found.splits.values() for e in split]
    assert len(set(texts)) == len(texts)


def test_sample_text_has_no_other_labels():
    whole = Config(data=Data(source="sample"), task=Task(name="cola"))
    with pytest.raises(
        UsageError, match=r"data.source=sample: .* cola needs config.data.source=files"
    ):
        sources.read(whole)


def test_reading_starts_without_jax():
    code = (
        "import sys, bertjax.finetune.readers.sources; "
        "sys.exit(sorted({'jax', 'pyarrow', 'tensorflow_datasets'} & set(sys.modules)) or 0)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
