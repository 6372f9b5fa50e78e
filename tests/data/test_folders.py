"""A folder is read as what was saved in it."""

import json

import pytest
from corpora import change, config  # noqa: F401 (a fixture)
from corpus_files import article, saved_dataset

from bertjax.config import Data
from bertjax.data import folders, identity, sources
from bertjax.data.corpus import Corpus
from bertjax.data.prepare import prepare
from bertjax.errors import DataError, UsageError


def names(folder):
    return [path.removeprefix(f"{folder}/") for path in folders.find(str(folder))]


def test_all_files_below_a_folder_in_order(tmp_path):
    for name in ("AB/wiki_00", "AA/wiki_01", "AA/wiki_00", "README.md", "_SUCCESS", ".x/a", "_x/b"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(article(1, name, "It is."))
    assert names(tmp_path) == ["AA/wiki_00", "AA/wiki_01", "AB/wiki_00"]
    assert folders.find(f"{tmp_path}/") == folders.find(str(tmp_path))
    corpus = Corpus("", Data(files=f"{tmp_path}/"), 1.0)
    corpus.open()
    assert corpus.dropped == {"file beside the data (_*, README, LICENSE)": 3}


def test_a_saved_dataset_has_the_files_of_its_state(tmp_path):
    saved = saved_dataset(tmp_path / "saved", {"text": ["One.", "Two."]}, shards=2)
    (saved / "cache-1.arrow").write_bytes(b"left by a map")
    assert names(saved) == ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    state = json.loads((saved / "state.json").read_text())
    (saved / "state.json").write_text(
        json.dumps(state | {"_data_files": state["_data_files"][::-1]})
    )
    assert names(saved) == ["data-00001-of-00002.arrow", "data-00000-of-00002.arrow"]
    chosen = state | {"_indices_data_files": [{"filename": "indices.arrow"}]}
    (saved / "state.json").write_text(json.dumps(chosen))
    with pytest.raises(DataError, match=r"_indices_data_files.*flatten_indices\(\) and save again"):
        names(saved)
    (saved / "state.json").write_text(json.dumps(state))
    (saved / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(DataError, match=r"data-00001-of-00002.arrow: not there"):
        names(saved)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("state.json", {"_data_files": None}, "_data_files are no list of filenames"),
        ("state.json", {"_data_files": [{"name": "a"}]}, "_data_files are no list of filenames"),
        ("state.json", {"_data_files": []}, "names no data files"),
        ("dataset_dict.json", {"splits": None}, "its splits are no list of names"),
    ],
)
def test_a_damaged_description_of_a_dataset_is_named(tmp_path, name, content, said):
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(DataError, match=f"{name}: .*{said}"):
        names(tmp_path)


def test_a_folder_whose_name_is_a_pattern(tmp_path):
    folder = tmp_path / "data[1]"
    folder.mkdir()
    (folder / "a").write_text("One.")
    assert names(folder) == ["a"]


def test_a_link_to_a_file_is_no_other_text(config, tmp_path):  # noqa: F811
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "corpus.jsonl")
    both = change(config, data={"files": f"{tmp_path}/corpus.jsonl,{tmp_path}/link.jsonl"})
    manifest = prepare(both, tmp_path / "w", progress=False)
    found = identity.Findings()
    identity.compare("config.data", both.data, manifest, found)
    assert not found.differences


def test_a_split_of_a_dataset_is_named(tmp_path):
    for split in ("train", "test"):
        saved_dataset(tmp_path / split, {"text": ["One."]})
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(UsageError, match=f"splits train, test; name .*, as {tmp_path}/train$"):
        names(tmp_path)
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train"]}')
    assert names(tmp_path) == ["train/data-00000-of-00001.arrow"]


def test_a_store_knows_its_folder_again(config, tmp_path):  # noqa: F811
    folder = tmp_path / "enwiki"
    (folder / "AA").mkdir(parents=True)
    text = "".join(article(i, f"The {i}", f"The clock was {i}. It was slow.") for i in range(40))
    (folder / "AA" / "wiki_00").write_text(text + article(40, "Mercury", "Mercury may refer to:"))
    data = {"files": str(folder)}
    manifest = prepare(change(config, data=data), tmp_path / "w", progress=False)
    assert sum(split["documents"] for split in manifest["splits"].values()) == 40
    assert manifest["dropped"] == {"disambiguation page": 1, "title line": 41}
    assert "40 articles of WikiExtractor" in manifest["report"]
    assert "1 x disambiguation page; 41 x title line" in manifest["report"]
    found = identity.Findings()
    same = change(config, data={"files": f"{folder}/AA/wiki_00"}).data
    identity.compare("config.data", same, manifest, found)
    assert not found.differences
    for changed in ({"text_field": "body"}, {"txt_format": "prose"}):
        identity.compare("config.data", change(config, data=data | changed).data, manifest, found)
    assert len(found.differences) == 2
    (folder / "AA" / "wiki_01").write_text(text)
    identity.compare("config.data", change(config, data=data).data, manifest, found)
    assert "wiki_01 is none of its files" in found.differences[2]
    assert sources.size(change(config, data=data).data) > 0
