"""Dense layers, their products without the bias, and GELU of them."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from bertjax import config as config_lib


def linear(
    config: config_lib.Model, features_in: int, features_out: int, rngs: nnx.Rngs
) -> nnx.Linear:
    """Dense layer with BERT's truncated-normal kernel."""
    init = nnx.initializers.truncated_normal(config.initializer_range)
    dtype = jnp.dtype(config.dtype)
    return nnx.Linear(features_in, features_out, kernel_init=init, dtype=dtype, rngs=rngs)


def product(layer: nnx.Linear, inputs: jax.Array) -> jax.Array:
    """`inputs @ kernel` in the layer's compute type, `[..., out]`: the layer without its bias."""
    return jnp.dot(inputs.astype(layer.dtype), layer.kernel[...].astype(layer.dtype))


def bias(layer: nnx.Linear) -> jax.Array:
    """The layer's bias `[out]` in its compute type."""
    assert layer.bias is not None
    return layer.bias[...].astype(layer.dtype)


def summed_in_float32(letters: str, left: jax.Array, right: jax.Array) -> jax.Array:
    """`jnp.einsum(letters, left, right)` with a float32 result, whatever the type of the factors.

    The result's gradient is rounded to the type of the factors before it is multiplied with them.
    JAX would multiply in float32, at half the speed on a GPU and from twice the bytes.

    Args:
      letters: as `jnp.einsum`; every letter of a factor is in the other one or in the result.
    """
    if left.dtype == right.dtype == jnp.float32:  # also has derivatives in forward mode
        return jnp.einsum(letters, left, right)
    return _summed(letters, left, right)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _summed(letters: str, left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.einsum(letters, left, right, preferred_element_type=jnp.float32)


def _forward(letters: str, left: jax.Array, right: jax.Array) -> tuple[jax.Array, tuple]:
    return _summed(letters, left, right), (left, right)


def _backward(letters: str, factors: tuple, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    left, right = factors
    sides, result = letters.split("->")
    of_left, of_right = sides.split(",")
    gradient = gradient.astype(left.dtype)
    return (
        jnp.einsum(f"{result},{of_right}->{of_left}", gradient, right),
        jnp.einsum(f"{result},{of_left}->{of_right}", gradient, left),
    )


_summed.defvjp(_forward, _backward)


def activated(
    name: str, layer: nnx.Linear, inputs: jax.Array, recompute: Callable = jax.checkpoint
) -> jax.Array:
    """GELU of a dense layer, `[..., out]`.

    Only the product is saved for the backward pass. Without this, JAX would save four more arrays
    of the model's widest shape (24 MB a layer at Base, 8 x 128). The step takes the same time.

    Args:
      name: `gelu` is the erf form, `gelu_new` the tanh approximation (Hugging Face's names).
      recompute: `jax.checkpoint`, as `encoder.recompute` makes it for a block.
    """

    @recompute
    def of_product(product_XF: jax.Array, bias_F: jax.Array) -> jax.Array:
        return jax.nn.gelu(product_XF + bias_F, approximate=name == "gelu_new")

    return of_product(product(layer, inputs), bias(layer))
