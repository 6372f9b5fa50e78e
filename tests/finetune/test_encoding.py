"""Examples become the rows of google-research/bert, and of `transformers` where the two agree."""

import dataclasses
import subprocess
import sys

import byte_bpe_reference
import numpy as np
import pytest
import real_tokenizers
from finetune_examples import TOKENIZER
from hypothesis import given
from hypothesis import strategies as st

from bertjax.data import byte_bpe
from bertjax.data import encode as texts_at_hand
from bertjax.errors import DataError, UsageError
from bertjax.finetune import rows as rows_module
from bertjax.finetune.encoding import encode, longest_first
from bertjax.finetune.examples import Choices, Text, Words
from bertjax.finetune.rows import Settings

BPE = byte_bpe.ByteBPE(byte_bpe_reference.PIECES, byte_bpe_reference.MERGES)
PAIR = Settings("pair", 10, ("no", "yes"))


def spelled(rows, tokenizer=TOKENIZER):
    """Each sequence as its pieces."""
    parts = np.split(rows.ids, rows.starts[1:-1])
    return [" ".join(tokenizer.tokens(part)) for part in parts]


def pair(a, b, label="yes"):
    return Text("id", (a, b), label)


def test_a_pair():
    rows = encode([pair("a b", "c"), pair("abc", "d", "no")], TOKENIZER, PAIR)
    assert spelled(rows) == ["[CLS] a b [SEP] c [SEP]", "[CLS] a ##b ##c [SEP] d [SEP]"]
    assert rows.token_types.tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 1, 1]
    assert rows.labels.tolist() == [1, 0]
    assert rows.example.tolist() == [0, 1]
    assert rows.lengths.tolist() == [6, 7]
    assert (len(rows), rows.notes) == (2, ())


def test_a_roberta_pair_has_two_separators():
    rows = encode([pair("the", "or")], BPE, PAIR)
    assert spelled(rows, BPE) == ["<s> t he </s> </s> or </s>"]
    rows = encode([pair("x" * 20, "y" * 20)], BPE, PAIR)
    assert rows.lengths.tolist() == [10]
    assert spelled(rows, BPE) == ["<s> x x x </s> </s> y y y </s>"]


def test_token_types_are_those_that_the_model_has():
    for number in (0, 1):
        settings = dataclasses.replace(PAIR, type_vocab_size=number)
        assert not encode([pair("a", "b")], TOKENIZER, settings).token_types.any()


def test_what_is_cut_is_counted():
    examples = [pair("a b c d e f", "g h i"), pair("a", "b"), pair("a", "b c d e f g h i")]
    rows = encode(examples, TOKENIZER, PAIR)
    assert spelled(rows) == [
        "[CLS] a b c d [SEP] g h i [SEP]",
        "[CLS] a [SEP] b [SEP]",
        "[CLS] a [SEP] b c d e f g [SEP]",
    ]
    assert rows.notes == ("2 of 3 examples cut to 10 tokens",)
    single = encode([Text("1", ("a " * 20,), "no")], TOKENIZER, Settings("single", 5, ("no",)))
    assert spelled(single) == ["[CLS] a a a [SEP]"]
    assert single.notes == ("1 of 1 examples cut to 5 tokens",)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1), st.integers(2, 40))
def test_the_longer_text_loses_a_token_at_a_time(pairs, most):
    a, b = np.array(pairs).T
    found = np.stack(longest_first(a, b, most), 1).tolist()
    assert found == [texts_at_hand._cut(list(each), most) for each in pairs]


def test_rows_are_those_of_texts_at_hand():
    """`data.encode` makes the rows of `bertjax embed` and of exports."""
    rng = np.random.default_rng(0)
    examples = [
        pair(*(" ".join(rng.choice(list("abcdefg"), rng.integers(0, 12))) for _ in "ab"))
        for _ in range(50)
    ]
    rows = encode(examples, TOKENIZER, PAIR)
    ids = [tuple(TOKENIZER.encode(list(e.texts))) for e in examples]
    batch = texts_at_hand.encode(ids, TOKENIZER, longest=10)
    used = batch["attention_mask"].astype(bool)
    np.testing.assert_array_equal(batch["input_ids"][used], rows.ids)
    np.testing.assert_array_equal(batch["token_type_ids"][used], rows.token_types)


