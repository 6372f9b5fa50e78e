"""ONNX files against the model they come from, run by onnxruntime."""

import dataclasses
import json
import sys

import exports
import jax
import numpy as np
import onnx
import onnxruntime
import pytest
import random_models
import safetensors

from bertjax import config as config_lib
from bertjax.config import Model
from bertjax.config.embedding_fields import Embedding
from bertjax.convert import names, onnx_graph, stablehlo, use
from bertjax.convert import onnx as onnx_out
from bertjax.convert.pretrained import Pretrained
from bertjax.errors import UsageError

B, C, L = "batch_size", "num_choices", "sequence_length"
D, V = random_models.SIZE["hidden_size"], random_models.SIZE["vocab_size"]
OUTPUTS = {
    "none": {"last_hidden_state": [B, L, D]},
    "pooler": {"last_hidden_state": [B, L, D], "pooler_output": [B, D]},
    "masked_lm": {"logits": [B, L, V]},
    "pretraining": {"prediction_logits": [B, L, V], "seq_relationship_logits": [B, 2]},
    "classification": {"logits": [B, 5]},
    "token": {"logits": [B, L, 5]},
    "multiple_choice": {"logits": [B, C]},
    "span": {"start_logits": [B, L], "end_logits": [B, L]},
}


def session(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def run(path, tokens):
    program = session(path)
    outputs = [output.name for output in program.get_outputs()]
    return dict(zip(outputs, program.run(outputs, tokens), strict=True))


def dims(values):
    return {value.name: value.shape for value in values}


@pytest.mark.parametrize(("kind", "head", "hidden_act"), exports.CASES)
def test_computes_what_jax_computes(tmp_path, kind, head, hidden_act):
    pretrained = exports.small_model(kind, head=head, hidden_act=hidden_act, num_labels=5)
    model = pretrained.config.model
    onnx_out.write(pretrained, tmp_path / "model.onnx")
    program = session(tmp_path / "model.onnx")
    assert dims(program.get_outputs()) == OUTPUTS[head]
    takes = [B, C, L] if head == "multiple_choice" else [B, L]
    tokens = ["input_ids", "attention_mask"] + ["token_type_ids"] * (kind == "bert")
    assert dims(program.get_inputs()) == dict.fromkeys(tokens, takes)
    for batch, length in exports.SHAPES:
        tokens = exports.inputs(model, batch, length)
        want = exports.expected(pretrained, tokens)
        got = dict(zip(want, program.run(list(want), tokens), strict=True))
        assert max(exports.error(got[name], want[name]) for name in want) < 1e-5


def test_labels_and_how_vectors_are_made_are_in_the_metadata(tmp_path):
    """Also in that of stablehlo's weights; the graph itself ends before."""
    labels = {"label_names": ("no", "yes"), "problem_type": "single_label_classification"}
    classifier = exports.small_model(head="classification", **labels)
    how = Embedding("mean", 16, True)
    plain = exports.small_model(head="none")
    sentences = dataclasses.replace(plain, config=dataclasses.replace(plain.config, embedding=how))
    for pretrained, expected in (
        (classifier, {"id2label": {"0": "no", "1": "yes"}, "problem_type": labels["problem_type"]}),
        (sentences, {"embedding": dataclasses.asdict(how)}),
        (plain, {}),
    ):
        notes = onnx_out.write(pretrained, tmp_path / "m.onnx")
        found = session(tmp_path / "m.onnx").get_modelmeta().custom_metadata_map
        assert {name: json.loads(value) for name, value in found.items()} == expected
        assert bool(notes) == (pretrained is sentences)
        stablehlo.write(pretrained, tmp_path / "m")
        with safetensors.safe_open(tmp_path / "m.safetensors", "np") as file:
            assert (file.metadata() or {}) == found
    assert "pooling=mean, max_length=16, normalize=True" in use.notes(sentences)[0]


def test_the_two_gelus_differ(tmp_path):
    """Or the test above could not tell them apart."""
    erf, tanh = (exports.small_model(head="none", hidden_act=name) for name in ("gelu", "gelu_new"))
    tokens = exports.inputs(erf.config.model, 3, 12)
    onnx_out.write(erf, tmp_path / "erf.onnx")
    got = run(tmp_path / "erf.onnx", tokens)["last_hidden_state"]
    assert exports.error(got, exports.expected(tanh, tokens)["last_hidden_state"]) > 1e-5


@pytest.fixture(scope="module")
def pretraining():
    return exports.small_model()


def test_file_holds_every_parameter_once_and_no_padding(tmp_path, pretraining):
    path = tmp_path / "model.onnx"
    onnx_out.write(pretraining, path)
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    onnx.checker.check_model(path, full_check=True)
    held = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    model, floats = pretraining.config.model, 0
    rows = [names.Row(p, p.replace("blocks/", "blocks/{}/")) for p in names.shapes(model)]
    for name, array in names.scatter(rows, model, pretraining.params):
        np.testing.assert_array_equal(held[name], array)
        floats += array.nbytes
    assert floats < path.stat().st_size < floats + 32_000


def test_reads_as_what_onnx_itself_writes(tmp_path, pretraining):
    """The file is put together byte by byte; the library must agree with every length in it."""
    onnx_out.write(pretraining, tmp_path / "ours.onnx")
    onnx.save(onnx.load(tmp_path / "ours.onnx"), tmp_path / "theirs.onnx")
    sizes = {(tmp_path / name).stat().st_size for name in ("ours.onnx", "theirs.onnx")}
    assert len(sizes) == 1


def test_runtime_fuses_the_layers(tmp_path, pretraining):
    """Shapes are known to onnxruntime all the way, or it would fuse nothing."""
    onnx_out.write(pretraining, tmp_path / "model.onnx")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    onnxruntime.InferenceSession(tmp_path / "model.onnx", options, ["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node]
    assert (
        kinds.count("SkipLayerNormalization") == 1 + 2 * pretraining.config.model.num_hidden_layers
    )
    assert "Erf" not in kinds


def test_longer_than_the_position_table_is_refused(tmp_path, pretraining):
    onnx_out.write(pretraining, tmp_path / "model.onnx")
    with pytest.raises(Exception, match="word_position"):
        run(tmp_path / "model.onnx", exports.inputs(pretraining.config.model, 1, 41))


@pytest.mark.parametrize("head", ["none", "masked_lm"])
def test_int8_is_smaller_and_close(tmp_path, head):
    size = {"vocab_size": 1000, "hidden_size": 64, "intermediate_size": 256}
    pretrained = exports.small_model(head=head, **size)
    model = pretrained.config.model
    onnx_out.write(pretrained, tmp_path / "float32.onnx")
    onnx_out.write_int8(pretrained, tmp_path / "int8.onnx")
    assert {path.name for path in tmp_path.iterdir()} == {"float32.onnx", "int8.onnx"}
    sizes = [(tmp_path / f"{name}.onnx").stat().st_size for name in ("int8", "float32")]
    assert sizes[0] < 0.6 * sizes[1]
    for batch, length in exports.SHAPES:
        tokens = exports.inputs(model, batch, length)
        got = run(tmp_path / "int8.onnx", tokens)
        for name, want in exports.expected(pretrained, tokens).items():
            assert cosine(got[name], want).min() > 0.99
            assert exports.error(got[name], want) > 1e-5  # it is int8


def cosine(a, b):
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def test_int8_leaves_nothing_behind_when_it_fails(tmp_path, monkeypatch, pretraining):
    def fails(float32, path, **options):
        assert float32.stat().st_size > 10_000
        raise OSError("No space left on device")

    monkeypatch.setattr("onnxruntime.quantization.quantize_dynamic", fails)
    with pytest.raises(OSError, match="No space"):
        onnx_out.write_int8(pretraining, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_absent_package_is_named(tmp_path, monkeypatch, pretraining, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=rf"{package}.*pip install 'bertjax\[onnx\]'"):
        onnx_out.write_int8(pretraining, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_model_too_large_for_one_file_is_refused(tmp_path, monkeypatch, pretraining):
    monkeypatch.setattr(onnx_graph, "MAX_BYTES", 10_000)
    with pytest.raises(UsageError, match="2 GiB"):
        onnx_out.write(pretraining, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


BASE = {
    "bert": Model(),
    "roberta": Model(
        vocab_size=50265,
        max_position_embeddings=514,
        position_offset=2,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        head="masked_lm",
    ),
    "distilbert": Model(num_hidden_layers=6, type_vocab_size=0, head="masked_lm"),
}


@pytest.mark.slow
@pytest.mark.parametrize("architecture", BASE)
def test_base_computes_what_jax_computes(tmp_path, architecture):
    model = BASE[architecture]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: 0.04 * x, random_models.random_tree(rng, model))
    for path in names.shapes(model):
        if path.endswith("scale"):
            names.lookup(params, path)[...] += 1
    pretrained = Pretrained(dataclasses.replace(config_lib.Config(), model=model), None, params)
    onnx_out.write(pretrained, tmp_path / "model.onnx")
    worst = 0.0
    for batch, length in [(1, 16), (4, 64), (2, 256)]:
        tokens = exports.inputs(model, batch, length)
        want = exports.expected(pretrained, tokens)
        got = run(tmp_path / "model.onnx", tokens)
        worst = max([worst] + [exports.error(got[name], want[name]) for name in want])
    print(f"{architecture}: largest relative error {worst:.1e}")
    assert worst < 1e-5
