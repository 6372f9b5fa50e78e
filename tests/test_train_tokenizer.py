"""What is trained and what is not (how the trained ones cut text is in test_tokenizer.py)."""

import dataclasses
import json

import byte_bpe_reference as reference
import pytest

from bertjax import config as configs
from bertjax.config import Tokenizer as TokenizerConfig
from bertjax.data import byte_bpe, store, tokenizer, train_tokenizer
from bertjax.data.prepare import prepare
from bertjax.errors import UsageError


@pytest.fixture
def config(tmp_path):
    """A corpus of two documents and a byte-level BPE without files."""
    texts = ["hello the world's hello, don't!  two  spaces.", "日本語 中文. Café naïve."]
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    data = configs.Data(files=str(path), num_workers=1, heldout_fraction=0.0)
    model = dataclasses.replace(configs.Model(), vocab_size=0)
    group = TokenizerConfig(kind="byte_bpe", path=None)
    return dataclasses.replace(configs.Config(), data=data, model=model, tokenizer=group)


def with_path(config, path):
    group = dataclasses.replace(config.tokenizer, path=str(path))
    return dataclasses.replace(config, tokenizer=group)


def test_byte_level_bpe_is_not_trained(config, tmp_path):
    """And nothing else is trained in its place."""
    message = r"^config\.tokenizer\.kind=byte_bpe: .* set config\.tokenizer\.path to an encoder"
    with pytest.raises(UsageError, match=message):
        train_tokenizer.train(config.tokenizer, ["some words"])
    with pytest.raises(UsageError, match=message) as caught:
        prepare(config, tmp_path / "work", progress=False)
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "work").iterdir()) == []


def check_prepared(config, original, workdir):
    """The store holds the ids of `original`, and the saved tokenizer gives them again."""
    manifest = prepare(config, workdir, progress=False)
    again = tokenizer.load(workdir / "tokenizer")
    assert (again.kind, again.vocab_size) == ("byte_bpe", original.vocab_size)
    assert again.sha256 == original.sha256 == manifest["tokenizer_sha256"]
    assert again.encode(reference.NASTY) == original.encode(reference.NASTY)
    kept = store.open_store(workdir / "store", "train").tokens
    stored = again.decode(kept.tolist())
    for text in ("world's", "日本語", "Café"):
        assert text in stored


def test_byte_level_bpe_of_a_file_is_prepared(config, tmp_path):
    original = byte_bpe.ByteBPE(reference.PIECES, reference.MERGES)
    check_prepared(with_path(config, original.save(tmp_path)), original, tmp_path / "work")


def test_published_byte_level_bpe_is_prepared(config, tmp_path):
    path = reference.data_directory() / "vocab" / "gpt2_bpe" / "encoder.json"
    check_prepared(with_path(config, path), tokenizer.load(path), tmp_path / "work")
