"""Byte-level BPE gives the ids of `transformers`, loses no text, and opens all its file formats."""

import json
import re

import byte_bpe_reference as reference
import numpy as np
import pytest
from byte_bpe_reference import MERGES, NASTY, PIECES
from hypothesis import given, settings
from hypothesis import strategies as st

from bertjax.data import byte_bpe, tokenizer
from bertjax.errors import DataError

TINY = byte_bpe.ByteBPE(PIECES, MERGES)
UNICODE = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
HARD = st.lists(st.sampled_from(reference.HARD), max_size=20).map("".join)


@pytest.fixture(scope="module")
def published():
    return tokenizer.load(reference.data_directory() / "vocab" / "gpt2_bpe")


def write_pair(directory, pieces=PIECES, merges=MERGES):
    ids = {piece: i for i, piece in enumerate(pieces)}
    (directory / "vocab.json").write_text(json.dumps(ids))
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    (directory / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return directory


def write_gpt2(directory, rows=None):
    """Writes GPT-2's files in the order of the middle of PIECES; fairseq's order differs."""
    gpt2 = PIECES[4:-1]
    (directory / "encoder.json").write_text(json.dumps({p: i for i, p in enumerate(gpt2)}))
    merges = "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in MERGES)
    (directory / "vocab.bpe").write_text(merges, encoding="utf-8")
    if rows is None:
        rows = [*map(str, reversed(range(len(gpt2)))), "madeupword0000"]
    (directory / "dict.txt").write_text("".join(f"{row} {i}\n" for i, row in enumerate(rows)))
    return directory


def test_known_answer():
    (ids,) = TINY.encode(["hello the"])
    assert TINY.tokens(ids) == ["hello", "Ġthe"]
    assert ids == [PIECES.index("hello"), PIECES.index("Ġthe")]
    assert TINY.encode(["\u00e9"]) == [[PIECES.index("Ã©")]]


def test_special_ids():
    ids = (TINY.cls_id, TINY.pad_id, TINY.sep_id, TINY.unk_id, TINY.mask_id)
    assert ids == (0, 1, 2, 3, len(PIECES) - 1)
    assert TINY.special_ids == ids


@settings(max_examples=200, deadline=None)
@given(UNICODE)
def test_no_text_is_lost(text):
    (ids,) = TINY.encode([text])
    assert TINY.decode(ids) == text
    assert not set(ids) & set(TINY.special_ids)


@settings(max_examples=200, deadline=None)
@given(st.lists(UNICODE | HARD | st.sampled_from(NASTY), max_size=4), st.booleans())
def test_ids_equal_transformers(texts, add_prefix_space):
    ours = byte_bpe.ByteBPE(PIECES, MERGES, add_prefix_space)
    options = {"add_prefix_space": add_prefix_space, "split_special_tokens": True}
    theirs = reference.transformers_tokenizer(PIECES, MERGES, **options)
    expected = [theirs(text, add_special_tokens=False).input_ids for text in texts]
    assert ours.encode(texts) == expected
    assert ours.encode(texts) == expected  # again, with every word from memory


@settings(max_examples=1000, deadline=None)
@given(HARD)
def test_words_are_cut_where_the_pattern_cuts(text):
    """The pieces of the words are the pieces of the text, also in the library's spelling."""
    pieces = [piece for word in byte_bpe.words(text) for piece in reference.PATTERN.findall(word)]
    assert pieces == reference.PATTERN.findall(text)
    library = reference.library_pieces(text)
    assert [p for word in byte_bpe.words(text) for p in reference.library_pieces(word)] == library


def test_sentences_without_spaces_are_not_remembered():
    model = byte_bpe.ByteBPE(PIECES, MERGES)
    assert model.encode(["日" * 100 + " hello"]) == TINY.encode(["日" * 100 + " hello"])
    assert len(model._memory) == 1


def test_special_tokens_in_text_are_text():
    (ids,) = TINY.encode(["<s> the <mask></s>"])
    assert not set(ids) & set(TINY.special_ids)
    assert TINY.decode(ids) == "<s> the <mask></s>"


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            ["<mask>", " ", "\n", "\u00a0", "\x1c", "\x85", "\u3000", "the", " the", "hello", "é"]
        ),
        max_size=8,
    ).map("".join),
    st.booleans(),
)
def test_masks_in_text_equal_transformers(text, add_prefix_space):
    ours = byte_bpe.ByteBPE(PIECES, MERGES, add_prefix_space)
    theirs = reference.transformers_tokenizer(PIECES, MERGES, add_prefix_space=add_prefix_space)
    assert ours.encode_with_masks(text) == theirs(text, add_special_tokens=False).input_ids


