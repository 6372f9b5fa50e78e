"""Every piece of a text has the right characters of the text."""

import unicodedata

import byte_bpe_reference as reference
import pytest
from byte_bpe_reference import NASTY
from hypothesis import given, settings
from hypothesis import strategies as st

from bertjax.data import byte_bpe, tokenizer, wordpiece
from bertjax.data.added_tokens import Added

KINDS = {
    "uncased": ("bert-base-uncased-vocab.txt", None),
    "cased": ("bert-base-cased-vocab.txt", None),
    "google": ("bert-base-uncased-vocab.txt", "google"),
    "byte_bpe": ("gpt2_bpe", None),
    "sentencepiece": ("albert_spiece.model", None),
}
MIXED = st.lists(
    st.one_of(
        st.sampled_from(
            [
                "\r",
                "\r\n",
                " ",
                "  ",
                "e\u0301",
                "é",
                "日本",
                "😀",
                "ﬁ",
                "İ",
                "\u200d",
                "the",
                "한",
                "[MASK]",
            ]
        ),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
    ),
    max_size=25,
).map("".join)


@pytest.fixture(scope="module")
def published():
    folder = reference.data_directory() / "vocab"
    return {
        kind: tokenizer.load(folder / name, rules=rules) for kind, (name, rules) in KINDS.items()
    }


def check(model, texts):
    """Laws: the ids are those of `encode`; pieces move forward and stay inside the text."""
    found = model.encode_with_offsets(texts)
    assert [ids for ids, _ in found] == model.encode(texts)
    for text, (ids, offsets) in zip(texts, found, strict=True):
        assert offsets.shape == (len(ids), 2)
        if len(ids):
            assert (offsets[:, 0] <= offsets[:, 1]).all()
            assert offsets.min() >= 0
            assert offsets.max() <= len(text)
            assert (offsets[1:] >= offsets[:-1]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_ids_of_real_text(published, kind):
    check(published[kind], [*reference.real_texts(30), *NASTY, ""])


@pytest.mark.parametrize("kind", KINDS)
def test_ids_of_any_text(published, kind):
    @settings(max_examples=150, deadline=None)
    @given(MIXED)
    def holds(text):
        check(published[kind], [text])

    holds()


@pytest.mark.parametrize("kind", ["uncased", "google"])
def test_where_pieces_are(published, kind):
    text = "Cafe\u0301 a\u0327\r日本  [MASK] unaffable\u0300!"
    ((ids, offsets),) = published[kind].encode_with_offsets([text])
    found = list(zip(published[kind].tokens(ids), (text[a:b] for a, b in offsets), strict=True))
    assert found[:6] == [
        ("cafe", "Cafe\u0301"),
        ("a", "a\u0327"),
        ("日", "日"),
        ("本", "本"),
        ("[", "["),
        ("mask", "MASK"),
    ]
    assert "".join(part for _, part in found[7:]) == "unaffable\u0300!"


def test_bytes_of_a_character_and_spaces(published):
    text = "a  日 b"
    ((_, offsets),) = published["byte_bpe"].encode_with_offsets([text])
    parts = [text[a:b] for a, b in offsets]
    assert parts == ["a", "", "日", "日", "日", "b"]
    ((_, offsets),) = published["sentencepiece"].encode_with_offsets(["Ünder  the sea"])
    assert ["Ünder  the sea"[a:b] for a, b in offsets][-2:] == ["the", "sea"]


@pytest.mark.parametrize("kind", ["uncased", "byte_bpe"])
@settings(max_examples=100, deadline=None)
@given(text=MIXED)
def test_no_letter_is_lost(published, kind, text):
    """Every letter and digit is in some piece."""
    ((_, offsets),) = published[kind].encode_with_offsets([text])
    covered = set()
    for start, end in offsets:
        covered |= set(range(start, end))
    for index, character in enumerate(text):
        if unicodedata.category(character) in ("Lu", "Ll", "Lo", "Nd"):
            assert index in covered, (index, character)


def test_added_tokens():
    added = (
        Added("<ent>", 0, special=True),
        Added("new york", 0, normalized=True),
        Added("x~", 0, lstrip=True, rstrip=True),
    )
    letters = "abcdehklnorstwxy"
    vocab = [*wordpiece.SPECIALS, *letters, *("##" + c for c in letters)]
    tokens = [Added(**{**vars(a), "id": len(vocab) + i}) for i, a in enumerate(added)]
    text = "the <ent> new york x~  the"
    model = wordpiece.WordPiece(vocab, True, added=tokens)
    check(model, [text, "NEW YORK<ent>the x~"])
    ((ids, offsets),) = model.encode_with_offsets([text])
    parts = [text[a:b].strip() for a, b in offsets]
    assert [p for i, p in zip(ids, parts, strict=True) if i >= len(vocab)] == [
        "<ent>",
        "new york",
        "x~",
    ]
    size = len(reference.PIECES)
    tokens = [Added(**{**vars(a), "id": size + i}) for i, a in enumerate(added)]
    check(byte_bpe.ByteBPE(reference.PIECES, reference.MERGES, added=tokens), [text, "  x~  the"])


def test_pieces_without_a_row_are_unknown(tmp_path):
    pieces = [p for p in reference.PIECES if p != "hello"]
    model = byte_bpe.PartialBPE(pieces, reference.MERGES, ["hello"], "test")
    check(model, ["hello the hello"])
    ((ids, offsets),) = model.encode_with_offsets(["hello the"])
    assert (ids[0], offsets[0].tolist()) == (model.unk_id, [0, 5])
