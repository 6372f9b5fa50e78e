"""Residual sum, hidden dropout and LayerNorm, by the kernel that is chosen for them.

Shape suffixes: B batch, L length, D hidden.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from bertjax import config as config_lib
from bertjax.models import layer_norm_gpu
from bertjax.models.dropout import dropout, key_words
from bertjax.models.layer_norm_gpu import VECTORS, Form
from bertjax.models.linear import product
from bertjax.models.placement import Placement

# `(norm, linear, hidden [B, L, D], inner [B, L, F], dropout key) -> hidden [B, L, D]`.
AddAndNorm = Callable[
    [nnx.LayerNorm, nnx.Linear, jax.Array, jax.Array, jax.Array | None], jax.Array
]


def bind(config: config_lib.Model, placement: Placement, length: int) -> AddAndNorm:
    """`hidden = LayerNorm(hidden + dropout(linear(inner)))`, by the kernel of `choose`."""
    if choose(config, placement, length) == "xla":
        return functools.partial(_plain, config.hidden_dropout_prob)
    form = Form(config.hidden_dropout_prob, config.layer_norm_eps)
    return functools.partial(_fused, placement, form)


def choose(config: config_lib.Model, placement: Placement, length: int) -> str:
    fits = layer_norm_gpu.fits(length, config.hidden_size)
    if placement.device.platform == "gpu" and placement.unsplit is None and fits:
        return "fused"
    return "xla"


def _plain(
    rate: float,
    norm: nnx.LayerNorm,
    linear: nnx.Linear,
    hidden_BLD: jax.Array,
    inner_BLF: jax.Array,
    key: jax.Array | None,
    uses: int = 1,
) -> tuple[jax.Array, ...]:
    added_BLD = dropout(linear(inner_BLF), rate, key)
    return (norm(hidden_BLD + added_BLD).astype(hidden_BLD.dtype),) * uses


def _fused(
    placement: Placement,
    form: Form,
    norm: nnx.LayerNorm,
    linear: nnx.Linear,
    hidden_BLD: jax.Array,
    inner_BLF: jax.Array,
    key: jax.Array | None,
    uses: int = 1,
) -> tuple[jax.Array, ...]:
    inputs = {"hidden": hidden_BLD, "product": product(linear, inner_BLF)}
    inputs |= {"bias": linear.bias[...], "scale": norm.scale[...], "shift": norm.bias[...]}
    if key is None or not form.rate:
        form = form._replace(rate=0.0)
    else:
        inputs["words"] = key_words(key, hidden_BLD.shape)
    return add_and_norm(placement, form._replace(uses=uses), inputs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def add_and_norm(placement: Placement, form: Form, inputs: dict) -> tuple[jax.Array, ...]:
    """`LayerNorm(hidden + dropout(product + bias))`, `[B, L, D]`, once for every use of it."""
    found = _call(placement, layer_norm_gpu.forward, form, inputs, ("hidden",))
    return (found["hidden"],) * form.uses


def _forward(placement: Placement, form: Form, inputs: dict) -> tuple[tuple, dict]:
    found = _call(placement, layer_norm_gpu.forward, form, inputs, ("hidden", "sum"))
    kept = {name: x for name, x in inputs.items() if name in ("scale", "words")}
    return (found["hidden"],) * form.uses, kept | {"sum": found["sum"]}


def _backward(placement: Placement, form: Form, kept: dict, gradients: tuple) -> tuple[dict]:
    names = ("hidden", *(("product",) if form.rate else ()), *VECTORS)
    inputs = kept | {f"gradient{use}": x for use, x in enumerate(gradients)}
    found = _call(placement, layer_norm_gpu.backward, form, inputs, names)
    results = {name: found[name].sum(axis=(0, 1)) for name in VECTORS}
    results |= {"hidden": found["hidden"], "product": found.get("product", found["hidden"])}
    return (results | {name: None for name in kept if name == "words"},)


add_and_norm.defvjp(_forward, _backward)


def _call(
    placement: Placement, kernel: Callable, form: Form, inputs: dict, names: tuple[str, ...]
) -> dict[str, jax.Array]:
    """Runs a kernel on every device's own rows."""
    order = sorted(inputs, key=lambda name: inputs[name].ndim, reverse=True)
    placed = {1: "feature", 2: "ids", 3: "hidden"}

    def of_shard(*arrays: jax.Array) -> dict[str, jax.Array]:
        return layer_norm_gpu.call(kernel, form, dict(zip(order, arrays, strict=True)), names)

    on_shards = placement.per_shard(of_shard, tuple(placed[inputs[name].ndim] for name in order))
    return on_shards(*(inputs[name] for name in order))