def test_labels():
    numbers = [Text("1", ("a",), 2.5), Text("2", ("b",), None)]
    settings = Settings("regression", 8, training=False)
    labels = encode(numbers, TOKENIZER, settings).labels
    assert labels.dtype == np.float32
    np.testing.assert_array_equal(labels, np.array([2.5, np.nan], np.float32))
    unlabelled = dataclasses.replace(PAIR, training=False)
    assert encode([pair("a", "b", None)], TOKENIZER, unlabelled).labels.tolist() == [-1]
    with pytest.raises(DataError, match="example id: no label, and 1 others have none; training"):
        encode([pair("a", "b", None), pair("a", "b", None)], TOKENIZER, PAIR)
    with pytest.raises(DataError, match="example 2: no label"):
        encode(numbers, TOKENIZER, dataclasses.replace(settings, training=True))
    with pytest.raises(DataError, match="example id: label 'maybe' is none of no, yes"):
        encode([pair("a", "b", "maybe")], TOKENIZER, PAIR)


def test_what_cannot_be_encoded():
    with pytest.raises(DataError, match="no examples"):
        encode([], TOKENIZER, PAIR)
    with pytest.raises(DataError, match="example id: 1 texts, but the first has 2"):
        encode([pair("a", "b"), Text("id", ("a",), "no")], TOKENIZER, PAIR)
    with pytest.raises(UsageError, match=r"sequence_length=4: no room for 2 texts.*at least 5 are"):
        encode([pair("a", "b")], TOKENIZER, dataclasses.replace(PAIR, longest=4))
    with pytest.raises(UsageError, match="at least 6 are"):
        encode([pair("the", "the")], BPE, dataclasses.replace(PAIR, longest=5))


def choices(longest=12, training=True):
    return Settings("multiple_choice", longest, training=training)


def test_options_are_sequences_of_one_row():
    example = Choices("1", "a b c", "d", ("e", "f g"), 1)
    rows = encode([example, example._replace(question="", label=0)], TOKENIZER, choices())
    assert spelled(rows) == [
        "[CLS] a b c [SEP] d e [SEP]",
        "[CLS] a b c [SEP] d f g [SEP]",
        "[CLS] a b c [SEP] e [SEP]",
        "[CLS] a b c [SEP] f g [SEP]",
    ]
    assert (rows.choices, len(rows)) == (2, 2)
    assert rows.labels.tolist() == [1, 0]
    assert rows.lengths.tolist() == [9, 8]
    assert rows.token_types[: rows.starts[1]].tolist() == [0] * 5 + [1] * 3


def test_options_survive_a_long_passage():
    passage = "a b\nc " * 700
    example = Choices("1", passage, "what is ?", ("x y", "z"), 0)
    rows = encode([example], TOKENIZER, choices())
    assert spelled(rows) == [
        "[CLS] a b c a [SEP] what is ? x y [SEP]",
        "[CLS] a b c a b [SEP] what is ? z [SEP]",
    ]
    assert rows.notes == ("1 of 1 examples with a context cut to 12 tokens",)


def test_a_long_question_loses_its_start():
    example = Choices("1", "a b c", "what " * 20 + "is ?", ("x y", "z"), 0)
    rows = encode([example], TOKENIZER, choices())
    assert spelled(rows)[0] == "[CLS] [SEP] " + "what " * 5 + "is ? x y [SEP]"
    assert spelled(rows)[1] == "[CLS] [SEP] " + "what " * 6 + "is ? z [SEP]"
    assert "2 of 2 options cut at the start: question and option leave no room" in rows.notes


