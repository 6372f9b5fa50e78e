"""Byte-level BPE learns the same merges as plain Python (other kinds: test_tokenizer.py)."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import byte_bpe_reference as reference
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertjax import config as configs
from bertjax.config import Tokenizer as TokenizerConfig
from bertjax.data import byte_bpe, store, tokenizer, train_tokenizer
from bertjax.data.prepare import prepare
from bertjax.errors import DataError, UsageError

ROOT = Path(__file__).parents[2]
PROSE = (ROOT / "README.md").read_text()
SMALLEST = 5 + 256
PARTS = st.sampled_from([*"aaabbc é日'\n", "ab", " the", "aaa", "'s", "  ", "<s>"])


def train(texts, vocab_size):
    group = TokenizerConfig(kind="byte_bpe", vocab_size=vocab_size)
    return train_tokenizer.train(group, texts)


@pytest.fixture
def config(tmp_path):
    """A corpus of two documents and a byte-level BPE without files."""
    texts = ["hello the world's hello, don't!  two  spaces.", "日本語 中文. Café naïve."]
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    data = configs.Data(files=str(path), num_workers=1, heldout_fraction=0.0)
    model = dataclasses.replace(configs.Model(), vocab_size=0)
    group = TokenizerConfig(kind="byte_bpe", path=None, vocab_size=SMALLEST + 20)
    return dataclasses.replace(configs.Config(), data=data, model=model, tokenizer=group)


def with_path(config, path):
    group = dataclasses.replace(config.tokenizer, path=str(path))
    return dataclasses.replace(config, tokenizer=group)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(PARTS, min_size=1, max_size=30).map("".join), min_size=1, max_size=4))
def test_merges_are_those_of_plain_counting(texts):
    """Texts have few letters, so many pairs are equally frequent and many overlap."""
    model = train(texts, SMALLEST + 30)
    assert model.merges == reference.learn_merges(texts, 30)
    assert model.vocab_size == SMALLEST + len(model.merges)


def test_merges_of_prose():
    model = train(PROSE.split("\n\n"), SMALLEST + 300)
    assert model.merges == reference.learn_merges(PROSE.split("\n\n"), 300)
    assert model.vocab_size == SMALLEST + 300


def test_the_rule_where_pairs_are_equally_frequent():
    assert train(["ba ba", "ab ab"], SMALLEST + 2).merges == [("a", "b"), ("b", "a")]
    # Each "aaa" holds (a, a) twice, so (a, a) occurs four times and (b, c) three times.
    assert train(["aaa", "bcx", "bcy", "bcz", "aaa"], SMALLEST + 1).merges == [("a", "a")]


def test_ids_are_laid_out_as_in_roberta():
    model = train([PROSE], SMALLEST + 50)
    pieces = model.tokens(range(model.vocab_size))
    assert pieces[:4] == ["<s>", "<pad>", "</s>", "<unk>"]
    assert pieces[4:260] == sorted(reference.byte_characters().values())
    assert pieces[260:-1] == ["".join(merge) for merge in model.merges]
    assert pieces[-1] == "<mask>"
    assert model.special_ids == (0, 1, 2, 3, model.vocab_size - 1)
    (ids,) = model.encode([PROSE])
    assert model.decode(ids) == PROSE
    assert not set(ids) & set(model.special_ids)


def test_special_tokens_in_the_corpus_are_text():
    model = train(["<s> <mask> </s>"] * 50, 1000)
    assert len(model.merges) == len(set(model.tokens(range(SMALLEST - 1, model.vocab_size - 1))))
    assert not set(model.encode(["<s> <mask></s>"])[0]) & set(model.special_ids)


def test_learning_depends_on_the_text_alone(tmp_path):
    """Trains in new processes, because hash tables are seeded once a process."""
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("".join(p.read_text() for p in sorted((ROOT / "bertjax").rglob("*.py"))))
    program = (
        "from bertjax.config import Tokenizer; from bertjax.data import train_tokenizer as t;"
        "import sys; texts = open(sys.argv[1]).read().splitlines();"
        "print(t.train(Tokenizer(kind='byte_bpe', vocab_size=5000), texts).sha256)"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", program, str(corpus)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": threads},
        ).stdout
        for seed, threads in (("0", "1"), ("1", "2"), ("2", "5"))
    }
    assert len(runs) == 1


def test_what_cannot_be_learned_is_one_clear_line(config, tmp_path):
    for texts in ([], ["", ""]):
        with pytest.raises(DataError, match=r"^no words to train a tokenizer on$"):
            train(texts, 1000)
    message = r"^config\.tokenizer\.vocab_size=260: byte-level BPE begins with .* at least 261$"
    group = dataclasses.replace(config.tokenizer, vocab_size=260)
    with pytest.raises(UsageError, match=message):
        prepare(dataclasses.replace(config, tokenizer=group), tmp_path / "work", progress=False)
    assert list((tmp_path / "work").iterdir()) == []


def test_a_small_corpus_gives_a_smaller_vocabulary():
    assert train(["once each"], 1000).vocab_size == SMALLEST
    assert train(["ab ab"], 1000).merges == [("a", "b")]


def check_prepared(config, original, workdir):
    """Asserts that the store and the saved tokenizer have the ids of `original`."""
    manifest = prepare(config, workdir, progress=False)
    again = tokenizer.load(workdir / "tokenizer")
    assert (again.kind, again.vocab_size) == ("byte_bpe", original.vocab_size)
    assert again.sha256 == original.sha256 == manifest["tokenizer_sha256"]
    assert again.encode(reference.NASTY) == original.encode(reference.NASTY)
    kept = store.open_store(workdir / "store", "train").tokens
    stored = again.decode(kept.tolist())
    for text in ("world's", "日本語", "Café"):
        assert text in stored


def test_byte_level_bpe_is_trained_and_prepared(config, tmp_path):
    group = dataclasses.replace(config.tokenizer, vocab_size=SMALLEST + 5)
    config = dataclasses.replace(config, tokenizer=group)
    lines = Path(config.data.files).read_text().splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    check_prepared(config, train(texts, SMALLEST + 5), tmp_path / "work")


def test_byte_level_bpe_of_a_file_is_prepared(config, tmp_path):
    original = byte_bpe.ByteBPE(reference.PIECES, reference.MERGES)
    check_prepared(with_path(config, original.save(tmp_path)), original, tmp_path / "work")


def test_published_byte_level_bpe_is_prepared(config, tmp_path):
    path = reference.data_directory() / "vocab" / "gpt2_bpe" / "encoder.json"
    check_prepared(with_path(config, path), tokenizer.load(path), tmp_path / "work")
