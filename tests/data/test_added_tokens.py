"""Added tokens have the same ids as in transformers, in every layout of the files."""

import json
from itertools import pairwise

import byte_bpe_reference as reference
import numpy as np
import pytest
import transformers
import transformers_reference as models
from byte_bpe_reference import MERGES, NASTY, PIECES
from hypothesis import given, settings
from hypothesis import strategies as st

from bertjax import convert, inference
from bertjax.config import Tokenizer as TokenizerConfig
from bertjax.convert import hf_tokenizer
from bertjax.convert.folder import Folder
from bertjax.convert.pretrained import Hints
from bertjax.data import byte_bpe, tokenizer, train_tokenizer, wordpiece
from bertjax.data.added_tokens import Added
from bertjax.errors import DataError

VOCAB = [
    *wordpiece.SPECIALS,
    "[unused1]",
    "co",
    "##vid",
    "##19",
    "the",
    "a",
    "##a",
    "##x",
    "19",
    "e",
    "##e",
    "new",
    "york",
    ",",
    "[",
    "]",
    "ent",
    "日",
    "本",
    "_",
    "<",
    ">",
]
FIRST = str(len(VOCAB))
# (content, flags). A token that the vocabulary lacks has an id after the vocabulary's.
TOKENS = [
    ("covid19", {}),
    ("[unused1]", {"special": True, "normalized": False}),
    ("[ENT]", {"special": True, "normalized": False}),
    ("<e>", {"special": True, "normalized": False, "lstrip": True, "rstrip": True}),
    ("New York", {}),
    ("word", {"single_word": True, "normalized": False}),
    ("日本", {"normalized": False}),
    ("Raw", {"normalized": False, "rstrip": True}),
    ("Café", {}),
    ("lead", {"lstrip": True}),
]
TEXTS = [
    *NASTY,
    "covid19 Covid19 COVID19x xcovid19,covid19covid19",
    "the  New York  new york New  York newyork NEW YORK",
    "a word sword words word_ word, a",
    "the  <e>  the <e><e> a [ENT] [ent] [ENT]the [unused1]",
    "日本 日本日 日 本 the日本",
    "Raw  the raw the Raw\nthe Rawa",
    "café Café CAFÉ Cafe\u0301 cafe",
    "the   lead the\n lead lead",
    "  covid19  ",
    "hello  word  the   covid19   hello",
]
FRAGMENTS = [
    *(content for content, _ in TOKENS),
    " ",
    "  ",
    "\n",
    "\t",
    "the",
    "a",
    "x",
    "_",
    "é",
    "日",
    ",",
    " the",
    "New",
    "york",
    "\u00a0",
    "'s",
    "hello",
]
MIXED = st.lists(st.sampled_from(FRAGMENTS), max_size=8).map("".join)


def added(pieces):
    ids = {piece: i for i, piece in enumerate(pieces)}
    for content, _ in TOKENS:
        ids.setdefault(content, len(ids))
    return [Added(content, ids[content], **flags) for content, flags in TOKENS]


WORDPIECE = wordpiece.WordPiece(VOCAB, True, added=added(VOCAB))
BPE = byte_bpe.ByteBPE(PIECES, MERGES, added=added(PIECES))
MODELS = {
    "uncased": WORDPIECE,
    "cased": wordpiece.WordPiece([*VOCAB, "The"], False, added=added([*VOCAB, "The"])),
    "google": wordpiece.WordPiece(VOCAB, True, ruleset="google", added=added(VOCAB)),
    "byte_bpe": BPE,
    "prefix space": byte_bpe.ByteBPE(PIECES, MERGES, True, added=added(PIECES)),
}


def write(model, directory, *without):
    directory.mkdir(exist_ok=True)
    hf_tokenizer.write(model, "roberta" if model.kind == "byte_bpe" else "bert", 128, directory)
    for name in without:
        (directory / name).unlink()
    return directory


def edit(path, change):
    tree = json.loads(path.read_bytes()) if path.exists() else {}
    change(tree)
    path.write_text(json.dumps(tree))


def theirs(directory, texts=TEXTS):
    made = transformers.AutoTokenizer.from_pretrained(directory)
    return made, made(texts, add_special_tokens=False).input_ids


@pytest.mark.parametrize("without", [None, "tokenizer.json"])
@pytest.mark.parametrize("name", MODELS)
def test_our_folder_has_their_ids(tmp_path, name, without):
    if (name, without) == ("google", "tokenizer.json"):
        return  # only that file holds the rules
    model = MODELS[name]
    directory = write(model, tmp_path, *[without] if without else [])
    made, expected = theirs(directory)
    assert model.encode(TEXTS) == expected
    assert model.encode(TEXTS) == expected  # again, with every word from memory
    assert (
        len(made)
        == model.vocab_size
        == len(model.vocabulary) + len(TOKENS) - (model.kind == "wordpiece")
    )
    again = tokenizer.load(directory)
    assert again.sha256 == model.sha256
    assert again.rules == model.rules


