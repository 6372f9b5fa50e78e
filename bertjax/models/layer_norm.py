"""Residual sum, hidden dropout and LayerNorm after a dense layer, by the kernel chosen for them.

Shape suffixes: B batch, L length, D hidden, F features of the dense layer's input.
"""

import functools
from collections.abc import Callable
from typing import Protocol

import jax
from flax import nnx

from bertjax import config as config_lib
from bertjax.models import layer_norm_gpu
from bertjax.models.dropout import dropout, key_words
from bertjax.models.layer_norm_gpu import VECTORS, Form
from bertjax.models.linear import bias, dense, product
from bertjax.models.placement import Placement, can_run, is_ampere


class AddAndNorm(Protocol):
    """What ends a sublayer."""

    def __call__(
        self,
        norm: nnx.LayerNorm,
        linear: nnx.Linear,
        hidden_BLD: jax.Array,
        inner_BLF: jax.Array,
        dropout_key: jax.Array | None,
        uses: int = 1,
    ) -> tuple[jax.Array, ...]:
        """`norm(hidden + dropout(linear(inner)))`, `[B, L, D]`, once for each of its `uses`."""


def choose(config: config_lib.Model, placement: Placement, length: int) -> str:
    """The kernel that `config.layer_norm` means for sequences of `length`: xla or fused.

    Raises:
      UsageError: the fused kernel is asked for and cannot run.
    """
    if config.layer_norm == "xla":
        return "xla"
    device = placement.device
    needs = {
        f"an NVIDIA GPU, Ampere or later (here: {device.device_kind})": is_ampere(device),
        **layer_norm_gpu.needs(length, config.hidden_size),
    }
    if placement.unsplit is not None:
        needs[placement.unsplit] = False
    return "fused" if can_run("layer_norm", config.layer_norm, needs) else "xla"


def bind(
    config: config_lib.Model, placement: Placement, length: int, recompute: Callable
) -> AddAndNorm:
    """The function that ends a sublayer, by the kernel of `choose`; `recompute` as in `plain`."""
    if choose(config, placement, length) == "xla":
        return functools.partial(plain, config.hidden_dropout_prob, recompute)
    form = Form(config.hidden_dropout_prob, config.layer_norm_eps)
    return functools.partial(_fused, placement, form)


def plain(
    rate: float,
    recompute: Callable,
    norm: nnx.LayerNorm,
    linear: nnx.Linear,
    hidden_BLD: jax.Array,
    inner_BLF: jax.Array,
    dropout_key: jax.Array | None,
    uses: int = 1,
) -> tuple[jax.Array, ...]:
    """`AddAndNorm` written out, for any device.

    Only the sum is saved for the backward pass, in its own type. JAX would save three float32 arrays
    `[B, L, D]` instead.

    Args:
      recompute: `jax.checkpoint`, as `encoder.recompute` makes it for a block.
    """

    @recompute
    def normalized(sum_BLD: jax.Array) -> jax.Array:
        return norm(sum_BLD).astype(sum_BLD.dtype)

    return (normalized(hidden_BLD + dropout(dense(linear, inner_BLF), rate, dropout_key)),) * uses


def _fused(
    placement: Placement,
    form: Form,
    norm: nnx.LayerNorm,
    linear: nnx.Linear,
    hidden_BLD: jax.Array,
    inner_BLF: jax.Array,
    dropout_key: jax.Array | None,
    uses: int = 1,
) -> tuple[jax.Array, ...]:
    inputs = {"hidden": hidden_BLD, "product": product(linear, inner_BLF)}
    inputs |= {"bias": bias(linear, inner_BLF), "scale": norm.scale[...], "shift": norm.bias[...]}  # type: ignore[index]
    if dropout_key is None or form.rate == 0.0:
        form = form._replace(rate=0.0)
    else:
        inputs["words"] = key_words(dropout_key, hidden_BLD.shape)
    return add_and_norm(placement, form._replace(uses=uses), inputs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def add_and_norm(placement: Placement, form: Form, inputs: dict) -> tuple[jax.Array, ...]:
    """`LayerNorm(hidden + dropout(product + bias))`, `[B, L, D]`, once for each of its uses.

    Its gradient is that of every use, which the backward kernel adds up: no sum of them is written
    to memory and read again.

    Args:
      inputs: `hidden`, `product` `[B, L, D]`; `bias`, `scale`, `shift` `[D]`; with dropout `words`
        of `dropout.key_words`.
    """
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
    results["bias"] = results["bias"].astype(kept["sum"].dtype)
    results |= {"hidden": found["hidden"], "product": found.get("product", found["hidden"])}
    return (results | {name: None for name in kept if name == "words"},)


add_and_norm.defvjp(_forward, _backward)


def _call(
    placement: Placement,
    kernel: layer_norm_gpu.Kernel,
    form: Form,
    inputs: dict,
    names: tuple[str, ...],
) -> dict[str, jax.Array]:
    """Runs a kernel on every device's own rows.

    Arrays of tokens come first: results are placed like the first argument.
    """
    order = sorted(inputs, key=lambda name: inputs[name].ndim, reverse=True)
    placed = {1: "feature", 2: "ids", 3: "hidden"}

    def of_shard(*arrays: jax.Array) -> dict[str, jax.Array]:
        return layer_norm_gpu.call(kernel, form, dict(zip(order, arrays, strict=True)), names)

    on_shards = placement.per_shard(of_shard, tuple(placed[inputs[name].ndim] for name in order))
    return on_shards(*(inputs[name] for name in order))
