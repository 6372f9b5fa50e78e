"""Residual sum, hidden dropout and LayerNorm in one kernel on GPUs, in Pallas for Triton.

A program has some tokens of one row of the batch and walks over them, a token a warp. The mask is
hashed anew in the backward pass and never written.

Shape suffixes: R tokens of a strip, C features of a chunk.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from bertjax.models.dropout import bound, hashed

Refs = dict[str, Any]  # arrays in HBM, by name
Chunks = list[jax.Array]  # `[R, C]`, all features of the tokens of a strip
Places = Any  # a slice of tokens or of features
Kernel = Callable[["Form", int, Refs, Refs], None]
_STRIP = 8  # tokens at once: one a warp
_CHUNKS = (256, 128, 64)  # features at once, a power of two (Triton)
_LONGEST = 64  # tokens of a program: Base, 256 x 128, has 512 programs
VECTORS = ("bias", "scale", "shift")  # of a feature
_WIDEST = 1024  # features: a warp has a token in its registers, 242 of 255 with these


class Form(NamedTuple):
    """The static settings of a kernel.

    Attributes:
      rate: the share that is dropped.
      epsilon: LayerNorm's.
      uses: readers of the result; the backward kernel sums their gradients.
      interpret: whether JAX's interpreter of kernels runs it.
    """

    rate: float
    epsilon: float
    uses: int = 1
    interpret: bool = False


def needs(length: int, features: int) -> dict[str, bool]:
    """What the kernels need of arrays `[B, length, features]`, for people, and whether it is so."""
    return {
        f"a sequence length that divides by {_STRIP} (here: {length})": length % _STRIP == 0,
        f"a hidden size that divides by {_CHUNKS[-1]} and is at most {_WIDEST} "
        f"(here: {features})": features % _CHUNKS[-1] == 0 and features <= _WIDEST,
    }


def call(kernel: Kernel, form: Form, inputs: Refs, names: tuple[str, ...]) -> Refs:
    """Runs `forward` or `backward`.

    Args:
      inputs: of tokens `[B, L, D]`; `bias`, `scale` and `shift` `[D]`; `words` `[B, 3]`, as of
        `dropout.key_words`.
      names: of the results; `hidden`, `product` and `sum` are `[B, L, D]`, those of `[D]` the sums
        over a program's tokens, `[B, programs, D]`, float32.
    """
    like = inputs["sum" if kernel is backward else "hidden"]
    size, length, features = like.shape
    tokens = next(n for n in range(_LONGEST, 0, -_STRIP) if length % n == 0)
    sums = jax.ShapeDtypeStruct((size, length // tokens, features), jnp.float32)
    of_tokens = jax.ShapeDtypeStruct(like.shape, like.dtype)
    results = {name: sums if name in VECTORS else of_tokens for name in names}

    def block(x: Any) -> pl.BlockSpec:
        if x.ndim == 1:
            return pl.BlockSpec((features,), lambda i, b: (0,))
        if x.ndim == 2:
            return pl.BlockSpec((None, x.shape[1]), lambda i, b: (b, 0))
        of_program = x.shape[1] // (length // tokens)
        return pl.BlockSpec((None, of_program, features), lambda i, b: (b, i, 0))

    return pl.pallas_call(
        functools.partial(kernel, form, tokens),
        grid=(length // tokens, size),
        in_specs=[{name: block(x) for name, x in inputs.items()}],
        out_specs={name: block(x) for name, x in results.items()},
        out_shape=results,
        compiler_params=triton.CompilerParams(num_warps=_STRIP, num_stages=1),
        interpret=form.interpret,
        name=f"layer_norm_{kernel.__name__}",
    )(inputs)


def forward(form: Form, tokens: int, inputs: Refs, results: Refs) -> None:
    """`hidden = LayerNorm(hidden + dropout(product + bias))`, and the `sum` that it normalizes."""
    first, chunks = pl.program_id(0) * tokens, _chunks(inputs["hidden"])
    dtype = inputs["hidden"].dtype

    def strip(index: Any, _: None) -> None:
        places = _places(index)
        sums = []
        for chunk in chunks:
            added_RC = _load(inputs["product"], places, chunk) + inputs["bias"][chunk]
            if form.rate:
                added_RC = _dropped(form, inputs, first + index * _STRIP, chunk, added_RC, dtype)
            sum_RC = _load(inputs["hidden"], places, chunk) + added_RC
            sums.append(sum_RC.astype(dtype).astype(jnp.float32))
        for chunk, sum_RC, normal_RC in zip(chunks, sums, _normal(form, sums)[0], strict=True):
            hidden_RC = normal_RC * inputs["scale"][chunk] + inputs["shift"][chunk]
            _store(results["hidden"], places, chunk, hidden_RC)
            if "sum" in results:
                _store(results["sum"], places, chunk, sum_RC)

    jax.lax.fori_loop(0, tokens // _STRIP, strip, None)


def backward(form: Form, tokens: int, inputs: Refs, results: Refs) -> None:
    """The gradients of `hidden`, of `product` where they differ, and sums of the others."""
    first, chunks = pl.program_id(0) * tokens, _chunks(inputs["sum"])
    dtype = inputs["sum"].dtype
    of_uses = [x for name, x in inputs.items() if name.startswith("gradient")]

    def strip(index: Any, totals: dict[str, Chunks]) -> dict[str, Chunks]:
        places = _places(index)
        normal, inverse_R = _normal(form, [_load(inputs["sum"], places, chunk) for chunk in chunks])
        gradient = [_total([_load(x, places, chunk) for x in of_uses]) for chunk in chunks]
        inner = [g * inputs["scale"][chunk] for g, chunk in zip(gradient, chunks, strict=True)]
        mean_R, slope_R = _mean(inner), _mean([a * b for a, b in zip(inner, normal, strict=True)])
        products = []
        for chunk, inner_RC, normal_RC in zip(chunks, inner, normal, strict=True):
            product_RC = inner_RC - mean_R[:, None] - normal_RC * slope_R[:, None]
            product_RC *= inverse_R[:, None]
            _store(results["hidden"], places, chunk, product_RC)
            if form.rate:
                token = first + index * _STRIP
                product_RC = _dropped(form, inputs, token, chunk, product_RC, dtype)
                _store(results["product"], places, chunk, product_RC)
            products.append(product_RC)
        scaled = [g * n for g, n in zip(gradient, normal, strict=True)]
        added = {"bias": products, "scale": scaled, "shift": gradient}
        return jax.tree.map(jnp.add, totals, added)

    zeros = [jnp.zeros((_STRIP, chunk.size), jnp.float32) for chunk in chunks]
    totals = jax.lax.fori_loop(0, tokens // _STRIP, strip, dict.fromkeys(VECTORS, zeros))
    for name, total in totals.items():
        for chunk, total_RC in zip(chunks, total, strict=True):
            results[name][0, chunk] = total_RC.sum(axis=0)


def _chunks(ref: Any) -> list[Places]:
    features = ref.shape[-1]
    size = next(size for size in _CHUNKS if features % size == 0)
    return [pl.ds(start, size) for start in range(0, features, size)]


def _places(strip: Any) -> Places:
    return pl.ds(strip * _STRIP, _STRIP)


def _load(ref: Any, places: Places, chunk: Places) -> jax.Array:
    return ref[places, chunk].astype(jnp.float32)


def _store(ref: Any, places: Places, chunk: Places, x_RC: jax.Array) -> None:
    ref[places, chunk] = x_RC.astype(ref.dtype)


def _mean(chunks: Chunks) -> jax.Array:
    """Of all features of a token, `[R]`."""
    return _total([x.sum(axis=1) for x in chunks]) / sum(x.shape[1] for x in chunks)


def _total(arrays: list[jax.Array]) -> jax.Array:
    return functools.reduce(jnp.add, arrays)


def _normal(form: Form, sums: Chunks) -> tuple[Chunks, jax.Array]:
    """Features of mean 0 and variance 1, and the inverse of their deviation before, `[R]`."""
    mean_R = _mean(sums)
    centered = [x - mean_R[:, None] for x in sums]
    inverse_R = jax.lax.rsqrt(_mean([x * x for x in centered]) + form.epsilon)
    return [x * inverse_R[:, None] for x in centered], inverse_R


def _dropped(
    form: Form, inputs: Refs, token: Any, chunk: Places, x_RC: jax.Array, dtype: Any
) -> jax.Array:
    """`x` after dropout, with the mask of `dropout.dropout`.

    Args:
      token: the first of the strip, in its row.
    """
    features = inputs["scale"].shape[0]
    token_RC = token + jax.lax.broadcasted_iota(jnp.int32, x_RC.shape, 0)
    feature_RC = chunk.start + jax.lax.broadcasted_iota(jnp.int32, x_RC.shape, 1)
    index_RC = (token_RC * features + feature_RC).astype(jnp.uint32)
    first, second, start = (inputs["words"][i] for i in range(3))
    keep_RC = hashed(start + index_RC, first, second) >= bound(form.rate)
    # Rounded to the compute type, as in the plain form.
    scale = jnp.asarray(1 / (1 - form.rate), dtype).astype(jnp.float32)
    return jnp.where(keep_RC, x_RC * scale, 0.0)
