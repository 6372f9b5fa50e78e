"""Laws of bertjax.convert.tf1: google-research/bert's files, in and out, to the bit."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from bertjax import config as config_lib
from bertjax import models
from bertjax.config.embedding_fields import Embedding
from bertjax.convert import names, tensor_bundle, tf1
from bertjax.convert.pretrained import Hints, Pretrained, config_of
from bertjax.data import tokenizer as tokenizer_lib
from bertjax.data.added_tokens import Added
from bertjax.data.tokenizer import WordPiece
from bertjax.errors import DataError, UsageError

SPECIALS = ["[PAD]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
UNCASED = [*SPECIALS, "a", "##b", "é", "\N{DOUBLE-STRUCK CAPITAL R}", "中"]
CASED = [*SPECIALS, "a", "##B", "é"]
TINY = config_lib.Model(
    vocab_size=150,
    hidden_size=8,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=16,
    max_position_embeddings=32,
)
ARCHITECTURES = {
    "bert": {"hidden_act": "gelu_new"},
    "roberta": {"position_offset": 2, "type_vocab_size": 1, "layer_norm_eps": 1e-5},
    "distilbert": {"type_vocab_size": 0, "pooler_act": "relu"},
}
HEADS = ("pretraining", "masked_lm", "classification", "multiple_choice", "span", "pooler", "none")
# What google-research/bert wrote from its modeling.py and optimization.py (commit eedf571), for
# TINY with one layer.
GOOGLE = {
    "bert/embeddings/LayerNorm/beta": (8,),
    "bert/embeddings/LayerNorm/gamma": (8,),
    "bert/embeddings/position_embeddings": (32, 8),
    "bert/embeddings/token_type_embeddings": (2, 8),
    "bert/embeddings/word_embeddings": (150, 8),
    "bert/encoder/layer_0/attention/output/LayerNorm/beta": (8,),
    "bert/encoder/layer_0/attention/output/LayerNorm/gamma": (8,),
    "bert/encoder/layer_0/attention/output/dense/bias": (8,),
    "bert/encoder/layer_0/attention/output/dense/kernel": (8, 8),
    "bert/encoder/layer_0/attention/self/key/bias": (8,),
    "bert/encoder/layer_0/attention/self/key/kernel": (8, 8),
    "bert/encoder/layer_0/attention/self/query/bias": (8,),
    "bert/encoder/layer_0/attention/self/query/kernel": (8, 8),
    "bert/encoder/layer_0/attention/self/value/bias": (8,),
    "bert/encoder/layer_0/attention/self/value/kernel": (8, 8),
    "bert/encoder/layer_0/intermediate/dense/bias": (16,),
    "bert/encoder/layer_0/intermediate/dense/kernel": (8, 16),
    "bert/encoder/layer_0/output/LayerNorm/beta": (8,),
    "bert/encoder/layer_0/output/LayerNorm/gamma": (8,),
    "bert/encoder/layer_0/output/dense/bias": (8,),
    "bert/encoder/layer_0/output/dense/kernel": (16, 8),
    "bert/pooler/dense/bias": (8,),
    "bert/pooler/dense/kernel": (8, 8),
    "cls/predictions/output_bias": (150,),
    "cls/predictions/transform/LayerNorm/beta": (8,),
    "cls/predictions/transform/LayerNorm/gamma": (8,),
    "cls/predictions/transform/dense/bias": (8,),
    "cls/predictions/transform/dense/kernel": (8, 8),
    "cls/seq_relationship/output_bias": (2,),
    "cls/seq_relationship/output_weights": (2, 8),
}


def random_tree(model, seed):
    """Parameters whose padding of the vocabulary is zero, as training leaves it."""
    rng, tree = np.random.default_rng(seed), {}
    for path, shape in names.shapes(model).items():
        value = rng.standard_normal(shape).astype(np.float32)
        if path in names.VOCAB_ROWS:
            value[model.vocab_size :] = 0
        names.insert(tree, path, value)
    return tree


def make(model=TINY, vocab=UNCASED, lowercase=True, slots=True, step=7, **optimizer):
    tokenizer = WordPiece(vocab, lowercase) if vocab else None
    group = config_lib.Tokenizer(lowercase=lowercase, vocab_size=len(vocab or ()))
    config = config_of(model, group, "test")
    config = dataclasses.replace(
        config, optimizer=dataclasses.replace(config.optimizer, **optimizer)
    )
    moments = {"mu": random_tree(model, 1), "nu": random_tree(model, 2)} if slots else None
    return Pretrained(config, tokenizer, random_tree(model, 0), step=step, moments=moments)


def assert_same(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert (a.dtype, a.shape) == (e.dtype, e.shape)
        assert a.tobytes() == e.tobytes()


def edit(prefix, **changes):
    """Changes keys of bert_config.json; None removes one."""
    path = prefix.with_name("bert_config.json")
    tree = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in tree.items() if v is not None}))


def released(directory, pretrained=None, **extra):
    """A checkpoint as google-research/bert leaves it: with nothing that only bertjax writes."""
    prefix = directory / "bert_model.ckpt"
    tf1.write(pretrained or make(slots=False), prefix)
    edit(prefix, bertjax=None)
    if extra:
        tensors = {name: e.read() for name, e in tensor_bundle.read_index(prefix).items()} | extra
        tensor_bundle.write(prefix, ((k, v) for k, v in tensors.items() if v is not None))
    return prefix


ERF = Hints(hidden_act="gelu")


# There and back


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_round_trip(tmp_path, architecture, head):
    model = dataclasses.replace(TINY, head=head, num_labels=3, **ARCHITECTURES[architecture])
    pretrained = make(model, name="adamw")
    prefix = tmp_path / "new" / "model.ckpt-7"
    tf1.write(pretrained, prefix)
    read = tf1.read(prefix, Hints(), moments=True)
    assert read.config == pretrained.config
    assert read.tokenizer.sha256 == pretrained.tokenizer.sha256
    assert (read.step, read.notes) == (7, ())
    assert_same(read.params, pretrained.params)
    assert_same(read.moments, pretrained.moments)
    abstract = models.abstract_params(model)
    assert jax.tree.map(np.shape, read.params) == jax.tree.map(np.shape, abstract)


def test_without_moments_or_tokenizer(tmp_path):
    pretrained = make(vocab=None, slots=False, step=0)
    tf1.write(pretrained, tmp_path / "m.ckpt")
    assert "/adam_" not in " ".join(tensor_bundle.read_index(tmp_path / "m.ckpt"))
    read = tf1.read(tmp_path / "m.ckpt", Hints(), moments=True)
    assert (read.tokenizer, read.moments, read.step) == (None, None, 0)
    assert read.config == pretrained.config
    (note,) = read.notes
    assert "124 of 124 Adam slots are not in the checkpoint" in note


def test_moments_are_read_only_when_asked_for(tmp_path):
    tf1.write(make(), tmp_path / "m.ckpt")
    read = tf1.read(tmp_path / "m.ckpt", Hints())
    assert (read.moments, read.notes) == (None, ())


def test_a_tokenizer_that_vocab_txt_cannot_say(tmp_path):
    pretrained = make()
    for tokenizer in (
        WordPiece(UNCASED, True, strip_accents=False),
        WordPiece(UNCASED, True, handle_chinese_chars=False),
        WordPiece(UNCASED, False),  # against its config
    ):
        prefix = tmp_path / tokenizer.sha256 / "m.ckpt"
        tf1.write(dataclasses.replace(pretrained, tokenizer=tokenizer), prefix)
        assert tf1.read(prefix, Hints()).tokenizer.sha256 == tokenizer.sha256
        assert prefix.with_name("vocab.txt").read_text().split("\n")[:-1] == UNCASED


# google-research/bert's side


def test_names_and_shapes_are_googles(tmp_path):
    pretrained = make(dataclasses.replace(TINY, num_hidden_layers=1))
    tf1.write(pretrained, tmp_path / "bert_model.ckpt")
    entries = tensor_bundle.read_index(tmp_path / "bert_model.ckpt")
    slots = {f"{k}/{slot}": v for k, v in GOOGLE.items() for slot in ("adam_m", "adam_v")}
    assert {k: e.shape for k, e in entries.items()} == GOOGLE | slots | {"global_step": ()}
    assert entries["global_step"].read() == 7
    assert entries["global_step"].dtype == np.int64
    params, nu = pretrained.params, pretrained.moments["nu"]
    for name, value in {
        "bert/embeddings/word_embeddings": params["embeddings"]["word"]["embedding"][:150],
        "bert/encoder/layer_0/output/dense/kernel": params["blocks"]["output"]["kernel"][0],
        "cls/seq_relationship/output_weights": params["next_sentence"]["dense"]["kernel"].T,
        "bert/pooler/dense/kernel/adam_v": nu["pooler"]["dense"]["kernel"],
    }.items():
        np.testing.assert_array_equal(entries[name].read(), value)


def test_files_beside_the_weights(tmp_path):
    tf1.write(make(), tmp_path / "bert_model.ckpt")
    tree = json.loads((tmp_path / "bert_config.json").read_text())
    own = {"model", "tokenizer", "tokenizer_file", "optimizer", "embedding"}
    assert tree.pop("bertjax").keys() == own
    assert tree == {
        "attention_probs_dropout_prob": 0.1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": 8,
        "initializer_range": 0.02,
        "intermediate_size": 16,
        "max_position_embeddings": 32,
        "num_attention_heads": 2,
        "num_hidden_layers": 3,
        "type_vocab_size": 2,
        "vocab_size": 150,
    }
    assert (tmp_path / "vocab.txt").read_bytes().decode().split("\n") == [*UNCASED, ""]
    assert (tmp_path / "checkpoint").read_text().splitlines() == [
        'model_checkpoint_path: "bert_model.ckpt"',
        'all_model_checkpoint_paths: "bert_model.ckpt"',
    ]


@pytest.mark.parametrize("head", HEADS)
def test_head_by_the_tensors(tmp_path, head):
    pretrained = make(dataclasses.replace(TINY, head=head, num_labels=3), slots=False)
    read = tf1.read(released(tmp_path, pretrained), ERF)
    model = read.config.model
    if head == "multiple_choice":  # google-research/bert has no such task
        assert (model.head, model.num_labels) == ("classification", 1)
    else:
        labels = 3 if head == "classification" else 2
        assert (model.head, model.num_labels) == (head, labels)
    assert_same(read.params, pretrained.params)


def test_what_is_left_out_is_named(tmp_path):
    pooler = np.zeros((8, 8), np.float32)
    extra = {"bert/pooler/dense/kernel": pooler, "bert/pooler/dense/kernel/adam_m": pooler}
    span = make(dataclasses.replace(TINY, head="span"), slots=False)
    read = tf1.read(released(tmp_path / "span", span, **extra), ERF)
    assert read.notes[1:] == ("left out: 1 tensors (bert/pooler/dense/kernel)",)
    many = {f"extra/{i}": pooler for i in range(9)}
    read = tf1.read(released(tmp_path / "many", **many), ERF)
    assert read.notes[1:] == ("left out: 9 tensors (extra/0, extra/1, extra/2, ...)",)
    assert read.config.model.head == "pretraining"


def test_what_else_lies_in_the_folder_is_named(tmp_path):
    prefix = released(tmp_path / "a")
    for name in (
        "checkpoint",
        "graph.pbtxt",
        "eval_results.txt",
        "bert_model.ckpt.meta",
        "model.ckpt-7.index",
        "labels.txt",
        "README.md",
    ):
        (prefix.parent / name).write_text("")
    edit(prefix, directionality="bidi", odd=3)
    _, odd, files = tf1.read(prefix, ERF).notes
    assert odd.endswith("bert_config.json: not used: odd=3")
    assert files == "not read: labels.txt"


def test_labels_and_how_vectors_are_made_come_back(tmp_path):
    labels = {"num_labels": 2, "label_names": ("no", "yes"), "problem_type": "regression"}
    made = make(dataclasses.replace(TINY, head="classification", **labels))
    how = Embedding("cls", 16, True, prompt="query: ")
    made = dataclasses.replace(made, config=dataclasses.replace(made.config, embedding=how))
    tf1.write(made, tmp_path / "a" / "m")
    found = tf1.read(tmp_path / "a" / "m", Hints()).config
    assert (found.model, found.embedding) == (made.config.model, how)


def test_one_missing_slot_leaves_all(tmp_path):
    prefix = tmp_path / "m.ckpt"
    tf1.write(make(), prefix)
    tensors = {name: e.read() for name, e in tensor_bundle.read_index(prefix).items()}
    del tensors["bert/pooler/dense/bias/adam_v"]
    tensor_bundle.write(prefix, tensors.items())
    read = tf1.read(prefix, Hints(), moments=True)
    assert read.moments is None
    assert read.notes == (
        "moments: 1 of 124 Adam slots are not in the checkpoint "
        "(bert/pooler/dense/bias/adam_v first); none was read",
    )


# Nothing is guessed silently


def test_gelu_needs_a_hint(tmp_path):
    prefix = released(tmp_path)
    with pytest.raises(UsageError, match=r"--hidden_act=gelu for .* or --hidden_act=gelu_new for"):
        tf1.read(prefix, Hints())
    for act in ("gelu", "gelu_new"):
        assert tf1.read(prefix, Hints(hidden_act=act)).config.model.hidden_act == act
    edit(prefix, hidden_act="relu")
    with pytest.raises(DataError, match="hidden_act='relu'"):
        tf1.read(prefix, ERF)


def test_casing_is_hinted_or_decided_by_the_vocabulary(tmp_path):
    for vocab, lowercase, note in (
        (UNCASED, True, "no piece has a capital"),
        (CASED, False, "it has the piece '##B'"),
    ):
        prefix = released(
            tmp_path / str(lowercase), make(vocab=vocab, lowercase=lowercase, slots=False)
        )
        read = tf1.read(prefix, ERF)
        assert read.config.tokenizer.lowercase is lowercase
        assert read.config.tokenizer.vocab_size == len(vocab)
        assert read.tokenizer.sha256 == WordPiece(vocab, lowercase, ruleset="google").sha256
        (said,) = read.notes
        assert said == f"casing: lowercase={lowercase}, by the vocabulary alone ({note})"
        read = tf1.read(prefix, Hints("gelu", lowercase=False))
        assert (read.tokenizer.lowercase, read.notes) == (False, ())
    with pytest.raises(DataError, match=r"'##B' has a capital letter.*--do_lower_case=false"):
        tf1.read(prefix, Hints("gelu", lowercase=True))


def test_released_vocabularies_have_googles_rules_there_and_back(tmp_path):
    read = tf1.read(released(tmp_path / "a"), ERF)
    assert read.config.tokenizer.rules == read.tokenizer.rules["rules"] == "google"
    tf1.write(read, tmp_path / "b" / "m.ckpt")
    again = tf1.read(tmp_path / "b" / "m.ckpt", Hints())
    assert again.tokenizer.sha256 == read.tokenizer.sha256
    assert not (tmp_path / "b" / "tokenizer.json").exists()
    # Written before there was a choice of rules.
    tree = json.loads((tmp_path / "b" / "bert_config.json").read_text())["bertjax"]
    del tree["tokenizer"]["rules"]
    edit(tmp_path / "b" / "m.ckpt", bertjax=tree)
    old = tf1.read(tmp_path / "b" / "m.ckpt", Hints()).tokenizer
    assert old.sha256 == WordPiece(UNCASED, True).sha256


def test_added_tokens_are_kept(tmp_path):
    added = [Added("covid19", len(UNCASED)), Added("[ENT]", len(UNCASED) + 1, True)]
    tokenizer = WordPiece(UNCASED, True, added=added)
    tf1.write(dataclasses.replace(make(), tokenizer=tokenizer), tmp_path / "m.ckpt")
    again = tf1.read(tmp_path / "m.ckpt", Hints()).tokenizer
    assert again.sha256 == tokenizer.sha256
    lines = (tmp_path / "vocab.txt").read_text().splitlines()
    assert lines == [*UNCASED, "covid19", "[ENT]"]  # one for each row


def test_casing_of_the_released_vocabularies(tmp_path):
    if "BERTJAX_TEST_DATA" not in os.environ:
        pytest.skip("BERTJAX_TEST_DATA is not set: no released vocabularies")
    vocab = Path(os.environ["BERTJAX_TEST_DATA"]) / "vocab"
    prefix = released(tmp_path, make(dataclasses.replace(TINY, vocab_size=30522), slots=False))
    for casing in ("cased", "uncased"):
        (tmp_path / "vocab.txt").write_bytes((vocab / f"bert-base-{casing}-vocab.txt").read_bytes())
        assert tf1.read(prefix, ERF).config.tokenizer.lowercase is (casing == "uncased")


def test_no_vocabulary_beside(tmp_path):
    prefix = released(tmp_path / "a", make(vocab=None, slots=False))
    read = tf1.read(prefix, ERF)
    assert read.tokenizer is None
    assert "no vocab.txt" in read.notes[0]
    saved = WordPiece(CASED, False).save(tmp_path / "elsewhere")
    read = tf1.read(prefix, Hints("gelu", tokenizer=str(saved)))
    assert (read.config.tokenizer.lowercase, read.tokenizer.vocab_size) == (False, len(CASED))
    assert read.notes == ()


def test_hints_against_what_is_recorded(tmp_path):
    prefix = tmp_path / "m.ckpt"
    tf1.write(make(), prefix)
    tf1.read(prefix, Hints("gelu", lowercase=True))
    with pytest.raises(UsageError, match="records hidden_act=gelu; gelu_new was asked"):
        tf1.read(prefix, Hints("gelu_new"))
    with pytest.raises(UsageError, match="records lowercase=True; False was asked"):
        tf1.read(prefix, Hints(lowercase=False))


# Files of somebody else


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"num_attention_heads": None}, "lacks num_attention_heads"),
        ({"num_attention_heads": 3}, "must divide"),
        ({"hidden_size": "8"}, "expected int"),
        ({"hidden_size": 16}, "word_embeddings has shape"),
        ({"max_position_embeddings": [32]}, "expected int"),
        ({"max_position_embeddings": -1}, "position"),
        ({"vocab_size": 10**12}, "word_embeddings has shape"),
        ({"vocab_size": 4}, "the vocabulary has 11 pieces"),
        ({"num_hidden_layers": 4}, "lacks the tensor bert/encoder/layer_3"),
        ({"num_hidden_layers": 10**12}, "layers in the config"),
        ({"hidden_act": {"a": 1}}, "hidden_act="),
        ({"bertjax": 3}, "bertjax lacks model"),
        ({"bertjax": {"model": {}, "tokenizer": {}}}, "bertjax lacks optimizer"),
        ({"bertjax": {"model": [], "tokenizer": {}, "optimizer": "adamw"}}, "expected a group"),
        ({"bertjax": {"model": {}, "tokenizer": 1, "optimizer": "adamw"}}, "expected a group"),
        ({"bertjax": {"model": {}, "tokenizer": {}, "optimizer": "sgd"}}, "must be one of"),
        ({"bertjax": {"model": {"x": 1}, "tokenizer": {}, "optimizer": "adamw"}}, "no such field"),
    ],
)
def test_hostile_configs(tmp_path, changes, text):
    prefix = released(tmp_path)
    edit(prefix, **changes)
    with pytest.raises(DataError, match=text) as caught:
        tf1.read(prefix, ERF)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "vocab.json", "config.json", 3])
def test_hostile_tokenizer_file(tmp_path, name):
    prefix = tmp_path / "m.ckpt"
    tf1.write(make(), prefix)
    own = json.loads((tmp_path / "bert_config.json").read_text())["bertjax"]
    own["tokenizer"]["path"] = "/etc/passwd"
    edit(prefix, bertjax=own)
    assert tf1.read(prefix, Hints()).config.tokenizer.path is None
    edit(prefix, bertjax=own | {"tokenizer_file": name})
    with pytest.raises(DataError, match="tokenizer_file="):
        tf1.read(prefix, Hints())


@pytest.mark.parametrize(
    "step", [np.array([1]), np.array(0.5, np.float32), np.array(-1), np.array(1 << 40)]
)
def test_a_global_step_that_is_none(tmp_path, step):
    with pytest.raises(DataError, match="global_step"):
        tf1.read(released(tmp_path, global_step=step), ERF)


def test_no_global_step(tmp_path):
    assert tf1.read(released(tmp_path, global_step=None), ERF).step == 0


def test_links_out_of_the_folder(tmp_path):
    for name in ("bert_config.json", "vocab.txt"):
        prefix = released(tmp_path / name)
        (tmp_path / name / name).rename(tmp_path / "outside")
        (tmp_path / name / name).symlink_to(tmp_path / "outside")
        with pytest.raises(DataError, match="leads out of the folder"):
            tf1.read(prefix, ERF)


def test_damaged_weights(tmp_path):
    prefix = released(tmp_path)
    path = tmp_path / "bert_model.ckpt.data-00000-of-00001"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)
    with pytest.raises(DataError, match="does not have its checksum"):
        tf1.read(prefix, ERF)


def test_half_precision_becomes_float32(tmp_path):
    bias = np.arange(8, dtype=np.float16) / 3
    read = tf1.read(released(tmp_path, **{"bert/pooler/dense/bias": bias}), ERF)
    assert read.params["pooler"]["dense"]["bias"].dtype == np.float32
    np.testing.assert_array_equal(read.params["pooler"]["dense"]["bias"], bias)


def test_reading_needs_no_jax(tmp_path):
    prefix = tmp_path / "m.ckpt"
    tf1.write(make(), prefix)
    code = (
        "import sys; from pathlib import Path; from bertjax.convert import tf1, pretrained;"
        f"tf1.read(Path({str(prefix)!r}), pretrained.Hints(), moments=True);"
        "assert not {'jax', 'flax', 'tensorflow'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_other_tokenizers_are_kept_as_they_are(tmp_path):
    if "BERTJAX_TEST_DATA" not in os.environ:
        pytest.skip("BERTJAX_TEST_DATA is not set: no SentencePiece model, no GPT-2 vocabulary")
    vocab = Path(os.environ["BERTJAX_TEST_DATA"]) / "vocab"
    for path in (vocab / "albert_spiece.model", vocab / "gpt2_bpe"):
        tokenizer = tokenizer_lib.load(path)
        model = dataclasses.replace(TINY, vocab_size=tokenizer.vocab_size)
        group = config_lib.Tokenizer(kind=tokenizer.kind, vocab_size=tokenizer.vocab_size)
        pretrained = make(model, slots=False)
        pretrained = dataclasses.replace(
            pretrained, config=config_of(model, group, "test"), tokenizer=tokenizer
        )
        prefix = tmp_path / tokenizer.kind / "m.ckpt"
        tf1.write(pretrained, prefix)
        read = tf1.read(prefix, Hints(lowercase=False))
        assert read.tokenizer.sha256 == tokenizer.sha256
        assert read.config == pretrained.config
        assert not prefix.with_name("vocab.txt").exists()
