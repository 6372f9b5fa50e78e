"""Tags of words: one label a word, at any length, for any word."""

import dataclasses

import byte_bpe_reference
import numpy as np
import pytest
import real_tokenizers
from finetune_examples import TOKENIZER
from hypothesis import given, settings
from hypothesis import strategies as st

from bertjax.data import byte_bpe
from bertjax.errors import DataError, UsageError
from bertjax.finetune.encoding import encode
from bertjax.finetune.examples import Words
from bertjax.finetune.rows import Settings
from bertjax.finetune.windows import word_windows

SETTINGS = Settings("token", 8, ("O", "B-x", "I-x"))
BPE = byte_bpe.ByteBPE(byte_bpe_reference.PIECES, byte_bpe_reference.MERGES)


def sentence(words, tags=None):
    words = tuple(words.split(" "))
    return Words("s", words, tuple(tags.split(" ")) if tags else ("O",) * len(words))


def spelled(rows, tokenizer=TOKENIZER):
    parts = np.split(rows.ids, rows.starts[1:-1])
    return [" ".join(tokenizer.tokens(part)) for part in parts]


def test_the_first_piece_has_the_label():
    rows = encode([sentence("the abc d", "O B-x I-x")], TOKENIZER, SETTINGS)
    assert spelled(rows) == ["[CLS] the a ##b ##c d [SEP]"]
    assert rows.labels.tolist() == [-1, 0, 1, -1, -1, 2, -1]
    assert rows.words.tolist() == [-1, 0, 1, -1, -1, 2, -1]
    assert not rows.token_types.any()
    assert rows.notes == ()


def test_words_without_pieces_are_unknown_and_scored():
    rows = encode([sentence("a \u200d \x07 b", "O B-x I-x O")], TOKENIZER, SETTINGS)
    assert spelled(rows) == ["[CLS] a [UNK] [UNK] b [SEP]"]
    assert rows.labels.tolist() == [-1, 0, 1, 2, 0, -1]
    assert rows.notes == ("2 words without pieces are [UNK]",)


def test_byte_level_bpe_has_its_space():
    rows = encode([sentence("the wor hello")], BPE, SETTINGS)
    assert spelled(rows, BPE) == ["<s> Ġthe Ġwor Ġ hello </s>"]
    assert rows.words.tolist() == [-1, 0, 1, 2, -1, -1]


def test_a_long_sentence_goes_on_in_windows():
    text = " ".join("abcdefghijklmn")
    tags = " ".join(["B-x", "I-x"] * 7)
    rows = encode([sentence("a b"), sentence(text, tags)], TOKENIZER, SETTINGS)
    assert spelled(rows) == [
        "[CLS] a b [SEP]",
        "[CLS] a b c d e f [SEP]",
        "[CLS] f g h i j k [SEP]",
        "[CLS] k l m n [SEP]",
    ]
    assert rows.example.tolist() == [0, 1, 1, 1]
    decided = [rows.words[rows.tokens(row)] for row in range(1, 4)]
    assert [each[each >= 0].tolist() for each in decided] == [
        [0, 1, 2, 3, 4, 5],
        [6, 7, 8, 9, 10],
        [11, 12, 13],
    ]
    assert rows.notes == ("1 sentences longer than 8 tokens go on in windows",)


def test_each_window_decides_the_nearer_half_of_what_two_share():
    assert word_windows(np.ones(20, int), 8) == [(0, 8, 0, 7), (6, 14, 7, 13), (12, 20, 13, 20)]


