"""Ids agree with the libraries, and a trained vocabulary depends only on the text."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from bertjax.config import Tokenizer as TokenizerConfig
from bertjax.data import tokenizer, tokenizer_base, train_tokenizer
from bertjax.errors import DataError

SPECIALS = list(tokenizer.WORDPIECE_SPECIALS)
VOCAB = [
    *SPECIALS,
    "un",
    "##want",
    "##ed",
    "runn",
    "##ing",
    ",",
    "e",
    "##e",
    "a",
    "##a",
    "[",
    "]",
    "mask",
    "ma",
    "##sk",
    "日",
    "!",
]
TEXTS = [
    f"The {a} {b} sat on the {c}, unwanted and running."
    for a in ("old", "new", "small")
    for b in ("cat", "dog", "clock")
    for c in ("mat", "wall")
] * 5


def write_vocab(directory, vocab=VOCAB):
    path = directory / "vocab.txt"
    path.write_text("\n".join(vocab) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def wordpiece(tmp_path):
    return tokenizer.load(write_vocab(tmp_path))


@pytest.fixture(scope="module")
def sentence_piece():
    config = TokenizerConfig(kind="sentencepiece", vocab_size=60)
    return train_tokenizer.train(config, TEXTS)


def test_wordpiece_known_answer(wordpiece):
    # The example from google-research/bert's tokenization_test.py, in ids of VOCAB.
    (ids,) = wordpiece.encode(["UNwant\u00e9d,running"])
    assert wordpiece.tokens(ids) == ["un", "##want", "##ed", ",", "runn", "##ing"]
    assert ids == [VOCAB.index(piece) for piece in wordpiece.tokens(ids)]
    assert wordpiece.decode(ids) == "unwanted, running"
    assert wordpiece.encode(["日 unknownword"]) == [[VOCAB.index("日"), wordpiece.unk_id]]


def test_special_ids(wordpiece, sentence_piece):
    for model in (wordpiece, sentence_piece):
        ids = (model.pad_id, model.unk_id, model.cls_id, model.sep_id, model.mask_id)
        assert model.special_ids == tuple(sorted(ids))
        assert model.tokens(ids)[2:] == ["[CLS]", "[SEP]", "[MASK]"]


def test_special_tokens_in_text_are_text(wordpiece, sentence_piece):
    (ids,) = wordpiece.encode(["a [MASK] [SEP]"])
    assert wordpiece.tokens(ids) == ["a", "[", "mask", "]", "[", "[UNK]", "]"]
    (ids,) = sentence_piece.encode(["a [MASK] [SEP] <pad>"])
    assert not set(ids) & set(sentence_piece.special_ids) - {sentence_piece.unk_id}


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), max_size=5))
def test_wordpiece_equals_the_library(texts):
    model = tokenizer.WordPiece(VOCAB, lowercase=True)
    library = tokenizers.Tokenizer.from_str(model._contents.decode())
    library.encode_special_tokens = True
    expected = [e.ids for e in library.encode_batch(texts, add_special_tokens=False)]
    assert model.encode(texts) == expected
    assert model.encode(texts) == expected  # again, with every word from memory


def test_the_word_memory_is_bounded_and_changes_nothing(wordpiece, monkeypatch):
    texts = [f"a unwanted{'e' * i} running" for i in range(50)]
    expected = wordpiece.encode(texts)
    monkeypatch.setattr(tokenizer_base, "REMEMBERED_WORDS", 5)
    small = tokenizer.WordPiece(VOCAB, lowercase=True)
    assert [small.encode([text])[0] for text in texts] == expected
    assert len(small._memory) == 5


def test_encode_flat_agrees_with_encode(wordpiece, sentence_piece):
    texts = ["unwanted running", "", "a", "The old cat sat."]
    for model in (wordpiece, sentence_piece):
        ids, lengths = model.encode_flat(texts)
        assert ids.dtype == np.uint16
        assert lengths.tolist() == [len(part) for part in model.encode(texts)]
        assert ids.tolist() == [i for part in model.encode(texts) for i in part]
        assert model.encode([]) == []


def test_lowercase_is_a_property_of_the_vocabulary(tmp_path):
    path = write_vocab(tmp_path, [*SPECIALS, "A", "a", "É", "e"])
    for lowercase in (False, None):
        assert tokenizer.load(path, lowercase).encode(["A É"]) == [[5, 7]]
    with pytest.raises(DataError, match="'A' has a capital letter, which lower-cased text never"):
        tokenizer.load(path, lowercase=True)
    path = write_vocab(tmp_path, [*SPECIALS, "a", "e"])
    for lowercase in (True, None):
        assert tokenizer.load(path, lowercase).encode(["A É"]) == [[5, 6]]


def test_word_starts(wordpiece, sentence_piece):
    expected = [not piece.startswith("##") for piece in VOCAB]
    assert wordpiece.word_starts().tolist() == expected
    starts = sentence_piece.word_starts()
    for i, piece in enumerate(sentence_piece.tokens(range(sentence_piece.vocab_size))):
        expected = piece.startswith("▁") or i in sentence_piece.special_ids or piece in ",."
        assert starts[i] == expected, piece


def test_masks_in_text(wordpiece, sentence_piece):
    ids = wordpiece.encode_with_masks("a [MASK], unwanted[MASK][SEP]")
    assert wordpiece.tokens(ids)[:7] == ["a", "[MASK]", ",", "un", "##want", "##ed", "[MASK]"]
    assert not set(ids[7:]) & {wordpiece.sep_id, wordpiece.mask_id}
    ids = sentence_piece.encode_with_masks("the old [MASK] sat")
    parts = sentence_piece.encode(["the old ", " sat"])
    assert ids == [*parts[0], sentence_piece.mask_id, *parts[1]]
    assert sentence_piece.encode_with_masks("no mask") == sentence_piece.encode(["no mask"])[0]


VARIANTS = {
    "cased": {"lowercase": False},
    "lower-cased with accents": {"lowercase": True, "strip_accents": False},
    "cased without accents": {"lowercase": False, "strip_accents": True},
    "ideographs are no words": {"lowercase": True, "handle_chinese_chars": False},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_option_of_a_json_is_kept(tmp_path, name):
    vocab = [*SPECIALS, "É", "é", "E", "e", "日", "本", "日本", "##日", "##本", "A", "a"]
    options = {"clean_text": True, "handle_chinese_chars": True, "strip_accents": None}
    library = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({p: i for i, p in enumerate(vocab)}, unk_token="[UNK]")
    )
    library.normalizer = tokenizers.normalizers.BertNormalizer(**(options | VARIANTS[name]))
    library.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    library.save(str(tmp_path / "tokenizer.json"))
    texts = ["É é E e", "日本 A a", "Éa日本"]
    expected = [e.ids for e in library.encode_batch(texts)]
    model = tokenizer.load(tmp_path)
    assert model.encode(texts) == expected
    model.save(tmp_path)
    assert tokenizer.load(tmp_path).encode(texts) == expected
    plain = tokenizer.WordPiece(vocab, lowercase=True)
    assert plain.encode(texts) != expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t["normalizer"].update(clean_text=False), "clean_text=False is not supported"),
        (lambda t: t["model"].update(continuing_subword_prefix="@@"), "prefix='@@' is not"),
        (lambda t: t["model"].update(max_input_chars_per_word=9), "word=9 is not supported"),
        (lambda t: t["model"].update(unk_token="<unk>"), "unk_token='<unk>' is not supported"),
        (lambda t: t.update(pre_tokenizer={"type": "Whitespace"}), "type='Whitespace' is not"),
        (lambda t: t.update(normalizer=None), "not a tokenizer.json"),
        (lambda t: t["normalizer"].update(lowercase="no"), "not a tokenizer.json"),
        (lambda t: t["model"]["vocab"].update(a=10**12), "ids are not 0..21, each once"),
        (
            lambda t: t["added_tokens"].append({"content": "the", "id": 23, "special": False}),
            "added token 'the' has the id 23, but the next free one is 22",
        ),
        (
            lambda t: t["added_tokens"].append({"content": "un", "id": 22, "special": False}),
            "added token 'un' has two ids, 5 and 22",
        ),
        (
            lambda t: t.update(normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}]}),
            "WordPiece with the normalizer {'type': 'Sequence', 'normalizers': [{'type': 'NFC'}]}",
        ),
    ],
)
def test_a_json_that_cannot_be_reproduced_is_refused(wordpiece, tmp_path, change, message):
    path = wordpiece.save(tmp_path)
    tree = json.loads(path.read_bytes())
    change(tree)
    path.write_text(json.dumps(tree))
    with pytest.raises(DataError) as caught:
        tokenizer.load(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_saved_tokenizer_is_the_same(wordpiece, sentence_piece, tmp_path):
    for i, model in enumerate((wordpiece, sentence_piece)):
        path = model.save(tmp_path / str(i))
        again = tokenizer.load(tmp_path / str(i))
        assert again.sha256 == model.sha256 == tokenizer.load(path).sha256
        assert again.encode(TEXTS) == model.encode(TEXTS)
        assert again.vocab_size == model.vocab_size


def test_sentencepiece_is_the_library(sentence_piece, tmp_path):
    path = sentence_piece.save(tmp_path)
    library = sentencepiece.SentencePieceProcessor(model_file=str(path))
    assert sentence_piece.encode(TEXTS) == library.encode(TEXTS)
    (ids,) = sentence_piece.encode(["The old cat sat."])
    assert sentence_piece.decode(ids) == "the old cat sat."


def test_trained_wordpiece_covers_the_corpus():
    config = TokenizerConfig(vocab_size=120)
    model = train_tokenizer.train(config, TEXTS)
    assert model.vocab_size <= 120
    assert model.special_ids == (0, 1, 2, 3, 4)
    ids, _ = model.encode_flat(TEXTS)
    assert model.unk_id not in ids
    assert model.tokens(model.encode(["the"])[0]) == ["the"]  # the most frequent word is one piece


def test_training_depends_on_the_text_alone():
    """Trains in new processes, because the library seeds its hash tables once a process."""
    program = (
        "from bertjax.config import Tokenizer; from bertjax.data import train_tokenizer as t;"
        "import sys; texts = open(sys.argv[1]).read().split('.');"
        "print(t.train(Tokenizer(kind=sys.argv[2], vocab_size=300), texts).sha256)"
    )
    text = Path(train_tokenizer.__file__)
    for kind in ("wordpiece", "sentencepiece"):
        command = [sys.executable, "-c", program, str(text), kind]
        root = Path(__file__).parents[2]
        runs = [
            subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
            for _ in range(3)
        ]
        assert len({run.stdout for run in runs}) == 1


def test_counting_words_in_bounded_memory_keeps_the_frequent(monkeypatch):
    monkeypatch.setattr(train_tokenizer, "COUNTED_WORDS", 100)
    rare = [f"rare{i:05d}" for i in range(5000)]
    texts = [f"common {word}" for word in rare]
    model = train_tokenizer.train(TokenizerConfig(vocab_size=60), texts)
    assert model.tokens(model.encode(["common"])[0]) == ["common"]


def test_lines_fit_the_sentencepiece_trainer():
    report = Counter()
    long = "word " * 3000 + "é" * 5000
    lines = list(train_tokenizer.fit_lines(["short", long, "bad \0 line", "bad ▅ line"], report))
    assert max(len(line.encode()) for line in lines) <= train_tokenizer.SENTENCEPIECE_LINE
    assert "".join(lines).replace(" ", "") == "short" + long.replace(" ", "")
    assert report == {
        "tokenizer training: long line, cut": 1,
        "tokenizer training: line with a reserved character": 2,
    }


def test_training_on_nothing_is_one_clear_line():
    for kind in ("wordpiece", "sentencepiece"):
        with pytest.raises(DataError) as caught:
            train_tokenizer.train(TokenizerConfig(kind=kind, vocab_size=100), [])
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("missing.txt", None, "missing.txt: No such file"),
        (
            "nomask.txt",
            b"[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n",
            r"nomask.txt: vocabulary lacks \[MASK\]",
        ),
        ("twice.txt", "\n".join([*VOCAB, "a"]).encode(), "twice.txt: 'a' appears more than once"),
        ("latin1.txt", b"caf\xe9\n", "latin1.txt: not UTF-8 at byte 3"),
        ("broken.json", b"{", "broken.json: not JSON"),
        ("deep.json", b"[" * 100_000, "deep.json: not JSON"),
        ("list.json", b"[]", "list.json: not a tokenizer.json"),
        ("empty.json", b'{"model": {"type": "BPE"}}', "empty.json: not a tokenizer.json"),
        ("other.json", b'{"model": {"type": "Unigram"}}', "Unigram'? is not supported"),
        ("bad.model", b"nothing", "bad.model: not a SentencePiece model"),
        ("folder/x", b"", "folder: holds none of"),
    ],
)
def test_bad_tokenizer_files(tmp_path, name, contents, message):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    if contents is not None:
        path.write_bytes(contents)
    with pytest.raises(DataError, match=message) as caught:
        tokenizer.load(path.parent if "/" in name else path)
    assert "\n" not in str(caught.value)


def test_published_vocabularies():
    if "BERTJAX_TEST_DATA" not in os.environ:
        pytest.skip("BERTJAX_TEST_DATA is unset: no published vocabularies here")
    directory = Path(os.environ["BERTJAX_TEST_DATA"]) / "vocab"
    bert = tokenizer.load(directory / "bert-base-uncased-vocab.txt")
    assert bert.vocab_size == 30522
    assert bert.special_ids == (0, 100, 101, 102, 103)
    assert bert.encode(["Hello, world!"]) == [[7592, 1010, 2088, 999]]
    cased = tokenizer.load(directory / "bert-base-cased-vocab.txt", lowercase=False)
    assert cased.vocab_size == 28996
    assert cased.encode(["Hello, world!"]) == [[8667, 117, 1362, 106]]
    albert = tokenizer.load(directory / "albert_spiece.model")
    assert albert.vocab_size == 30000
    assert albert.special_ids == (0, 1, 2, 3, 4)
    assert albert.tokens(albert.encode(["Hello world"])[0])[-1] == "▁world"
