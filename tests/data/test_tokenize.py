"""The sentences of a document, side by side, are its text."""

import dataclasses
import json
from collections import Counter

import byte_bpe_reference as reference
import numpy as np
import pytest
from byte_bpe_reference import MERGES, PIECES
from hypothesis import given, settings
from hypothesis import strategies as st

from bertjax.config import Data
from bertjax.data import byte_bpe, tokenizer
from bertjax.data.documents import Record, paragraphs, segment
from bertjax.data.sources import Chunk
from bertjax.data.tokenize import tokenize

TINY = byte_bpe.ByteBPE(PIECES, MERGES)
PARTS = st.sampled_from([*"htew 's.é日 \t\u00a0\u0301", "hello", "  "])
SENTENCE = st.lists(PARTS, max_size=10).map(lambda parts: "".join(parts).strip()).filter(bool)


def tokenized(sentences, encoder, language="en"):
    """The tokens [T] of one document, and the start of each sentence [S]."""
    record = Record("file", 1, 0, "sentences", "\n".join(sentences).encode())
    result = tokenize(Chunk([record], 0, Counter()), Data(language=language), encoder)
    ends = np.cumsum(result.sentence_lengths)
    return result.tokens, [0, *ends[:-1].tolist()]


@settings(max_examples=200, deadline=None)
@given(st.lists(SENTENCE, min_size=1, max_size=5))
def test_a_byte_level_document_is_its_sentences_in_one_line(sentences):
    tokens, first = tokenized(sentences, TINY)
    line = " ".join(sentences)
    assert tokens.tolist() == TINY.encode([line])[0]
    assert TINY.decode(tokens.tolist()) == line
    assert len(first) == len(sentences)
    assert TINY.word_starts()[tokens[first[1:]]].all()


def test_no_space_where_the_language_has_none():
    sentences = ["日本語。", "中文。", "hello"]
    for language, between in (("ja", ""), ("zh", ""), ("ko", " "), ("th", " ")):
        tokens, _ = tokenized(sentences, TINY, language)
        assert TINY.decode(tokens.tolist()) == between.join(sentences)


def test_wordpiece_sentences_stand_alone():
    vocab = [*tokenizer.WORDPIECE_SPECIALS, "hello", ".", "next"]
    model = tokenizer.WordPiece(vocab, lowercase=True)
    tokens, first = tokenized(["Hello.", "Next."], model)
    assert tokens.tolist() == [5, 6, 7, 6]
    assert first == [0, 2]


def test_published_vocabulary_on_real_text():
    published = tokenizer.load(reference.data_directory() / "vocab" / "gpt2_bpe")
    tokens, first = tokenized(["Hello world!", "Hello world!"], published)
    assert tokens.tolist() == [31414, 232, 328, 20920, 232, 328]
    assert first == [0, 3]
    data = dataclasses.replace(Data(), num_workers=1)
    for text in reference.real_texts(30):
        record = Record("file", 1, 0, "json", json.dumps({"text": text}).encode())
        result = tokenize(Chunk([record], 0, Counter()), data, published)
        line = " ".join(s for p in paragraphs(text, "json") for s in segment(p, "en"))
        assert published.decode(result.tokens.tolist()) == line
        assert result.tokens.tolist() == published.encode([line])[0]
        begins = np.cumsum(result.sentence_lengths)[:-1]
        assert published.word_starts()[result.tokens[begins]].all()


CASED, UNCASED = (
    [*tokenizer.WORDPIECE_SPECIALS, *words, "."]
    for words in (["Paris", "the", "is", "Nice"], ["paris", "the", "is", "nice"])
)


def seen_in(text, form="prose", vocab=UNCASED, lowercase=True):
    """The counts from tokenizing one document."""
    encoder = tokenizer.WordPiece(vocab, lowercase)
    result = tokenize(
        Chunk([Record("f", 1, 0, form, text.encode())], 0, Counter()), Data(), encoder
    )
    return {k: n for k, n in result.seen.items() if n}, dict(result.unknown_words)


def test_unknown_tokens_and_the_words_that_hold_them_are_counted():
    text = "Paris is nice. Zürich is nice, Zürich. Rome is nice." + " Paris is nice." * 40
    seen, words = seen_in(text)
    assert seen["unknown tokens"] == 4  # a comma and three names
    assert words == {"Zürich": 2, ",": 1}  # from the first sentence with unknown words
    seen, words = seen_in("Paris is nice. " * 40, lowercase=False)
    assert (seen["unknown tokens"], words) == (40, {"Paris": 1})
    assert "unknown tokens" not in seen_in("Paris is nice.")[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Paris is nice.", {"capitals", "letters", "one sentence"}),
        ("paris is nice. paris is nice.", {"letters"}),
        ("日本語。paris", {"letters", "one sentence"}),
        ("日本語。", {"one sentence"}),
        ("<p>paris</p>", {"letters", "one sentence", "markup"}),
        ("paris &amp; nice", {"letters", "one sentence", "markup"}),
        ("i<b and c>d, a & b; <3", {"letters", "one sentence"}),
        ("itâ€™s", {"letters", "one sentence", "garbled"}),
        ("caf\ufffd", {"letters", "one sentence", "garbled"}),
    ],
)
def test_what_a_document_shows(text, expected):
    seen, _ = seen_in(text)
    always = {"documents", "prose", "unknown tokens"}
    assert set(seen) - always == expected
    assert {seen[name] for name in expected} <= {1}
