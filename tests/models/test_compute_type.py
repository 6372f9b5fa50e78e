"""bfloat16 on a CPU rounds factors and nothing else; `auto` takes it where the processor gains."""

import collections
import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices import device

from bertjax import config as config_lib
from bertjax import models, processor
from bertjax.models import compute_type
from bertjax.models.linear import product

TINY = config_lib.Model(
    vocab_size=99,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=16,
    dtype="bfloat16",
)
BATCH = {
    "input_ids": np.arange(24, dtype=np.int32).reshape(3, 8),
    "token_type_ids": np.zeros((3, 8), np.int32),
    "attention_mask": np.ones((3, 8), np.int32),
    "masked_lm_positions": np.tile(np.int32([1, 5]), (3, 1)),
}


def loss(config, params):
    outputs = models.apply(config, params, BATCH, dropout_key=jax.random.key(1))
    return jnp.sum(jax.nn.log_softmax(outputs["masked_lm_logits"])[..., 3]) + jnp.sum(
        outputs["next_sentence_logits"]
    )


def test_on_a_cpu_products_have_bfloat16_factors_and_float32_results_both_ways():
    params = models.init(TINY, jax.random.key(0))
    text = jax.jit(jax.grad(lambda p: loss(TINY, p))).lower(params).as_text()
    products = re.findall(r"dot_general.*: \(tensor<\S*x(\w+)>, .*x(\w+)>\) -> .*x(\w+)>", text)
    counts = collections.Counter(products)
    # The one-hot of token types: a product with zeros and ones, and its gradient.
    assert counts.pop(("f32", "f32", "f32")) == 2
    assert set(counts) == {("bf16", "bf16", "f32")}
    # Eight products of a block and four of the head, with their gradients; equal parts count once.
    assert 30 <= counts.total() <= 3 * (2 * 8 + 4)
    outputs = models.apply(TINY, params, BATCH)
    assert {x.dtype for x in outputs.values()} == {jnp.dtype("float32")}


def test_a_product_is_that_of_rounded_factors():
    rng = np.random.default_rng(0)
    inputs, kernel, gradient = (
        jnp.asarray(rng.standard_normal(shape), jnp.float32)
        for shape in ((2, 3, 16), (16, 16), (2, 3, 16))
    )
    params = models.init(TINY, jax.random.key(0))
    params["blocks"]["query"]["kernel"] = jnp.stack([kernel] * 2)
    own = jax.tree.map(lambda x: x[0], params["blocks"])
    layer = models.bind(TINY, {"blocks": own}, "blocks").query
    result, pull = jax.vjp(lambda x: product(layer, x), inputs)

    def half(x):
        return np.asarray(x.astype(jnp.bfloat16).astype(jnp.float32), np.float64)

    np.testing.assert_allclose(result, half(inputs) @ half(kernel), atol=1e-5)
    np.testing.assert_allclose(pull(gradient)[0], half(gradient) @ half(kernel).T, atol=1e-5)


def test_rounding_moves_outputs_less_than_bfloat16_throughout(monkeypatch):
    params = models.init(dataclasses.replace(TINY, initializer_range=0.2), jax.random.key(0))

    def hidden():
        return np.asarray(models.apply(TINY, params, BATCH)["hidden"], np.float32)

    exact = dataclasses.replace(TINY, dtype="float32")
    expected = np.asarray(models.apply(exact, params, BATCH)["hidden"])
    factors = np.abs(hidden() - expected).max()
    monkeypatch.setattr(compute_type, "of_hidden", lambda *_: jnp.dtype("bfloat16"))
    throughout = np.abs(hidden() - expected).max()
    assert 0 < factors < throughout < 0.2


@pytest.mark.parametrize(
    ("where", "flags", "expected"),
    [
        (device("cpu"), "flags : avx2 avx512f avx512_bf16", "bfloat16"),
        (device("cpu"), "flags : avx2 amx_bf16 amx_tile", "bfloat16"),
        (device("cpu"), "flags : avx2 avx512f", "float32"),
        (device("cpu"), "", "float32"),
        (device("tpu"), "", "bfloat16"),
        (device("gpu", capability="9.0"), "", "bfloat16"),
        (device("gpu", capability="7.5"), "flags : amx_bf16", "float32"),
    ],
)
def test_auto(monkeypatch, where, flags, expected):
    monkeypatch.setattr(processor, "cpuinfo", lambda: f"processor : 0\n{flags}\n")
    model = dataclasses.replace(TINY, dtype="auto")
    assert compute_type.resolved(model, where).dtype == expected
    asked = dataclasses.replace(TINY, dtype="float32")
    assert compute_type.resolved(asked, where) is asked


def test_several_processes_on_cpus_agree_on_float32(monkeypatch):
    monkeypatch.setattr(processor, "cpuinfo", lambda: "flags : amx_bf16\n")
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert (
        compute_type.resolved(dataclasses.replace(TINY, dtype="auto"), device("cpu")).dtype
        == "float32"
    )