def test_word_starts():
    starts = dict(zip(PIECES, TINY.word_starts().tolist(), strict=True))
    for piece in ("Ġ", "Ġthe", "Ġw", "Ċ", "ĊĊ", "ĉ", "<s>", "<pad>", "</s>", "<unk>", "<mask>"):
        assert starts[piece], piece
    for piece in ("hello", "he", "s", "'s", ",", ".", "Ã", "Ã©", "ł", "ġ"):
        assert not starts[piece], piece
    (ids,) = TINY.encode([" the world's\n\nhello"])
    words = [TINY.word_starts()[i] for i in ids]
    assert TINY.tokens(ids) == ["Ġthe", "Ġwor", "l", "d", "'s", "Ċ", "Ċ", "hello"]
    assert words == [True, True, False, False, False, True, True, False]


@pytest.mark.parametrize("add_prefix_space", [False, True])
def test_saved_tokenizer_is_the_same(tmp_path, add_prefix_space):
    model = byte_bpe.ByteBPE(PIECES, MERGES, add_prefix_space)
    path = model.save(tmp_path)
    for again in (tokenizer.load(tmp_path), tokenizer.load(path)):
        assert again.sha256 == model.sha256
        assert again.merges == MERGES
        assert again.add_prefix_space == add_prefix_space
        assert again.encode(NASTY) == model.encode(NASTY)
        assert again.tokens(range(again.vocab_size)) == PIECES


def test_merges_as_strings(tmp_path):
    """The form of tokenizer.json before 2024, with the special tokens only in added_tokens."""
    tree = json.loads(TINY.save(tmp_path).read_bytes())
    tree["model"]["merges"] = [" ".join(merge) for merge in tree["model"]["merges"]]
    del tree["model"]["vocab"]["<mask>"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(tree))
    again = tokenizer.load(tmp_path)
    assert again.sha256 == TINY.sha256


def test_the_other_forms_of_its_files(tmp_path):
    for directory in ("pair", "gpt2"):
        (tmp_path / directory).mkdir()
    pair = write_pair(tmp_path / "pair")
    for path in (pair, pair / "vocab.json"):
        assert tokenizer.load(path).sha256 == TINY.sha256
    gpt2 = write_gpt2(tmp_path / "gpt2")
    for path in (gpt2, gpt2 / "encoder.json"):
        model = tokenizer.load(path)
        assert model.tokens(range(model.vocab_size)) == [
            *PIECES[:4],
            *reversed(PIECES[4:-1]),
            "madeupword0000",
            "<mask>",
        ]
        assert model.tokens(model.encode(["hello the"])[0]) == ["hello", "Ġthe"]


def edited(change):
    """A tokenizer.json to which `change` was applied."""

    def write(directory):
        tree = json.loads(TINY.save(directory).read_bytes())
        change(tree)
        (directory / "tokenizer.json").write_text(json.dumps(tree))

    return write


