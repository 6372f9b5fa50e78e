"""Dense layers, their products without the bias, and GELU of them."""

import functools
import string
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from bertjax import config as config_lib


def linear(
    config: config_lib.Model, features_in: int, features_out: int, rngs: nnx.Rngs
) -> nnx.Linear:
    """Dense layer with BERT's truncated-normal kernel."""
    init = nnx.initializers.truncated_normal(config.initializer_range)
    dtype = jnp.dtype(config.dtype)
    return nnx.Linear(features_in, features_out, kernel_init=init, dtype=dtype, rngs=rngs)


def product(layer: nnx.Linear, inputs: jax.Array) -> jax.Array:
    """`inputs @ kernel`, `[..., out]`, in the type of `inputs`: the layer without its bias.

    The factors have the layer's type.
    """
    axes = string.ascii_uppercase[: inputs.ndim - 1]
    kernel = layer.kernel[...].astype(inputs.dtype)
    return multiplied(f"{axes}x,xy->{axes}y", inputs, kernel, jnp.dtype(layer.dtype))


def bias(layer: nnx.Linear, like: jax.Array) -> jax.Array:
    """The layer's bias `[out]` in the type of `like`."""
    assert layer.bias is not None
    return layer.bias[...].astype(like.dtype)


def dense(layer: nnx.Linear, inputs: jax.Array) -> jax.Array:
    """The layer, `[..., out]`, in the type of `inputs`."""
    return product(layer, inputs) + bias(layer, inputs)


def multiplied(letters: str, left: jax.Array, right: jax.Array, factors: DTypeLike) -> jax.Array:
    """`jnp.einsum(letters, left, right)` of factors in the type `factors`, in the type of `left`."""
    if left.dtype == factors:
        return jnp.einsum(letters, left, right)
    return summed_in_float32(letters, left, right, factors)


def summed_in_float32(
    letters: str, left: jax.Array, right: jax.Array, factors: DTypeLike
) -> jax.Array:
    """`jnp.einsum(letters, left, right)` of factors in the type `factors`, with a float32 result.

    The result's gradient is rounded to the type of the factors before it is multiplied with them.
    JAX would multiply in float32, at half the speed on a GPU and from twice the bytes. Gradients of
    the factors have the type in which they came.

    Args:
      letters: as `jnp.einsum`; every letter of a factor is in the other one or in the result.
      left, right: of one type.
    """
    if left.dtype == factors == jnp.float32:  # also has derivatives in forward mode
        return jnp.einsum(letters, left, right)
    return _summed(letters, jnp.dtype(factors), left.dtype, left, right)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _summed(
    letters: str, factors: np.dtype, given: np.dtype, left: jax.Array, right: jax.Array
) -> jax.Array:
    del given
    left, right = left.astype(factors), right.astype(factors)
    return jnp.einsum(letters, left, right, preferred_element_type=jnp.float32)


def _forward(
    letters: str, factors: np.dtype, given: np.dtype, left: jax.Array, right: jax.Array
) -> tuple[jax.Array, tuple]:
    rounded = left.astype(factors), right.astype(factors)
    return _summed(letters, factors, given, *rounded), rounded


def _backward(
    letters: str, factors: np.dtype, given: np.dtype, rounded: tuple, gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    left, right = rounded
    sides, result = letters.split("->")
    of_left, of_right = sides.split(",")
    gradient = gradient.astype(factors)
    of = functools.partial(jnp.einsum, preferred_element_type=given)
    return (
        of(f"{result},{of_right}->{of_left}", gradient, right),
        of(f"{result},{of_left}->{of_right}", gradient, left),
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

    return of_product(product(layer, inputs), bias(layer, inputs))