@pytest.mark.parametrize("name", ["uncased", "byte_bpe", "prefix space"])
def test_their_folder_has_their_ids(tmp_path, name):
    """A folder that transformers wrote: hf -> W -> hf."""
    made, expected = theirs(write(MODELS[name], tmp_path / "ours"))
    made.save_pretrained(tmp_path / "theirs")
    model, _, _ = hf_tokenizer.read(Folder(tmp_path / "theirs"), made.name_or_path, Hints())
    assert model.encode(TEXTS) == expected
    saved = tokenizer.load(model.save(tmp_path / "W"))
    assert saved.encode(TEXTS) == expected
    assert theirs(write(saved, tmp_path / "again"))[1] == expected


def legacy(directory, model):
    """A folder as transformers wrote it before version 4.34: without added_tokens_decoder."""
    names = ("additional_special_tokens", "added_tokens_decoder")
    edit(directory / "tokenizer_config.json", lambda t: [t.pop(name, None) for name in names])
    ids = {token.content: token.id for token in model.added if token.id >= len(model.vocabulary)}
    edit(directory / "added_tokens.json", lambda t: t.update(ids))


def alone(directory, model):
    """Only tokenizer.json, as the library `tokenizers` saves it."""
    del model
    for name in ("special_tokens_map.json", "vocab.txt", "vocab.json", "merges.txt"):
        (directory / name).unlink(missing_ok=True)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize("layout", [legacy, alone])
@pytest.mark.parametrize("name", ["uncased", "byte_bpe"])
def test_other_layouts_have_their_ids(tmp_path, name, layout):
    model = MODELS[name]
    directory = write(model, tmp_path, *["tokenizer.json"] if layout is legacy else [])
    layout(directory, model)
    texts = [text for text in TEXTS if "ent" not in text.lower() and "<e>" not in text]
    _, expected = theirs(directory, texts)
    found = tokenizer.load(directory)
    assert found.encode(texts) == expected
    assert found.vocab_size == model.vocab_size
    assert found.marker_ids == model.marker_ids


def test_tokens_that_are_listed_without_an_id_come_last(tmp_path):
    directory = write(wordpiece.WordPiece(VOCAB, True), tmp_path)
    (directory / "tokenizer.json").unlink()
    tokens = ["[E1]", {"content": "[E2]", "lstrip": True}, "[unused1]"]
    edit(
        directory / "special_tokens_map.json",
        lambda t: t.update(extra_special_tokens=tokens, bos_token="[BOS]"),
    )
    texts = ["the [E1] a [E2] the [unused1] [BOS] [e1] ,"]
    made, expected = theirs(directory, texts)
    found = tokenizer.load(directory)
    assert found.encode(texts) == expected
    assert found.vocab_size == len(made) == len(VOCAB) + 3
    assert len(found.marker_ids) == 4