def broken_merges(directory):
    (write_pair(directory) / "merges.txt").write_text("#version: 0.2\nh e\nh e x\n")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda d: write_pair(d, PIECES[:-1]), "lacks <mask>"),
        (lambda d: write_pair(d, merges=[("h", "zz")]), "vocab.json: not a byte-level BPE"),
        (lambda d: (write_pair(d) / "merges.txt").unlink(), "merges.txt: No such file"),
        (broken_merges, "merges.txt: line 3: expected two pieces, got 3"),
        (lambda d: (d / "vocab.json").write_text('{"a": 0, "b": 7}'), "vocab.json: ids are not"),
        (lambda d: (d / "vocab.json").write_text('["a"]'), "vocab.json: expected a vocabulary"),
        (lambda d: (d / "vocab.json").write_text("[" * 10**5), "vocab.json: not JSON"),
        (lambda d: (write_gpt2(d) / "dict.txt").unlink(), "dict.txt: No such file"),
        (lambda d: write_gpt2(d, ["0", "999"]), "dict.txt: line 2: encoder.json has no id '999'"),
        (lambda d: write_gpt2(d, [*map(str, range(len(PIECES) - 5)), "1"]), "lists a piece twice"),
        (edited(lambda t: t["model"].update(dropout=0.1)), "'BPE' with dropout=0.1"),
        (edited(lambda t: t["model"].update(end_of_word_suffix="</w>")), "suffix='</w>'"),
        (edited(lambda t: t["model"].update(byte_fallback=True)), "byte_fallback=True"),
        (edited(lambda t: t["model"].update(type="Unigram")), "Unigram"),
        (edited(lambda t: t.update(pre_tokenizer={"type": "Whitespace"})), "type='Whitespace'"),
        (edited(lambda t: t.update(normalizer={"type": "NFC"})), "NFC"),
        (edited(lambda t: t["model"]["merges"].append(["h"])), "not a tokenizer.json"),
        (
            edited(lambda t: t["added_tokens"][0].update(special=False)),
            "added token '<s>' must be special",
        ),
        (edited(lambda t: t["added_tokens"][0].update(id=9)), "'<s>' has two ids"),
    ],
)
def test_bad_files_are_one_clear_line(tmp_path, write, message):
    write(tmp_path)
    with pytest.raises(DataError) as caught:
        tokenizer.load(tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_published_vocabulary(published):
    assert published.vocab_size == 50265
    assert published.special_ids == (0, 1, 2, 3, 50264)
    # Examples from fairseq's `hub_interface.py` and its README.
    assert published.encode(["Hello world!", "Hello world", " world", "world"]) == [
        [31414, 232, 328],
        [31414, 232],
        [232],
        [8331],
    ]
    assert published.decode([0, 31414, 232, 328, 2]) == "<s>Hello world!</s>"
    expected = [32826, 16, 5, 50264, 9, 1470, 4]
    assert published.encode_with_masks("Paris is the <mask> of France.") == expected
    assert published.tokens([50261, 50262, 50263]) == [f"madeupword000{i}" for i in range(3)]


def test_published_vocabulary_on_real_text(published):
    texts = [*reference.real_texts(60), *NASTY]
    pieces = published.tokens(range(published.vocab_size))
    theirs = reference.transformers_tokenizer(pieces, published.merges)
    expected = theirs(texts, add_special_tokens=False).input_ids
    ours = published.encode(texts)
    assert ours == expected
    assert [published.decode(ids) for ids in ours] == texts


@settings(max_examples=300, deadline=None)
@given(HARD | UNICODE)
def test_published_vocabulary_on_hard_text(published, text):
    expected = published._backend.encode(text, add_special_tokens=False).ids
    assert published.encode([text]) == [expected]


def test_words_of_real_text_are_what_stands_between_white_space(published):
    """Pieces are grouped by `word_starts`, as in whole-word masking; the first starts a word."""
    starts = published.word_starts()
    found = 0
    for text in reference.real_texts(100):
        (ids,) = published.encode([text])
        first = np.flatnonzero(starts[ids] | (np.arange(len(ids)) == 0))
        groups = [published.decode(word) for word in np.split(np.array(ids), first[1:])]
        words = [word for word in re.split(r"[ \t\n\v\f\r]+", text) if word]
        assert [g.strip(" \t\n\v\f\r") for g in groups if g.strip(" \t\n\v\f\r")] == words
        found += len(words)
    assert found > 10_000
