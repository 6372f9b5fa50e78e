# ruff: noqa: RUF001
"""Google's rules of WordPiece agree with google-research/bert's rules, written out in Python."""

import json
import random
import sys
import unicodedata

import byte_bpe_reference as reference
import pytest
import transformers
from byte_bpe_reference import NASTY

from bertjax.config import Tokenizer as TokenizerConfig
from bertjax.convert import hf_tokenizer
from bertjax.data import tokenizer, train_tokenizer, wordpiece
from bertjax.errors import DataError, UsageError

LETTERS = "abcdeoδοςσ\ue000日中ı"
VOCAB = [*wordpiece.SPECIALS, *LETTERS, *("##" + c for c in LETTERS), "οδος", ",", "'", "the"]
IDEOGRAPHS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)
# Assigned characters whose class or decomposition has changed since Python 3.11's Unicode 14.
CHANGED = {0x1171E, 0x11938}


def cleaned(text):
    for c in text:
        category = unicodedata.category(c)
        if c in " \t\n\r" or category == "Zs":
            yield " "
        elif c not in "\0\ufffd" and category not in ("Cc", "Cf"):
            ideograph = any(low <= ord(c) <= high for low, high in IDEOGRAPHS)
            yield f" {c} " if ideograph else c


def is_punctuation(c):
    ascii_symbol = c.isascii() and c.isprintable() and not c.isalnum() and c != " "
    return ascii_symbol or unicodedata.category(c).startswith("P")


def basic(text, lowercase):
    """The words of BasicTokenizer."""
    words = []
    for word in "".join(cleaned(text)).split():
        if lowercase:
            decomposed = unicodedata.normalize("NFD", word.lower())
            word = "".join(c for c in decomposed if unicodedata.category(c) != "Mn")
        words += "".join(f" {c} " if is_punctuation(c) else c for c in word).split()
    return words


def pieces_of(word, vocab):
    """Greedy longest match first; a word without a match, or too long, is [UNK] as a whole."""
    pieces, start = [], 0
    while start < len(word):
        prefix = "##" if start else ""
        ends = range(len(word), start, -1)
        end = next((e for e in ends if prefix + word[start:e] in vocab), None)
        if end is None or len(word) > 200:
            return ["[UNK]"]
        pieces.append(prefix + word[start:end])
        start = end
    return pieces


def full(text, vocab, lowercase):
    return [p for word in basic(text, lowercase) for p in pieces_of(word, vocab)]


def google(vocab=VOCAB, lowercase=True):
    return wordpiece.WordPiece(vocab, lowercase, ruleset="google")


NAMED = {
    "ΟΔΟΣ": (["οδος"], ["ο", "##δ", "##ο", "##σ"]),
    "ΟΔΟΣ, ΟΔΟΣ'": (["οδος", ",", "οδος", "'"], None),
    "a" * 150: (["a"] + ["##a"] * 149, ["[UNK]"]),
    "a" * 200: (["a"] + ["##a"] * 199, ["[UNK]"]),
    "a" * 201: (["[UNK]"], ["[UNK]"]),
    "a\ue000b": (["a", "##\ue000", "##b"], ["a", "##b"]),
    "\U0002b820a": (["[UNK]", "a"], ["[UNK]"]),
}


@pytest.mark.parametrize("text", NAMED, ids=lambda text: ascii(text[:9]) + str(len(text)))
def test_where_the_rules_differ(text):
    googles, theirs = NAMED[text]
    model = google()
    assert model.tokens(model.encode([text])[0]) == googles == full(text, VOCAB, True)
    if theirs:
        other = wordpiece.WordPiece(VOCAB, True)
        assert other.tokens(other.encode([text])[0]) == theirs


@pytest.mark.parametrize("lowercase", [True, False])
def test_every_character(lowercase):
    """Every character between letters, by this Python's Unicode; unassigned ones are skipped."""
    model = google(lowercase=lowercase)
    normalize = model._backend.normalizer.normalize_str
    split = model._backend.pre_tokenizer.pre_tokenize_str
    edges = {edge + i for pair in IDEOGRAPHS for edge in pair for i in (-1, 0, 1)}
    edges |= {0xE000, 0xF8FF, 0xF0000, 0x10FFFD}  # private use
    characters = []
    for i in range(sys.maxunicode + 1):
        category = unicodedata.category(chr(i))
        many = category == "Lo" and i % 16  # ideographs and other letters behave alike
        if i in edges or not (category in ("Cs", "Cn", "Co") or i in CHANGED or many):
            characters.append(chr(i))
    for start in range(0, len(characters), 1000):
        text = " ".join(f"a{c}b" for c in characters[start : start + 1000])
        assert [word for word, _ in split(normalize(text))] == basic(text, lowercase)
    assert len(characters) > 20_000


