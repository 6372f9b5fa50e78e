"""Every command reads the same files of a tokenizer's folder, and applies their settings."""

import dataclasses
import json

import pytest
import transformers
from byte_bpe_reference import MERGES, PIECES

from bertjax import __main__ as command_line
from bertjax import command_line as flags
from bertjax import config as configs
from bertjax import pretraining
from bertjax.convert import hf_tokenizer
from bertjax.convert.folder import Folder
from bertjax.convert.pretrained import Hints
from bertjax.data import byte_bpe, tokenizer, train_tokenizer, wordpiece
from bertjax.data.prepare import prepare
from bertjax.errors import DataError, UsageError

pytestmark = pytest.mark.usefixtures("shown")  # what is logged is printed

VOCAB = [
    *wordpiece.SPECIALS,
    "paris",
    "Paris",
    "par",
    "##is",
    "caf",
    "##e",
    "##é",
    "日",
    "本",
    "日本",
    "the",
    ".",
]
UNCASED = [piece for piece in VOCAB if piece != "Paris"]
TEXTS = ["Paris paris", "Café café", "日本 the"]


def folder(directory, vocab=VOCAB, **settings):
    directory.mkdir(exist_ok=True)
    (directory / "vocab.txt").write_text("".join(f"{piece}\n" for piece in vocab))
    if settings:
        (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return directory


SETTINGS = {
    "cased": {"do_lower_case": False},
    "lower-cased": {"do_lower_case": True},
    "accents kept": {"do_lower_case": True, "strip_accents": False},
    "accents stripped": {"do_lower_case": False, "strip_accents": True},
    "ideographs are no words": {"do_lower_case": False, "tokenize_chinese_chars": False},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_command_reads_the_settings_beside_a_vocabulary(tmp_path, name):
    directory = folder(tmp_path, **SETTINGS[name])
    theirs = transformers.BertTokenizer.from_pretrained(directory)
    expected = theirs(TEXTS, add_special_tokens=False).input_ids
    by_convert, _, _ = hf_tokenizer.read(Folder(directory), "bert", Hints())
    for found in (
        tokenizer.load(directory),
        tokenizer.load(directory / "vocab.txt"),
        by_convert,
    ):
        assert found.encode(TEXTS) == expected
        assert found.sha256 == by_convert.sha256


def test_byte_level_bpe_reads_them_too(tmp_path):
    model = byte_bpe.ByteBPE(PIECES, MERGES, add_prefix_space=True)
    hf_tokenizer.write(model, "roberta", 128, tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    for place in (tmp_path, tmp_path / "vocab.json"):
        assert tokenizer.load(place).sha256 == model.sha256


def test_a_file_of_another_name_stands_alone(tmp_path):
    directory = folder(tmp_path, do_lower_case=True)
    (directory / "vocab.txt").rename(directory / "cased-vocab.txt")
    assert tokenizer.load(directory / "cased-vocab.txt").lowercase is False


CONTRADICTIONS = [
    ({"do_lower_case": False}, True, "config.tokenizer.lowercase=True: .* says lowercase=False"),
    ({"do_lower_case": True}, False, "config.tokenizer.lowercase=False: .* says lowercase=True"),
]


@pytest.mark.parametrize(("settings", "wish", "message"), CONTRADICTIONS)
def test_a_wish_against_the_files_is_refused(tmp_path, settings, wish, message):
    directory = folder(tmp_path / "a", **settings)
    saved = tokenizer.load(directory).save(tmp_path / "saved")
    for place in (directory, directory / "vocab.txt", saved):
        assert tokenizer.load(place, settings["do_lower_case"]).lowercase is not wish
        with pytest.raises(UsageError, match=message) as caught:
            tokenizer.load(place, lowercase=wish)
        assert "\n" not in str(caught.value)


def test_a_wish_settles_files_that_contradict_each_other(tmp_path):
    directory = folder(tmp_path, UNCASED)
    tokenizer.load(directory).save(directory)
    (directory / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    with pytest.raises(DataError, match=r"set config\.tokenizer\.lowercase=true or false"):
        tokenizer.load(directory)
    for wish in (True, False):
        assert tokenizer.load(directory, wish).lowercase is wish


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokenizer_class": "BertJapaneseTokenizer"}, "cuts text in its own way"),
        ({"do_basic_tokenize": False}, "text already cut"),
        ({"never_split": ["the"]}, r"never_split=\['the'\] is not supported"),
        ({"never_split": 5}, "never_split=5 is not supported"),
        ({"do_lower_case": 1}, "do_lower_case must be true or false"),
        ({"unk_token": "<unk>"}, r"unk_token='<unk>', but vocab.txt has '\[UNK\]'"),
        ({"pad_token": {"content": "<p>"}}, r"pad_token='<p>', but vocab.txt has '\[PAD\]'"),
        ({"added_tokens_decoder": {"9" * 5000: {}}}, "must be an object of ids"),
        ({"added_tokens_decoder": {"16": {"content": "\ud800"}}}, "is not valid text"),
        ({"additional_special_tokens": [5]}, "added token '5' has no content"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_settings_that_cannot_be_followed_are_refused(tmp_path, settings, message):
    directory = folder(tmp_path, **settings)
    for read in (tokenizer.load, lambda d: hf_tokenizer.read(Folder(d), "bert", Hints())):
        with pytest.raises(DataError, match=message) as caught:
            read(directory)
        assert str(tmp_path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_usual_settings_are_followed(tmp_path):
    settings = {
        "tokenizer_class": "BertTokenizerFast",
        "do_basic_tokenize": True,
        "never_split": None,
        "do_lower_case": False,
        "unk_token": "[UNK]",
        "mask_token": {"content": "[MASK]", "lstrip": False},
        "bos_token": None,
        "additional_special_tokens": [],
        "model_max_length": 512,
    }
    plain = tokenizer.load(folder(tmp_path / "a"))
    assert tokenizer.load(folder(tmp_path / "b", **settings)).sha256 == plain.sha256


def test_links_out_of_an_untrusted_folder(tmp_path):
    outside = tmp_path / "outside.json"
    outside.write_text("{}")
    for name in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
        directory = folder(tmp_path / name)
        (directory / name).symlink_to(outside)
        with pytest.raises(DataError, match="leads out of the folder"):
            hf_tokenizer.read(Folder(directory), "bert", Hints())
        tokenizer.load(directory)  # whose user named the folder


def test_a_sentencepiece_model_says_its_casing_itself(tmp_path):
    texts = ["the Old cat Sat on the mat, Unwanted and running"] * 50
    for lowercase in (None, False):
        group = configs.Tokenizer(kind="sentencepiece", vocab_size=45, lowercase=lowercase)
        model = train_tokenizer.train(group, texts)
        assert model.lowercase is (lowercase is None)
        saved = model.save(tmp_path / str(lowercase))
        assert tokenizer.load(saved, model.lowercase).sha256 == model.sha256
        with pytest.raises(UsageError, match=r"the SentencePiece model .*; leave it unset"):
            tokenizer.load(saved, lowercase=not model.lowercase)
    (saved.parent / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    with pytest.raises(DataError, match=r"spiece\.model keeps case; lower-case the text"):
        tokenizer.load(saved)


# How the commands read a folder


@pytest.fixture
def run(tmp_path):
    """A function that runs `prepare` on one small file, as the command does."""
    (tmp_path / "a.txt").write_text("The Café of Paris.\nparis the.\n\nThe the.\n")
    data = configs.Data(files=str(tmp_path / "a.txt"), num_workers=1, heldout_fraction=0.0)
    config = dataclasses.replace(configs.Config(), data=data).with_model(vocab_size=0)

    def prepared(**group):
        changed = dataclasses.replace(config.tokenizer, **group)
        changed = dataclasses.replace(config, tokenizer=changed)
        manifest = prepare(changed, tmp_path / "W")
        job = pretraining.open(changed, tmp_path / "W", build=False)
        return manifest["tokenizer"], job.config.tokenizer, job.tokenizer

    return prepared


def test_prepare_says_and_records_what_it_used(tmp_path, run, capsys):
    cased = folder(tmp_path / "cased") / "vocab.txt"
    recorded, group, encoder = run(path=str(cased))
    assert recorded == dataclasses.asdict(group)
    assert (group.lowercase, group.rules, group.kind) == (False, "huggingface", "wordpiece")
    assert encoder.lowercase is False
    said = capsys.readouterr().err.replace("\n", " ")
    assert "casing: lowercase=False, by the vocabulary alone (it has the piece 'Paris')" in said
    recorded, group, encoder = run(path=str(folder(tmp_path / "uncased", do_lower_case=True)))
    assert recorded["lowercase"] is group.lowercase is encoder.lowercase is True
    assert "casing:" not in capsys.readouterr().err
    with pytest.raises(DataError, match="'Paris' has a capital letter"):
        run(path=str(cased), lowercase=True)


def test_a_new_vocabulary_is_lower_cased_unless_told_otherwise(run):
    for lowercase, expected in ((None, True), (True, True), (False, False)):
        recorded, group, encoder = run(lowercase=lowercase, vocab_size=80)
        assert recorded["lowercase"] is group.lowercase is encoder.lowercase is expected
    recorded, group, _ = run(kind="byte_bpe", vocab_size=270)
    assert recorded["lowercase"] is group.lowercase is False
    with pytest.raises(UsageError, match="lowercase=True: byte-level BPE keeps case"):
        run(kind="byte_bpe", vocab_size=270, lowercase=True)


def test_the_kind_that_is_recorded_is_that_of_the_files(tmp_path, run):
    saved = byte_bpe.ByteBPE(PIECES, MERGES).save(tmp_path / "bpe")
    recorded, group, _ = run(path=str(saved))
    assert recorded["kind"] == group.kind == "byte_bpe"


@pytest.mark.parametrize(
    ("flag", "value"),
    [("", None), ("=False", False), ("=false", False), ("=True", True), ("=true", True)],
)
def test_the_field_on_the_command_line(tmp_path, flag, value):
    config = tmp_path / "c.py"
    config.write_text("from bertjax import config\ndef get_config(): return config.default()\n")
    argv = [f"--config={config}", "--workdir=W"]
    argv += [f"--config.tokenizer.lowercase{flag}"] if flag else []
    values, _ = flags.parse("prepare", argv, command_line.COMMANDS)
    assert command_line._config(values).tokenizer.lowercase is value


def test_the_fields_in_a_config_file(tmp_path):
    tree = configs.default()
    tree.tokenizer.lowercase = False
    tree.tokenizer.rules = "google"
    group = configs.from_config_dict(tree).tokenizer
    assert (group.lowercase, group.rules) == (False, "google")
    tree.tokenizer.rules = "googles"
    with pytest.raises(UsageError, match="rules='googles': must be one of huggingface, google"):
        configs.from_config_dict(tree)
