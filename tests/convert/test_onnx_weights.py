"""ONNX files with matrices of float16 and int8: they compute in float32 what those weights give."""

import dataclasses

import exports
import jax
import numpy as np
import onnx
import onnxruntime
import pytest
import random_models

from bertjax import convert, errors
from bertjax.convert import onnx as onnx_out
from bertjax.convert import orbax

FORMS = ("onnx", "onnx-float16", "onnx-int8-weights", "onnx-int8")
EXACT = FORMS[:3]
SHAPES = [(batch, length) for batch in (1, 2, 7) for length in (5, 128, 384)]
WRITERS = {
    "onnx": onnx_out.write,
    "onnx-float16": onnx_out.write_float16,
    "onnx-int8-weights": onnx_out.write_int8_weights,
    "onnx-int8": onnx_out.write_int8,
}


def long_model(**fields):
    return exports.small_model(max_position_embeddings=400, **fields)


def rounded(form, params):
    """The parameters as a file of `form` keeps them: kernels [.., in, out] a column, tables a row."""

    def one(path, array):
        name = jax.tree_util.keystr(path)
        is_matrix = array.ndim - ("blocks" in name) == 2
        if not is_matrix or form == "onnx":
            return array
        if form == "onnx-float16":
            return array.astype(np.float16).astype(np.float32)
        scale = np.abs(array).max(-2 if "kernel" in name else -1, keepdims=True) / 127
        return (np.round(array / np.where(scale == 0, 1, scale)) * scale).astype(np.float32)

    return jax.tree_util.tree_map_with_path(one, params)


@pytest.fixture(scope="module", params=FORMS)
def exported(request, tmp_path_factory):
    """`(form, model, session)` of a classifier with 400 positions."""
    pretrained = long_model(head="classification", num_labels=3)
    path = tmp_path_factory.mktemp("exports") / f"{request.param}.onnx"
    WRITERS[request.param](pretrained, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return request.param, pretrained, session


@pytest.mark.parametrize(("batch", "length"), SHAPES)
def test_every_export_runs_any_batch_and_length(exported, batch, length):
    """Axes of size 1 get frozen by tracers; ours are written by hand, and no size is in them."""
    form, pretrained, session = exported
    tokens = exports.inputs(pretrained.config.model, batch, length)
    (got,) = session.run(None, tokens)
    kept = dataclasses.replace(pretrained, params=rounded(form, pretrained.params))
    if form in EXACT:
        assert exports.error(got, exports.expected(kept, tokens)["logits"]) < 1e-5
    else:
        want = exports.expected(pretrained, tokens)["logits"]
        assert exports.error(got, want) < 0.2


def test_the_three_kinds_of_weights_differ(tmp_path):
    """Or the test above could not tell them apart."""
    pretrained = long_model(head="classification", num_labels=3)
    tokens = exports.inputs(pretrained.config.model, 2, 5)
    want = exports.expected(pretrained, tokens)["logits"]
    for form in EXACT[1:]:
        kept = dataclasses.replace(pretrained, params=rounded(form, pretrained.params))
        assert exports.error(exports.expected(kept, tokens)["logits"], want) > 1e-5


@pytest.mark.parametrize(("form", "share"), [("onnx-float16", 0.5), ("onnx-int8-weights", 0.25)])
@pytest.mark.parametrize("head", ["masked_lm", "token"])
def test_files_are_smaller_by_their_matrices(tmp_path, form, share, head):
    size = {"vocab_size": 1000, "hidden_size": 64, "intermediate_size": 256}
    pretrained = exports.small_model(head=head, **size)
    bytes_of = {}
    for each in ("onnx", form):
        WRITERS[each](pretrained, tmp_path / each)
        bytes_of[each] = (tmp_path / each).stat().st_size
    assert share < bytes_of[form] / bytes_of["onnx"] < share + 0.12
    onnx.checker.check_model(tmp_path / form, full_check=True)


@pytest.mark.parametrize("form", EXACT[1:])
def test_runtime_makes_them_float32_when_it_loads(tmp_path, form):
    """The graph that runs has the operators of the float32 file, no more."""
    pretrained = exports.small_model(head="masked_lm")
    kinds = {}
    for each in ("onnx", form):
        WRITERS[each](pretrained, tmp_path / each)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(tmp_path / f"{each}.run")
        onnxruntime.InferenceSession(tmp_path / each, options, ["CPUExecutionProvider"])
        kinds[each] = sorted(n.op_type for n in onnx.load(tmp_path / f"{each}.run").graph.node)
    assert kinds[form] == kinds["onnx"]


def test_a_weight_beyond_float16_is_refused(tmp_path):
    pretrained = exports.small_model(head="none")
    pretrained.params["embeddings"]["word"]["embedding"][3, 4] = -7e4
    with pytest.raises(errors.DataError, match=r"embeddings/word/embedding.*65,504"):
        onnx_out.write_float16(pretrained, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())
    onnx_out.write_int8_weights(pretrained, tmp_path / "m.onnx")


def test_a_column_of_zeros_stays_zero(tmp_path):
    pretrained = exports.small_model(head="none")
    kernel = pretrained.params["blocks"]["query"]["kernel"]
    kernel[0, :, 5] = 0
    onnx_out.write_int8_weights(pretrained, tmp_path / "m.onnx")
    tokens = exports.inputs(pretrained.config.model, 1, 5)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    assert np.isfinite(session.run(None, tokens)[0]).all()


@pytest.mark.parametrize("form", FORMS)
def test_convert_writes_each_form(tmp_path, form):
    orbax.write(random_models.random_model(head="none"), tmp_path / "run")
    convert.convert(str(tmp_path / "run"), f"{form}:{tmp_path}/m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    kinds = {tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) == 2}
    wanted = {"onnx": 1, "onnx-float16": 10, "onnx-int8-weights": 3, "onnx-int8": 3}
    assert wanted[form] in kinds  # of TensorProto: float, float16, int8
