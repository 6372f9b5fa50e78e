"""Flash attention for TPUs, with dropout of probabilities: scores never leave the chip's own memory.

The kernels are in `flash_kernels`; this file calls them. docs/explanations/attention_kernel.md
explains both.
The plain form is `attention.xla_attention`, whose mask is the same to the bit.

Shape suffixes: B batch, L length, H heads, K head dim, D features of all heads, N groups of heads,
G heads of a group.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from bertjax.models import flash_form
from bertjax.models.attention_dropout import Words
from bertjax.models.flash_form import Form

RESIDUALS = "attention_residuals"  # what remat policies know the kernel's results by
_PRODUCTS = {"forward": 2, "backward": 5}  # `[L, K] x [K, L]`, or as many FLOPs, of a head


def attention(
    query_BLHK: jax.Array,
    key_BLHK: jax.Array,
    value_BLHK: jax.Array,
    ids_BL: jax.Array,
    *words: jax.Array,
    rate: float = 0.0,
    interpret: bool = False,
) -> jax.Array:
    """Softmax attention in which tokens of equal ids see each other: `[B, L, H, K]`.

    Scores, softmax and dropout are float32. With a mask of 0 and 1 for ids, padding sees padding,
    which no real token sees. In plain JAX, for `M` keys:

        probs_BHLM = softmax(where(ids_BL == ids_BM, query @ key / sqrt(K), -inf))
        mixed_BLHK = dropout(probs_BHLM, rate) @ value

    Args:
      words: those of `attention_dropout.draw`; none where nothing is dropped.
      interpret: run by JAX's interpreter of kernels, on any device and slowly, for tests.
    """
    size, length, heads, width = query_BLHK.shape
    form = flash_form.of(length, heads, width, rate if words else 0.0, interpret)
    arrays = {
        name: x.reshape(size, length, heads * width)
        for name, x in (("query", query_BLHK), ("key", key_BLHK), ("value", value_BLHK))
    }
    rows = {"ids": ids_BL[:, None, :]}
    if form.rate:
        drawn = Words(*words)
        grouped = (size, heads // form.group, form.group, length)
        rows["flips"], rows["factors"] = (x.reshape(grouped) for x in drawn[:2])
        rows["words"] = drawn.keys[:, None, :]
    return _attention(form, arrays, rows).reshape(query_BLHK.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(form: Form, arrays: dict, rows: dict) -> jax.Array:
    """`mixed [B, L, D]` of `query`, `key` and `value` `[B, L, D]`.

    Args:
      rows: of keys `[B, 1, L]`: `ids`, `words`; of queries `[B, N, G, L]`: `flips`, `factors`.
    """
    return _forward(form, arrays, rows)[0]


def _forward(form: Form, arrays: dict, rows: dict) -> tuple[jax.Array, tuple]:
    size, length, features = arrays["query"].shape
    like = arrays["query"]
    sums = jax.ShapeDtypeStruct((size, features // form.features, form.group, length), jnp.float32)
    results = {"mixed": jax.ShapeDtypeStruct(like.shape, like.dtype), "log_sums": sums}
    found = _call("forward", form, arrays | rows, results)
    kept = {name: checkpoint_name(x, RESIDUALS) for name, x in found.items()}
    return kept["mixed"], (arrays, rows, kept)


def _backward(form: Form, residuals: tuple, gradient_BLD: jax.Array) -> tuple[dict, None]:
    arrays, rows, results = residuals
    inputs = arrays | rows | results | {"gradient": gradient_BLD}
    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in arrays.items()}
    return _call("backward", form, inputs, shapes), None


_attention.defvjp(_forward, _backward)


def _call(kernel: str, form: Form, inputs: dict, results: dict) -> dict:
    """Runs a kernel: a program for every row of the batch and every group of its heads."""
    # A third of a second to import, and most machines are no TPUs.
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu as pltpu

    from bertjax.models import flash_kernels

    size, length, features = inputs["query"].shape

    def block(x: Any) -> pl.BlockSpec:
        if x.ndim == 4:
            return pl.BlockSpec((None, None, *x.shape[2:]), lambda b, n: (b, n, 0, 0))
        if x.shape[1] == 1:
            return pl.BlockSpec((None, *x.shape[1:]), lambda b, n: (b, 0, 0))
        return pl.BlockSpec((None, length, form.features), lambda b, n: (b, 0, n))

    scratch = flash_kernels.SCRATCH[kernel](form, inputs["query"].dtype)
    arrays = [*inputs.values(), *results.values()]
    cost = pl.CostEstimate(
        flops=2 * _PRODUCTS[kernel] * size * length**2 * features,
        transcendentals=size * features // form.width * length**2,
        bytes_accessed=sum(x.size * x.dtype.itemsize for x in arrays),
    )
    return pl.pallas_call(
        functools.partial(flash_kernels.KERNELS[kernel], form),
        grid=(size, features // form.features),
        in_specs=[{name: block(x) for name, x in inputs.items()}],
        out_specs={name: block(x) for name, x in results.items()},
        out_shape=results,
        scratch_shapes=[{name: pltpu.VMEM(*array) for name, array in scratch.items()}],
        # The groups of a row come one after the other: the first one fills `columns` for all.
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        cost_estimate=cost,
        interpret=form.interpret,
        name=f"attention_{kernel}",
    )(inputs)
