"""A store gives back the documents that were written, and an incomplete store is never used."""

import json

import numpy as np
import pytest

from bertjax.data import store
from bertjax.errors import DataError


def write(directory, vocab_size=100, documents=(), **description):
    """Writes `documents`: (split, list of sentences, each a list of ids)."""
    with store.Writer(directory, vocab_size) as writer:
        for split, sentences in documents:
            tokens = np.concatenate(sentences)
            writer.append(split, tokens, [len(s) for s in sentences], [len(sentences)])
        return writer.finish(**description)


DOCUMENTS = [
    ("train", [[1, 2, 3], [4]]),
    ("heldout", [[5, 6]]),
    ("train", [[7], [8, 9], [10]]),
]


def read(directory, split):
    s = store.open_store(directory, split)
    return [
        [s.tokens[s.sentences[i] : s.sentences[i + 1]].tolist() for i in range(first, last)]
        for first, last in zip(s.documents[:-1], s.documents[1:], strict=True)
    ]


def test_round_trip(tmp_path):
    write(tmp_path / "s", documents=DOCUMENTS)
    for split in store.SPLITS:
        assert read(tmp_path / "s", split) == [d for which, d in DOCUMENTS if which == split]
    opened = store.open_store(tmp_path / "s", "train")
    assert (opened.num_documents, opened.num_sentences, opened.num_tokens) == (2, 5, 8)
    assert opened.tokens.dtype == np.uint16
    assert opened.sentences.dtype == opened.documents.dtype == np.int64
    assert opened.vocab_size == 100


def test_several_documents_at_once_equal_one_at_a_time(tmp_path):
    train = [d for split, d in DOCUMENTS if split == "train"]
    with store.Writer(tmp_path / "s", 100) as writer:
        sentences = [s for d in train for s in d]
        lengths = [len(s) for s in sentences]
        writer.append("train", np.concatenate(sentences), lengths, [len(d) for d in train])
        manifest = writer.finish()
    one_by_one = write(tmp_path / "t", documents=[("train", d) for d in train])
    assert manifest == one_by_one


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65536, np.uint16), (65537, np.uint32)])
def test_token_type_holds_the_largest_id(tmp_path, vocab_size, dtype):
    write(tmp_path / "s", vocab_size, [("train", [[0, vocab_size - 1]])])
    opened = store.open_store(tmp_path / "s", "train")
    assert opened.tokens.dtype == dtype
    assert opened.tokens.tolist() == [0, vocab_size - 1]


def test_empty_split_opens(tmp_path):
    write(tmp_path / "s", documents=DOCUMENTS[:1])
    empty = store.open_store(tmp_path / "s", "heldout")
    assert (empty.num_documents, empty.num_sentences, empty.num_tokens) == (0, 0, 0)


def test_manifest_counts_and_entropy(tmp_path):
    manifest = write(tmp_path / "s", documents=DOCUMENTS, report="words")
    assert manifest == store.read_manifest(tmp_path / "s")
    assert manifest["report"] == "words"
    assert manifest["splits"]["train"] == {"tokens": 8, "sentences": 5, "documents": 2}
    assert manifest["splits"]["heldout"] == {"tokens": 2, "sentences": 1, "documents": 1}
    assert manifest["unigram_entropy"] == pytest.approx(np.log(8))  # 8 ids, each once


def test_the_ids_of_the_training_split_are_counted(tmp_path):
    write(tmp_path / "s", 12, [*DOCUMENTS, ("train", [[4, 4], [1]])])
    counts = store.read_unigrams(tmp_path / "s")
    assert counts.dtype == np.int64
    assert counts.tolist() == [0, 2, 1, 1, 3, 0, 0, 1, 1, 1, 1, 0]


def test_entropy_known_answers():
    assert store.entropy(np.array([3, 1, 0])) == pytest.approx(
        -0.75 * np.log(0.75) - 0.25 * np.log(0.25)
    )
    assert store.entropy(np.array([7, 0])) == 0
    assert store.entropy(np.zeros(4, int)) == 0


def test_verify_finds_one_flipped_bit(tmp_path):
    write(tmp_path / "s", documents=DOCUMENTS)
    store.verify(tmp_path / "s")
    path = tmp_path / "s" / "heldout" / "tokens.bin"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"heldout/tokens.bin: bytes differ"):
        store.verify(tmp_path / "s")


def test_a_store_without_its_manifest_is_not_used(tmp_path):
    with store.Writer(tmp_path / "s", 100) as writer:
        writer.append("train", np.array([1, 2]), [2], [1])
    with pytest.raises(DataError, match="no token store here; run `bertjax prepare`"):
        store.open_store(tmp_path / "s", "train")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "train" / "tokens.bin").unlink(), "no bytes, the manifest says 16"),
        (
            lambda d: (d / "train" / "tokens.bin").write_bytes(b"\0" * 6),
            "6 bytes, the manifest says 16",
        ),
        (lambda d: (d / "manifest.json").write_text('{"form'), "damaged manifest"),
        (lambda d: (d / "manifest.json").write_text("[]"), "damaged manifest"),
        (lambda d: (d / "manifest.json").write_text(json.dumps({"format": 99})), "format 99"),
    ],
)
def test_damage_is_one_clear_line(tmp_path, damage, message):
    write(tmp_path / "s", documents=DOCUMENTS)
    damage(tmp_path / "s")
    with pytest.raises(DataError, match=message) as caught:
        store.open_store(tmp_path / "s", "train")
    assert "\n" not in str(caught.value)