def test_final_sigma_is_pythons():
    model, rng = google(), random.Random(0)
    normalize = model._backend.normalizer.normalize_str
    for _ in range(5000):
        text = "".join(rng.choices("ΣσςΑα.'’:\u00ad\u0301ʰ \u0345\x07日A-_\u2028ªᵃ·", k=8))
        words = [w for w, _ in model._backend.pre_tokenizer.pre_tokenize_str(normalize(text))]
        assert words == basic(text, True), ascii(text)


@pytest.mark.parametrize("casing", ["cased", "uncased"])
def test_real_text(casing):
    path = reference.data_directory() / "vocab" / f"bert-base-{casing}-vocab.txt"
    model = tokenizer.load(path, rules="google")
    vocab = set(model.vocabulary)
    texts = [*reference.real_texts(60), *NASTY, *MULTILINGUAL]
    lines = [line for text in texts for line in text.split("\n")][:600]
    for line, ids in zip(lines, model.encode(lines), strict=True):
        assert model.tokens(ids) == full(line, vocab, casing == "uncased")


MULTILINGUAL = [
    "Ο ΔΡΟΜΟΣ ΤΟΥ ΗΛΙΟΥ, Ο Άγιος Νικόλαος και ο ΑΣ.",
    "Съешь ещё этих мягких французских булок, ДА ВЫПЕЙ ЧАЮ!",
    "敏捷的棕色狐狸跳过懒狗。「日本語」のテキスト、カタカナ。",
    "다람쥐 헌 쳇바퀴에 타고파",
    "İstanbul'da ILIK bir GÜN; ığdır",
    "نص حكيم له سر قاطع وذو شأن عظيم، مكتوب",
    "ऋषियों को सताने वाले दुष्ट राक्षसों का विनाश करने वाले।",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich — „ja“",
    "Příliš žluťoučký kůň úpěl ďábelské ódy",
]


@pytest.mark.parametrize("lowercase", [True, False])
def test_the_saved_file_carries_the_rules(tmp_path, lowercase):
    model = google(lowercase=lowercase)
    again = tokenizer.load(model.save(tmp_path))
    assert again.sha256 == model.sha256
    assert again.rules == model.rules
    assert again.rules["rules"] == "google"
    (note,) = hf_tokenizer.write(model, "bert", 128, tmp_path)
    assert "in tokenizer.json alone" in note
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    texts = [*NAMED, *MULTILINGUAL]
    assert theirs(texts, add_special_tokens=False).input_ids == model.encode(texts)


def test_a_changed_copy_of_the_rules_is_refused(tmp_path):
    path = google().save(tmp_path)
    tree = json.loads(path.read_bytes())
    tree["normalizer"]["normalizers"].pop()
    path.write_text(json.dumps(tree))
    with pytest.raises(DataError, match=r"max_input_chars_per_word=200 is not supported"):
        tokenizer.load(path)


def test_who_has_which_rules(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("".join(f"{piece}\n" for piece in VOCAB))
    assert tokenizer.load(path).ruleset == "huggingface"
    assert tokenizer.load(path, rules="google").ruleset == "google"
    (tmp_path / "bert_config.json").write_text("{}")  # a release of google-research/bert
    for place in (path, tmp_path):
        found, notes = tokenizer.read(TokenizerConfig(path=str(place)))
        assert found.ruleset == "google"
        assert notes[0].startswith("rules: google, because vocab.txt is beside google-research")
    assert tokenizer.load(path, rules="huggingface").ruleset == "huggingface"
    (tmp_path / "tokenizer_config.json").write_text("{}")  # as Hugging Face has it
    assert tokenizer.load(path).ruleset == "huggingface"
    saved = google().save(tmp_path / "W")
    assert tokenizer.load(saved, rules="google").ruleset == "google"
    with pytest.raises(UsageError, match=r"rules=huggingface: .*json has the rules google"):
        tokenizer.load(saved, rules="huggingface")
    with pytest.raises(UsageError, match="rules=google: strips accents where"):
        wordpiece.WordPiece(VOCAB, True, strip_accents=False, ruleset="google")


def test_training_with_googles_rules():
    texts = ["ΟΔΟΣ και ΟΔΟΣ " + "x" * 30] * 20
    model = train_tokenizer.train(TokenizerConfig(vocab_size=80, rules="google"), texts)
    assert model.ruleset == "google"
    assert "οδος" in model.vocabulary
    with pytest.raises(UsageError, match="rules=google: byte_bpe has no such choice"):
        train_tokenizer.train(TokenizerConfig(kind="byte_bpe", rules="google"), texts)