@settings(max_examples=150, deadline=None)
@given(st.lists(MIXED, max_size=4), st.sampled_from(list(MODELS)))
def test_words_are_no_other_than_the_text(texts, name):
    """Encoding word by word, from memory, gives the ids that the library gives for whole texts."""
    model = MODELS[name]
    expected = [e.ids for e in model._backend.encode_batch(texts, add_special_tokens=False)]
    assert model.encode(texts) == expected


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), [("bert", "uncased"), ("roberta", "byte_bpe")])
def test_a_model_gives_their_vectors_there_and_back(tmp_path, kind, name):
    """hf -> W -> hf, and tf1 for BERT, against the model and the tokenizer of transformers."""
    import torch

    texts = ["the covid19 of New York, Raw", "a word [ENT]  <e> the"]
    made, _ = theirs(write(MODELS[name], tmp_path / "ours"))
    size = models.TINY | {"vocab_size": len(made)}
    model = models.model(f"{kind.title()}Model", models.config(kind, size), scale=0.2)
    for part in (made, model):
        part.save_pretrained(tmp_path / "theirs")
    batch = made(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden, mask = model(**batch).last_hidden_state, batch["attention_mask"][..., None]
    expected = ((hidden * mask).sum(1) / mask.sum(1)).numpy()
    steps = ["hf:theirs", "W", "hf:again", *["tf1:tf/m.ckpt"] * (kind == "bert")]
    places = [
        f"{form}:{tmp_path}/{path}" if path else f"{tmp_path}/{form}"
        for form, _, path in (step.partition(":") for step in steps)
    ]
    for source, destination in pairwise(places):
        convert.convert(source, destination)
    for place in places:
        found = convert.read(place)
        assert found.tokenizer.sha256 == convert.read(places[0]).tokenizer.sha256
        ours = np.stack(list(inference.embed(found, texts, pooling="mean")))
        np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_the_core_special_tokens_stay_text():
    for model, text in ((WORDPIECE, "a [MASK] covid19 [SEP]"), (BPE, "a <mask> covid19 </s>")):
        (ids,) = model.encode([text])
        core = set(model.special_ids) - set(model.marker_ids) - {model.unk_id}
        assert not set(ids) & core
        assert model._pieces.index("covid19") in ids
        masked = model.encode_with_masks(text)
        assert masked.count(model.mask_id) == 1


def test_an_added_token_is_no_piece_of_words():
    model = wordpiece.WordPiece(
        [*wordpiece.SPECIALS, "co", "##vid", "##19", "##x"],
        True,
        added=[Added("covid19", 9, single_word=True)],
    )
    assert model.tokens(model.encode(["covid19x covid19"])[0]) == [
        *("co", "##vid", "##19", "##x"),
        "covid19",
    ]


def test_ids_and_words():
    for model in (WORDPIECE, BPE):
        size = len(model.vocabulary)
        assert model.tokens(range(model.vocab_size))[:size] == model.vocabulary
        contents = {token.content for token in model.added if token.special}
        assert set(model.tokens(model.marker_ids)) == contents == {"[unused1]", "[ENT]", "<e>"}
        assert list(model.special_ids) == sorted(model.special_ids)
        assert set(model.marker_ids) < set(model.special_ids)
        starts = model.word_starts()
        assert len(starts) == model.vocab_size
        assert starts[[token.id for token in model.added]].all()
        text = "the covid19 [ENT] a"
        (ids,) = model.encode([text])
        assert model.decode(ids) == text
        assert model.rules["added_tokens"]["covid19"]["special"] is False


def test_without_added_tokens_nothing_is_looked_for():
    assert wordpiece.WordPiece(VOCAB, True)._across is None
    assert byte_bpe.ByteBPE(PIECES, MERGES)._added is None
    simple = wordpiece.WordPiece(VOCAB, True, added=[Added("covid19", len(VOCAB))])
    assert simple._across is None  # the token has no space: texts can be cut into words
    simple.encode(["the covid19 a the"])
    assert len(simple._memory) == 3


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            "tokenizer_config.json",
            lambda t: t["added_tokens_decoder"].update({"99": {"content": "far"}}),
            "added token 'far' has the id 99, but the next free one is",
        ),
        (
            "tokenizer_config.json",
            lambda t: t["added_tokens_decoder"][FIRST].update(content="[ENT]"),
            "added token '[ENT]': its files do not agree",
        ),
        (
            "tokenizer_config.json",
            lambda t: t["added_tokens_decoder"][FIRST].update(rstrip=True),
            "added token 'covid19': its files do not agree on its id or flags",
        ),
        (
            "tokenizer_config.json",
            lambda t: t["added_tokens_decoder"][FIRST].update(lstrip="no"),
            "added token 'covid19': lstrip must be true or false",
        ),
        (
            "tokenizer_config.json",
            lambda t: t.update(added_tokens_decoder=[]),
            "added_tokens_decoder must be an object of ids",
        ),
        (
            "tokenizer_config.json",
            lambda t: t["added_tokens_decoder"][FIRST].update(content=""),
            "has no content",
        ),
        (
            "special_tokens_map.json",
            lambda t: t.update(additional_special_tokens="[E1]"),
            "additional_special_tokens must be a list of tokens",
        ),
        (
            "special_tokens_map.json",
            lambda t: t.update(mask_token="<mask>"),
            "mask_token='<mask>', but tokenizer.json has '[MASK]'",
        ),
        (
            "tokenizer_config.json",
            lambda t: t.update(never_split=["co"]),
            "never_split=['co'] is not supported",
        ),
        ("tokenizer_config.json", lambda t: t.update(do_basic_tokenize=False), "already cut"),
    ],
)
def test_what_cannot_be_kept_is_refused(tmp_path, file, change, message):
    directory = write(WORDPIECE, tmp_path)
    edit(directory / file, change)
    with pytest.raises(DataError) as caught:
        tokenizer.load(directory)
    assert message in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sentencepiece_takes_no_added_tokens(tmp_path):
    config = TokenizerConfig(kind="sentencepiece", vocab_size=40)
    train_tokenizer.train(config, ["the old cat sat on the mat"] * 50).save(tmp_path)
    edit(tmp_path / "added_tokens.json", lambda t: t.update(covid19=40))
    with pytest.raises(DataError, match="added token 'covid19': cannot be kept"):
        tokenizer.load(tmp_path)


def test_published_byte_bpe_with_added_tokens(tmp_path):
    base = tokenizer.load(reference.data_directory() / "vocab" / "gpt2_bpe")
    model = byte_bpe.ByteBPE(base.vocabulary, base.merges, added=added(base.vocabulary))
    texts = [
        f"{text[:300]} covid19 {text[300:600]}[ENT]  word\n" for text in reference.real_texts(40)
    ]
    _, expected = theirs(write(model, tmp_path), texts)
    assert model.encode(texts) == expected
    assert model.id_of("[ENT]") in model.encode(texts)[0]
