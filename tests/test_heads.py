"""The records of heads, and that a head is added by its record alone."""

import math
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax import config as config_lib
from bertjax import models
from bertjax.config import heads, parameters
from bertjax.metrics import flops

TINY = {
    "vocab_size": 300,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "num_labels": 5,
}
B, L, P = 3, 16, 4


def products(jaxpr) -> int:
    """FLOPs of the matrix products of a traced program, loops counted by their trips."""
    total = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            inner = math.prod(eqn.invars[0].aval.shape[d] for d in contracted)
            total += 2 * inner * math.prod(eqn.outvars[0].aval.shape)
        for value in eqn.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                total += eqn.params.get("length", 1) * products(inner)
    return total


@pytest.mark.parametrize("head", heads.HEADS)
def test_model_flops_are_those_of_the_traced_forward_pass(head):
    """All matrix products but the look-up of token types, and the padding of the vocabulary."""
    model = config_lib.Model(**TINY, head=head, type_vocab_size=0, attention="xla")
    ids = np.zeros((B, L), np.int32)
    batch = {"input_ids": ids, "attention_mask": ids + 1, "masked_lm_positions": ids[:, :P]}
    trace = jax.make_jaxpr(lambda params: models.apply(model, params, batch))
    counted = products(trace(models.abstract_params(model)).jaxpr)
    padding = 2 * P * 32 * (384 - 300) if model.has_masked_lm else 0
    assert flops.model_flops_per_step(model, B, L, P) == 3 * (counted - B * padding)


def test_known_flops_of_heads():
    """By hand, for one row: D = 32, V = 300, five labels."""
    none = flops.model_flops_per_step(config_lib.Model(**TINY, head="none"), 1, L, P)
    more = {
        "pooler": 2 * 32 * 32,
        "masked_lm": 2 * P * 32 * (32 + 300),
        "pretraining": 2 * P * 32 * (32 + 300) + 2 * 32 * 32 + 2 * 32 * 2,
        "classification": 2 * 32 * 32 + 2 * 32 * 5,
        "token": 2 * L * 32 * 5,
        "multiple_choice": 2 * 32 * 32 + 2 * 32,
        "span": 2 * L * 32 * 2,
        "none": 0,
    }
    assert more.keys() == heads.HEADS.keys()
    for head, own in more.items():
        model = config_lib.Model(**TINY, head=head)
        assert flops.model_flops_per_step(model, 1, L, P) - none == 3 * own, head


@pytest.mark.parametrize("head", heads.HEADS)
def test_outputs_are_those_of_the_record(head):
    model = config_lib.Model(**TINY, head=head)
    record = model.head_record
    ids = jnp.zeros((B, L), jnp.int32)
    batch = {"input_ids": ids, "attention_mask": ids + 1, "token_type_ids": ids}
    batch["masked_lm_positions"] = ids[:, :P]
    params = models.abstract_params(model)
    assert set(params) == {"embeddings", "blocks", *(part.name for part in record.parts)}
    made = jax.eval_shape(lambda params: models.apply(model, params, batch), params)
    assert set(made) == {"hidden", *(part.gives for part in record.parts)}
    rows = {"hidden": (B, L), "masked": (B, P), "first": (B,)}
    for part in record.parts:
        width = model.padded_vocab_size if part.tied else parameters.width(model, part)
        assert made[part.gives].shape == (*rows[record.place(part)], width)
    assert all(output.of in made for output in record.outputs)


# A head that nobody has: a label for every token, under a name of its own.
RECORD = """

HEADS["relation"] = Head(
    (
        Part(
            "relation_classifier",
            "hidden",
            "relation_logits",
            "num_labels",
            drops=True,
            hf_name="relations",
            tf1_scope="relations/",
        ),
    ),
    (Output("logits", "relation_logits"),),
    "ForRelations",
    "relation-extraction",
)
"""
USES = """
import sys
import jax, numpy as np
from bertjax import config as config_lib, convert, models, sharding
from bertjax.checkpoints import shapes
from bertjax.config import parameters
from bertjax.convert import hf, names, onnx, orbax, stablehlo, tf1
from bertjax.convert.pretrained import Hints, Pretrained, config_of
from bertjax.metrics import flops
from pathlib import Path

root = Path(sys.argv[1])
model = config_lib.Model(**{TINY}, head="relation", label_names=tuple("abcde"))
config = config_of(model, config_lib.Tokenizer(), "test")
params = jax.tree.map(np.asarray, models.init(model, jax.random.key(0)))
made = shapes.of({"params": params})
assert {n.removeprefix("params/"): tuple(a["shape"]) for n, a in made.items()} == (
    parameters.shapes(model)
)
ids = np.ones((2, 16), np.int32)
batch = {"input_ids": ids, "attention_mask": ids, "token_type_ids": ids * 0}
key = jax.random.key(1)
assert models.apply(model, params, batch, dropout_key=key)["relation_logits"].shape == (2, 16, 5)
mesh = sharding.make_mesh(config_lib.Mesh())
sharding.abstract(mesh, {"params": models.abstract_params(model)})
plain = config_lib.Model(**{TINY}, head="none")
more = flops.model_flops_per_step(model, 1, 16, 4) - flops.model_flops_per_step(plain, 1, 16, 4)
assert more == 3 * 2 * 16 * 32 * 5
assert shapes._likely_field("params/relation_classifier/dense/bias", None, {}) == "model.head"

source = Pretrained(config, None, params, step=3)
orbax.write(source, root / "run")
for form in ("hf:m", "tf1:t/model.ckpt"):
    form, _, path = form.partition(":")
    convert.convert(str(root / "run"), f"{form}:{root / path}")
    again = convert.read(f"{form}:{root / path}")
    assert again.config.model == model, (form, again.config.model)
    jax.tree.map(np.testing.assert_array_equal, again.params, params)
card = (root / "m/README.md").read_text()
assert "BertForRelations" in card and "pipeline_tag: relation-extraction" in card
convert.convert(str(root / "run"), f"onnx:{root}/model.onnx")
convert.convert(str(root / "run"), f"stablehlo:{root}/model.stablehlo")
"""


def test_a_head_is_added_by_its_record_alone(tmp_path):
    """One file of a copy of the package changes: the one of the records."""
    package = Path(models.__file__).parent.parent
    copy = tmp_path / "code/bertjax"
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))
    with (copy / "config/heads.py").open("a") as file:
        file.write(RECORD)
    named = [path for path in copy.rglob("*.py") if "relation_classifier" in path.read_text()]
    assert named == [copy / "config/heads.py"]
    program = USES.replace("{TINY}", repr(TINY))
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=copy.parent,
        env={"PATH": "", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(copy.parent)},
        text=True,
        capture_output=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]
