"""The fused LayerNorm has the mask of the plain form to the bit, and its values and gradients.

The kernels run here in JAX's interpreter of kernels.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices import device
from flax import nnx
from jax.sharding import NamedSharding

from bertjax import config as config_lib
from bertjax import sharding
from bertjax.config import Model
from bertjax.errors import UsageError
from bertjax.models import layer_norm
from bertjax.models.dropout import key_words, random_words
from bertjax.models.layer_norm_gpu import Form
from bertjax.models.placement import Unplaced

RATE, EPSILON = 0.1, 1e-12


def row_keys(rows, seed=5):
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(rows))


KEYS = {"none": None, "one": jax.random.key(3), "rows": row_keys(2)}


def example(rows, length, features, dtype):
    """`(hidden, product, bias, scale, shift, cotangents of two uses)`."""
    rng = np.random.default_rng(features)

    def normal(*shape):
        return jnp.asarray(rng.standard_normal(shape), dtype)

    of_tokens = [normal(rows, length, features) for _ in range(4)]
    scale = 1 + normal(features).astype(jnp.float32) / 10
    shift = normal(features).astype(jnp.float32)
    return (*of_tokens[:2], normal(features), scale, shift), of_tokens[2:]


def plain(key, hidden, product, bias, scale, shift):
    norm = nnx.LayerNorm(
        hidden.shape[-1], epsilon=EPSILON, use_fast_variance=False, rngs=nnx.Rngs(0)
    )
    norm.scale[...], norm.bias[...] = scale, shift
    features = product.shape[-1]
    linear = nnx.Linear(features, features, dtype=product.dtype, rngs=nnx.Rngs(0))
    linear.kernel[...], linear.bias[...] = jnp.eye(features), bias
    return layer_norm.plain(RATE, jax.checkpoint, norm, linear, hidden, product, key, uses=2)


def fused(key, *arrays, placement=None):
    names = ("hidden", "product", "bias", "scale", "shift")
    inputs = dict(zip(names, arrays, strict=True))
    if key is not None:
        inputs["words"] = key_words(key, arrays[0].shape)
    form = Form(RATE if key is not None else 0.0, EPSILON, uses=2, interpret=True)
    return layer_norm.add_and_norm(placement or Unplaced(), form, inputs)


def values_and_gradients(function, key, arrays, cotangents, **fields):
    results, pull = jax.vjp(lambda *x: function(key, *x, **fields), *arrays)
    return [results[0], *pull(tuple(cotangents))]


def as_float32(*arrays):
    return jax.tree.map(lambda x: x.astype(jnp.float32), arrays)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    ("features", "length", "dtype", "tolerance"),
    [(64, 24, "float32", 1e-6), (768, 128, "float32", 1e-6), (384, 72, "bfloat16", 1e-2)],
)
def test_values_and_gradients_are_the_plain_forms(key, features, length, dtype, tolerance):
    """In float32, relative to the largest. The gradient is that of both uses; 72 tokens are of
    three programs."""
    arrays, cotangents = example(2, length, features, dtype)
    found, expected = (
        values_and_gradients(function, KEYS[key], *x)
        for function, x in ((fused, (arrays, cotangents)), (plain, as_float32(arrays, cotangents)))
    )
    for mine, reference in zip(found, expected, strict=True):
        atol = tolerance * np.abs(reference).max()
        np.testing.assert_allclose(mine.astype(np.float32), reference, atol=atol, rtol=0)


def test_the_plain_form_keeps_its_sum_alone():
    """For the backward pass: no float32 array of tokens, and one in the compute type."""
    arrays, _ = example(2, 72, 384, jnp.bfloat16)
    _, pull = jax.vjp(lambda *x: plain(None, *x), *arrays)
    of_tokens = [x.dtype for x in jax.tree.leaves(pull) if x.shape == arrays[0].shape]
    assert of_tokens == [jnp.bfloat16]


@pytest.mark.parametrize("key", ["one", "rows"])
def test_the_mask_is_the_plain_forms_to_the_bit(key):
    """In the backward kernel by what has a gradient, in the forward kernel by what is added."""
    arrays, cotangents = example(2, 128, 384, jnp.float32)
    kept = random_words(KEYS[key], arrays[0].shape) >= jnp.uint32(round(RATE * 2**32))
    _, pull = jax.vjp(lambda *x: fused(KEYS[key], *x), *arrays)
    np.testing.assert_array_equal(pull(tuple(cotangents))[1] != 0, kept)
    zeros, ones = jnp.zeros_like(arrays[0]), jnp.ones_like(arrays[0])
    # Of zeros and ones, LayerNorm makes two values; without scale and shift, ones stay positive.
    added = fused(KEYS[key], zeros, ones, arrays[2] * 0, arrays[3] * 0 + 1, arrays[4] * 0)[0]
    np.testing.assert_array_equal(added > 0, kept)


def test_a_mesh_of_rows_and_heads_gives_the_same():
    """The gradients of bias, scale and shift are sums over all rows."""
    arrays, cotangents = example(8, 16, 64, jnp.float32)
    key = row_keys(8)
    mesh = sharding.make_mesh(config_lib.Mesh(data=2, fsdp=2, tensor=2))
    placement = sharding.Placement(mesh)

    def sharded(*arrays):
        return values_and_gradients(fused, key, arrays, cotangents, placement=placement)

    rows = NamedSharding(mesh, placement.spec("hidden"))
    placed = [jax.device_put(x, rows) if x.ndim == 3 else x for x in arrays]
    alone = values_and_gradients(fused, key, arrays, cotangents)
    for mine, expected in zip(jax.jit(sharded)(*placed), alone, strict=True):
        np.testing.assert_allclose(mine, expected, atol=1e-6 * np.abs(expected).max(), rtol=1e-6)


def test_auto_takes_the_kernel_where_it_runs():
    gpu, cpu = Unplaced(device("gpu")), Unplaced(device("cpu"))
    base, odd = Model(hidden_size=768), Model(hidden_size=312)
    assert layer_norm.choose(base, gpu, 128) == "fused"
    assert layer_norm.choose(base, cpu, 128) == layer_norm.choose(base, gpu, 100) == "xla"
    assert layer_norm.choose(odd, gpu, 128) == "xla"
    assert layer_norm.choose(Model(layer_norm="xla"), gpu, 128) == "xla"
    assert layer_norm.choose(base, Unplaced(device("gpu"), unsplit="x=y"), 128) == "xla"
    with pytest.raises(UsageError, match=r"config.model.layer_norm='fused'.*NVIDIA.*312"):
        layer_norm.choose(Model(hidden_size=312, layer_norm="fused"), cpu, 128)
