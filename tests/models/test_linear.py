"""A product with a float32 result has the product's gradients, and multiplies in its factors' type."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.models.linear import summed_in_float32


@pytest.mark.parametrize("letters", ["BPD,VD->BPV", "BLHK,BMHK->BHLM"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 0), ("bfloat16", 1e-2)])
def test_gradients_are_those_of_einsum(letters, dtype, tolerance):
    sizes = dict(zip("BPDVLHKM", (2, 3, 8, 5, 4, 2, 8, 6), strict=True))
    shapes = [[sizes[x] for x in side] for side in letters.replace("->", ",").split(",")]
    rng = np.random.default_rng(0)
    left, right, gradient = (jnp.asarray(rng.standard_normal(s), jnp.float32) for s in shapes)
    left, right = left.astype(dtype), right.astype(dtype)
    result, pull = jax.vjp(lambda a, b: summed_in_float32(letters, a, b, a.dtype), left, right)
    exact = [x.astype(jnp.float32) for x in (left, right)]
    expected, pull_exact = jax.vjp(lambda a, b: jnp.einsum(letters, a, b), *exact)
    assert result.dtype == jnp.float32
    pairs = zip((result, *pull(gradient)), (expected, *pull_exact(gradient)), strict=True)
    for mine, reference in pairs:
        atol = tolerance * np.abs(reference).max()
        np.testing.assert_allclose(mine.astype(np.float32), reference, atol=atol, rtol=1e-6)


def test_all_products_of_bfloat16_take_bfloat16():
    factors = jnp.ones((2, 3, 8), jnp.bfloat16), jnp.ones((5, 8), jnp.bfloat16)
    gradient = jax.grad(
        lambda a, b: summed_in_float32("BPD,VD->BPV", a, b, a.dtype).sum(), argnums=(0, 1)
    )
    text = str(jax.make_jaxpr(gradient)(*factors))
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert len(products) == 3
    assert len([line for line in products if ":bf16" in line]) == 2  # the result's is float32


def test_float32_has_derivatives_in_forward_mode():
    factors = jnp.ones((2, 3, 8)), jnp.ones((5, 8))
    _, change = jax.jvp(
        lambda a: summed_in_float32("BPD,VD->BPV", a, factors[1], a.dtype), factors[:1], factors[:1]
    )
    np.testing.assert_array_equal(change, 8)
