"""Rows are encoded once for the same data, tokenizer and settings, and never served for others."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from finetune_examples import EXAMPLES, QUESTION, SETTINGS, TOKENIZER

from bertjax.data import wordpiece
from bertjax.errors import StorageError
from bertjax.finetune import cache
from bertjax.finetune.examples import Answer, Text
from bertjax.finetune.rows import Settings


def settings(kind, **fields):
    return dataclasses.replace(SETTINGS[kind], **fields)


def equal(a, b):
    for field in dataclasses.fields(a):
        left, right = getattr(a, field.name), getattr(b, field.name)
        if isinstance(left, np.ndarray):
            assert left.dtype == right.dtype
            np.testing.assert_array_equal(left, right)
        else:
            assert left == right
            assert type(left) is type(right)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", EXAMPLES)
def test_what_is_read_is_what_was_encoded(tmp_path, monkeypatch, kind, training):
    arguments = (tmp_path / "W", EXAMPLES[kind], TOKENIZER, settings(kind, training=training))
    made = cache.rows(*arguments)
    monkeypatch.setattr(cache, "encode", None)  # not called again
    equal(made, cache.rows(*arguments))


def test_every_setting_changes_the_key():
    start = settings("span")
    changed = {
        "kind": "pair",
        "longest": 17,
        "labels": ("y", "x"),
        "type_vocab_size": 1,
        "stride": 5,
        "question_length": 5,
        "null_answers": True,
        "training": False,
    }
    assert set(changed) == {field.name for field in dataclasses.fields(Settings)}
    keys = [cache.key([QUESTION], TOKENIZER, start)]
    for name, value in changed.items():
        other = dataclasses.replace(start, **{name: value})
        keys.append(cache.key([QUESTION], TOKENIZER, other))
    for name, value in {
        "id": "other",
        "question": "what is b ?",
        "context": "a b c  d",
        "answers": (Answer("b c", 2),),
        "answerable": None,
    }.items():
        keys.append(cache.key([QUESTION._replace(**{name: value})], TOKENIZER, start))
    keys.append(cache.key([QUESTION, QUESTION], TOKENIZER, start))
    vocabulary = TOKENIZER.vocabulary
    for other in (
        wordpiece.WordPiece(vocabulary, False),
        wordpiece.WordPiece(vocabulary, True, strip_accents=False),
        wordpiece.WordPiece([*vocabulary, "new"], True),
        wordpiece.WordPiece(vocabulary, True, ruleset="google"),
    ):
        keys.append(cache.key([QUESTION], other, start))
    for sha256, rules in (("1", {"kind": "a"}), ("1", {"kind": "b"}), ("2", {"kind": "a"})):
        other = SimpleNamespace(sha256=sha256, rules=rules)
        keys.append(cache.key([QUESTION], other, start))
    assert len(set(keys)) == len(keys)


def test_the_code_version_changes_the_key(monkeypatch):
    before = cache.key([QUESTION], TOKENIZER, settings("span"))
    monkeypatch.setattr(cache, "VERSION", cache.VERSION + 1)
    assert cache.key([QUESTION], TOKENIZER, settings("span")) != before


def test_texts_that_meet_are_not_taken_for_one():
    one = [Text("1", ("a", "b"), "x"), Text("2", ("c", "d"), "x")]
    two = [Text("1", ('a", "b', ""), "x"), Text("2", ("c\n", "d"), "x")]
    assert cache.key(one, TOKENIZER, settings("pair")) != cache.key(
        two, TOKENIZER, settings("pair")
    )


def test_squad_2_is_not_served_the_rows_of_squad_1(tmp_path):
    """transformers #5668: one folder, both versions."""
    nothing = QUESTION._replace(id="n", answers=(), answerable=False)
    one = cache.rows(tmp_path, [QUESTION, nothing], TOKENIZER, settings("span"))
    two = cache.rows(tmp_path, [QUESTION, nothing], TOKENIZER, settings("span", null_answers=True))
    assert (len(one), len(two)) == (1, 2)
    assert two.start_positions.tolist() == [7, 0]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_damaged_file_is_made_again_and_said(tmp_path):
    arguments = (tmp_path, EXAMPLES["pair"], TOKENIZER, settings("pair"))
    made = cache.rows(*arguments)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    flipped = bytearray(whole)
    for damage in (whole[:-1], whole[: len(whole) // 2], b"", None):
        if damage is None:
            flipped[len(whole) // 3] ^= 1
            damage = bytes(flipped)
        path.write_bytes(damage)
        again = cache.rows(*arguments)
        assert again.notes == (f"{path}: damaged; the examples are encoded again",)
        equal(made, dataclasses.replace(again, notes=()))
        assert path.read_bytes()[-32:] == whole[-32:]
    equal(made, cache.rows(*arguments))
    assert np.load(path)["ids"].tolist() == made.ids.tolist()  # readers of .npz open it


def test_who_does_not_write_reads(tmp_path):
    arguments = (tmp_path, EXAMPLES["pair"], TOKENIZER, settings("pair"))
    cache.rows(*arguments, writes=False)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_refuses(tmp_path):
    (tmp_path / "W").write_text("a file")
    with pytest.raises(StorageError, match="W"):
        cache.rows(tmp_path / "W" / "e", EXAMPLES["pair"], TOKENIZER, settings("pair"))
