"""StableHLO files against the model they come from."""

import dataclasses
import os
import re
import subprocess
import sys
import textwrap

import exports
import jax
import numpy as np
import pytest
import safetensors.numpy
from random_models import HEADS

from bertjax.convert import names, stablehlo


def load(path):
    weights = safetensors.numpy.load_file(f"{path}.safetensors")
    return jax.export.deserialize(bytearray(path.read_bytes())), weights


@pytest.fixture(scope="module")
def pretraining():
    return exports.small_model()


def worst(pretrained, path, batch, length):
    """Largest error of all outputs at one shape, against `models.apply`."""
    program, weights = load(path)
    tokens = exports.inputs(pretrained.config.model, batch, length)
    want = exports.expected(pretrained, tokens)
    got = program.call(weights, *tokens.values())
    assert got.keys() == want.keys()
    return max(exports.error(np.asarray(got[name]), want[name]) for name in want)


# The program is `models.apply`: each head once, and what an architecture has of its own.
CASES = [("bert", head, "gelu") for head in HEADS]
CASES += [("roberta", "masked_lm", "gelu_new"), ("distilbert", "classification", "gelu")]


@pytest.mark.parametrize(("kind", "head", "hidden_act"), CASES)
def test_computes_what_the_model_computes(tmp_path, kind, head, hidden_act):
    pretrained = exports.small_model(kind, head=head, hidden_act=hidden_act, num_labels=5)
    stablehlo.write(pretrained, tmp_path / "model.stablehlo")
    assert worst(pretrained, tmp_path / "model.stablehlo", 3, 12) < 1e-5


def test_the_lines_of_the_docstring_run_without_bertjax(tmp_path, pretraining):
    stablehlo.write(pretraining, tmp_path / "bert.stablehlo")
    assert {path.name for path in tmp_path.iterdir()} == {
        "bert.stablehlo",
        "bert.stablehlo.safetensors",
    }
    tokens = exports.inputs(pretraining.config.model, 3, 12)
    np.savez(tmp_path / "tokens.npz", **tokens)
    lines = re.search(r"\n\n((?:    .+\n)+)", stablehlo.__doc__).group(1)
    assert lines.count("\n") <= 5
    (tmp_path / "program.py").write_text(
        "import sys\nimport numpy as np\nglobals().update(np.load('tokens.npz'))\n"
        + textwrap.dedent(lines)
        + "np.savez('outputs.npz', **outputs)\n"
        + "assert not {'bertjax', 'flax'} & sys.modules.keys()\n"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "XLA_FLAGS")}
    subprocess.run([sys.executable, "program.py"], cwd=tmp_path, env=environment, check=True)
    got = np.load(tmp_path / "outputs.npz")
    for name, want in exports.expected(pretraining, tokens).items():
        assert exports.error(got[name], want) < 1e-5


def test_program_is_for_every_platform_and_size(tmp_path, pretraining):
    model = pretraining.config.model
    stablehlo.write(pretraining, tmp_path / "model")
    program, weights = load(tmp_path / "model")
    assert program.platforms == ("cpu", "cuda", "tpu")
    ids = [str(x.shape) for x in program.in_avals if x.dtype == np.int32]
    assert ids == ["(b, l)"] * 3
    longest = model.max_sequence_length
    for batch, length in [*exports.SHAPES, (2, longest)]:
        assert worst(pretraining, tmp_path / "model", batch, length) < 1e-5
    too_long = exports.inputs(model, 1, longest + 1)
    with pytest.raises(ValueError, match="shape"):
        program.call(weights, *too_long.values())


def test_weights_are_beside_the_program_without_padding(tmp_path, pretraining):
    model = pretraining.config.model
    stablehlo.write(pretraining, tmp_path / "model")
    _, weights = load(tmp_path / "model")
    assert weights.keys() == names.shapes(model).keys()
    for path, array in weights.items():
        ours = names.lookup(pretraining.params, path)
        rows = model.vocab_size if path in names.VOCAB_ROWS else len(ours)
        np.testing.assert_array_equal(array, ours[:rows])
    larger = exports.small_model(vocab_size=5000)
    stablehlo.write(larger, tmp_path / "larger")
    sizes = [(tmp_path / name).stat().st_size for name in ("model", "larger")]
    assert abs(sizes[0] - sizes[1]) < 1000  # whatever the size of the weights


def test_a_training_config_does_not_matter(tmp_path, pretraining):
    """Compute type, remat and kernel are a run's choice, not the weights'."""
    model = dataclasses.replace(
        pretraining.config.model, dtype="bfloat16", remat="full", attention="auto"
    )
    config = dataclasses.replace(pretraining.config, model=model)
    stablehlo.write(pretraining, tmp_path / "one")
    stablehlo.write(dataclasses.replace(pretraining, config=config), tmp_path / "other")
    tokens = exports.inputs(model, 3, 12)
    one, other = (
        program.call(weights, *tokens.values())
        for program, weights in map(load, [tmp_path / "one", tmp_path / "other"])
    )
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name])