def test_choices_that_are_refused():
    example = Choices("7", "a", "b", ("c", "d"), 0)
    with pytest.raises(DataError, match="example 7: 3 options, but the first has 2"):
        encode([example, example._replace(options=("c", "d", "e"))], TOKENIZER, choices())
    with pytest.raises(DataError, match="example 7: label 2, but it has 2 options"):
        encode([example._replace(label=2)], TOKENIZER, choices())
    with pytest.raises(DataError, match="example 7: no label"):
        encode([example._replace(label=None)], TOKENIZER, choices())
    rows = encode([example._replace(label=None)], TOKENIZER, choices(training=False))
    assert rows.labels.tolist() == [-1]


@pytest.fixture(scope="module", params=real_tokenizers.NAMES)
def both(request):
    model = real_tokenizers.ours(request.param)
    return model, real_tokenizers.theirs(request.param, model)


def assert_same(rows, theirs):
    """The ids and token types that `transformers` gives, sequence by sequence."""
    ids = [part.tolist() for part in np.split(rows.ids, rows.starts[1:-1])]
    assert ids == [list(each) for each in theirs["input_ids"]]
    if "token_type_ids" in theirs:
        types = [part.tolist() for part in np.split(rows.token_types, rows.starts[1:-1])]
        assert types == [list(each) for each in theirs["token_type_ids"]]


def test_single_texts_as_transformers(both):
    model, theirs = both
    texts = [row["sentence"] for row in real_tokenizers.glue("SST-2", "dev", 400)]
    settings = Settings("single", 24, training=False)
    rows = encode([Text("", (text,), None) for text in texts], model, settings)
    assert_same(rows, theirs(texts, truncation=True, max_length=24))
    assert rows.notes


def test_pairs_as_transformers(both):
    model, theirs = both
    lines = real_tokenizers.glue("RTE", "train", 400)
    first, second = [r["sentence1"] for r in lines], [r["sentence2"] for r in lines]
    examples = [pair(row["sentence1"], row["sentence2"], None) for row in lines]
    settings = Settings("pair", 512, type_vocab_size=2 if model.kind == "wordpiece" else 1)
    settings = dataclasses.replace(settings, training=False)
    rows = encode(examples, model, settings)
    assert_same(rows, theirs(first, second))
    # What is much too long is cut by the same rule: the longer text first.
    settings = dataclasses.replace(settings, longest=64)
    rows = encode(examples, model, settings)
    assert_same(rows, theirs(first, second, truncation="longest_first", max_length=64))


def test_choices_as_transformers(both):
    model, theirs = both
    lines = real_tokenizers.glue("RTE", "train", 60)
    examples = [
        Choices("", row["sentence1"], row["sentence2"], ("Yes it is.", "Nobody", "n't"), 0)
        for row in lines
    ]
    kind = 2 if model.kind == "wordpiece" else 1
    rows = encode(examples, model, Settings("multiple_choice", 80, type_vocab_size=kind))
    first = [e.context for e in examples for _ in e.options]
    second = [f"{e.question} {o}" for e in examples for o in e.options]
    assert_same(rows, theirs(first, second, truncation="only_first", max_length=80))
    assert "cut to 80" in rows.notes[0]


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
def test_texts_are_copied_whole_in_blocks(monkeypatch, block):
    monkeypatch.setattr(rows_module, "_BLOCK", block)
    rng = np.random.default_rng(0)
    lengths, starts = rng.integers(0, 9, 50), rng.integers(0, 90, 50)
    at = np.cumsum(lengths + 1) - lengths
    source, target = rng.integers(1, 1000, 100), np.zeros(600, int)
    expected = target.copy()
    rows_module.copy_ragged(target, at, rows_module.Part(source, starts, lengths))
    for place, start, length in zip(at, starts, lengths, strict=True):
        expected[place : place + length] = source[start : start + length]
    np.testing.assert_array_equal(target, expected)


def test_encoding_does_without_jax():
    code = (
        "import sys, bertjax.finetune.cache, bertjax.finetune.batches;"
        "sys.exit(sorted({'jax', 'flax', 'torch', 'transformers'} & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_words_are_not_texts():
    with pytest.raises(DataError, match="words without tags"):
        encode([Words("1", ("a",), None)], TOKENIZER, Settings("token", 8, ("O",)))
