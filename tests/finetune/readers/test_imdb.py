"""aclImdb's folders: a review a file, and the test set is dev."""

import pytest
from labeled import read, write, write_parquet

from bertjax.errors import DataError
from bertjax.finetune.examples import Text
from bertjax.finetune.readers import imdb


def write_reviews(home):
    for split in ("train", "test"):
        write(
            home / split / "pos", **{"0_9_txt": "Good.<br /><br />Very.", "10_7_txt": "Fine\u2028."}
        )
        write(home / split / "neg", **{"0_3_txt": "Bad."})
        write(home / split / "unsup", **{"0_0_txt": "Unknown."})
    return home


def test_imdb(tmp_path):
    write_reviews(tmp_path / "aclImdb")
    found = read(tmp_path / "aclImdb", "imdb")
    examples = [
        Text("pos/0_9", ("Good.  Very.",), "pos"),
        Text("pos/10_7", ("Fine\u2028.",), "pos"),
        Text("neg/0_3", ("Bad.",), "neg"),
    ]
    assert found.splits == {"train": examples, "dev": examples}
    assert found.labels == ("neg", "pos")
    assert found.notes == (imdb.NOTE,)
    assert read(tmp_path, "imdb") == found


def test_imdb_in_parquet(tmp_path):
    rows = {"text": ["Good.", "Bad."], "label": [1, 0]}
    for split in ("train", "test", "unsupervised"):
        write_parquet(tmp_path / f"{split}-00000-of-00001.parquet", rows, ["neg", "pos"])
    found = read(tmp_path, "imdb")
    examples = [Text("0", ("Good.",), "pos"), Text("1", ("Bad.",), "neg")]
    assert found.splits == {"train": examples, "dev": examples}
    assert found.notes == (imdb.NOTE,)


def test_bad_folders(tmp_path):
    with pytest.raises(DataError, match="name the folder aclImdb, which holds"):
        read(tmp_path, "imdb")
    home = write_reviews(tmp_path)
    (home / "test" / "neg" / "0_3.txt").unlink()
    with pytest.raises(DataError, match=r"test/neg: no .txt files"):
        read(home, "imdb")
    (home / "test" / "neg" / "0_3.txt").write_bytes(b"One.\nTwo \xff.")
    with pytest.raises(DataError, match=r"neg/0_3.txt:2: not UTF-8 at byte 9"):
        read(home, "imdb")