def test_a_word_longer_than_a_row_keeps_its_label():
    rows = encode([sentence("a abcdefghij b", "O B-x O")], TOKENIZER, SETTINGS)
    assert spelled(rows) == [
        "[CLS] a [SEP]",
        "[CLS] a ##b ##c ##d ##e ##f [SEP]",
        "[CLS] b [SEP]",
    ]
    assert rows.labels[rows.labels >= 0].tolist() == [0, 1, 0]
    assert "1 words cut to 6 pieces" in rows.notes


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 30).flatmap(
    lambda most: st.tuples(st.just(most), st.lists(st.integers(1, most), max_size=80))
))  # fmt: skip
def test_every_word_is_whole_in_its_window_and_decided_once(case):
    most, lengths = case
    windows = word_windows(np.array(lengths, int), most)
    decided = [word for w in windows for word in range(w.first, w.last)]
    assert decided == list(range(len(lengths)))
    for w in windows:
        assert sum(lengths[w.begin : w.stop]) <= most
        assert w.begin <= w.first <= w.last <= w.stop
    assert len(windows) == 1 or sum(lengths) > most


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(["a", "the", "abc", "\u200d", "abcdefghijk"])), min_size=1),
    st.integers(3, 40),
)
def test_support_is_that_of_the_file(sentences, longest):
    rng = np.random.default_rng(0)
    examples = [
        Words(str(i), tuple(words), tuple(rng.choice(SETTINGS.labels, len(words)).tolist()))
        for i, words in enumerate(sentences)
    ]
    rows = encode(examples, TOKENIZER, dataclasses.replace(SETTINGS, longest=longest))
    assert rows.lengths.max() <= longest
    found = {
        (int(rows.example[row]), int(word)): SETTINGS.labels[label]
        for row in range(len(rows))
        for word, label in zip(
            rows.words[rows.tokens(row)], rows.labels[rows.tokens(row)], strict=True
        )
        if word >= 0
    }
    assert found == {(i, j): tag for i, e in enumerate(examples) for j, tag in enumerate(e.tags)}
    assert (rows.labels >= 0).sum() == (rows.words >= 0).sum() == len(found)


def test_words_without_tags_are_predicted():
    blind = Words("s", ("a", "b"), None)
    rows = encode([blind], TOKENIZER, dataclasses.replace(SETTINGS, training=False))
    assert rows.words.tolist() == [-1, 0, 1, -1]
    assert (rows.labels == -1).all()


def test_what_is_refused():
    with pytest.raises(DataError, match="sentence s: tag 'B-y' is none of O, B-x, I-x"):
        encode([sentence("a", "B-y")], TOKENIZER, SETTINGS)
    with pytest.raises(DataError, match="sentence s: 1 tags for 2 words"):
        encode([Words("s", ("a", "b"), ("O",))], TOKENIZER, SETTINGS)
    with pytest.raises(UsageError, match="sequence_length=2: no room for a word"):
        encode([sentence("a")], TOKENIZER, dataclasses.replace(SETTINGS, longest=2))


def wnut(count):
    path = byte_bpe_reference.data_directory() / "ner" / "wnut17" / "emerging.dev.conll"
    blocks = path.read_text(encoding="utf-8").split("\n\n")[:count]
    for block in blocks:
        lines = [line.split("\t") for line in block.split("\n") if line.strip()]
        if lines:
            yield Words("", tuple(line[0] for line in lines), tuple(line[1] for line in lines))


@pytest.mark.parametrize("name", real_tokenizers.NAMES)
def test_words_as_transformers(name):
    model = real_tokenizers.ours(name)
    options = {"add_prefix_space": True} if name == "byte_bpe" else {}
    theirs = real_tokenizers.theirs(name, model, **options)
    examples = list(wnut(300))
    labels = tuple(sorted({tag for e in examples for tag in e.tags}))
    rows = encode(examples, model, Settings("token", 256, labels))
    assert len(rows) == len(examples)
    same = 0
    for row, example in enumerate(examples):
        found = theirs(list(example.words), is_split_into_words=True)
        words = found.word_ids()
        if len({word for word in words if word is not None}) < len(example.words):
            continue  # a word without pieces, which is [UNK] here
        same += 1
        first = [
            -1 if word is None or word == words[i - 1] else word for i, word in enumerate(words)
        ]
        assert rows.ids[rows.tokens(row)].tolist() == found.input_ids
        assert rows.words[rows.tokens(row)].tolist() == first
    assert same > 0.95 * len(examples)
