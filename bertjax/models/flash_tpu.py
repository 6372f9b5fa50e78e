"""Flash attention on TPUs: its kernels, forward and backward, in Pallas.

A program has one row of the batch and one group of its heads, with all their queries and keys, in
VMEM. `docs/explanations/attention_kernel.md` explains what it does with them.

Scores lie with keys along sublanes and queries along lanes, `[M, L]`: largest scores, sums, and
what is drawn for a query are then rows `[1, L]`, which broadcast for nothing. Arrays named `..._t`
lie with features along sublanes, `[W, L]`: the heads of a group are then slices of whole registers.

Shape suffixes: L queries of a block, M keys of a block, K head dim, W features of a group.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from bertjax.models.attention_dropout import Words, kept
from bertjax.models.flash_form import LANES, Form

Refs = dict[str, Any]  # arrays in VMEM, by name
_MASKED = -1e30  # in base 2: no exponential is left of it
_PRODUCTS = {"forward": 2, "backward": 5}  # `[L, K] x [K, L]`, or as many FLOPs, of a head


def call(kernel: str, form: Form, inputs: dict, results: dict) -> dict[str, jax.Array]:
    """Runs a kernel: a program for every row of the batch and every group of its heads.

    Args:
      inputs: of queries and keys `[B, L, D]`, of rows `[B, 1, L]`, of heads `[B, N, G, L]`.
      results: shapes and types of what it returns.
    """
    size, length, features = inputs["query"].shape

    def block(x: Any) -> pl.BlockSpec:
        if x.ndim == 4:
            return pl.BlockSpec((None, None, *x.shape[2:]), lambda b, n: (b, n, 0, 0))
        if x.shape[1] == 1:
            return pl.BlockSpec((None, *x.shape[1:]), lambda b, n: (b, 0, 0))
        return pl.BlockSpec((None, length, form.features), lambda b, n: (b, 0, n))

    scratch = SCRATCH[kernel](form, inputs["query"].dtype)
    arrays = [*inputs.values(), *results.values()]
    cost = pl.CostEstimate(
        flops=2 * _PRODUCTS[kernel] * size * length**2 * features,
        transcendentals=size * features // form.width * length**2,
        bytes_accessed=sum(x.size * x.dtype.itemsize for x in arrays),
    )
    return pl.pallas_call(
        functools.partial(KERNELS[kernel], form),
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


def forward(form: Form, inputs: Refs, results: Refs, scratch: Refs) -> None:
    """`mixed [L, W]` and, in base 2, the logarithms of the softmax's sums, `[G, L]`."""
    _fill_columns(inputs, scratch)
    scratch["value_t"][...] = inputs["value"][...].T

    def block(i: Any, _: None) -> None:
        queries, mixed_t = _slice(i, form.block), []
        for head in range(form.group):
            mixed_KL, log_sums_1L = _mix(form, inputs, scratch, head, queries)
            mixed_t.append(mixed_KL)
            results["log_sums"][head : head + 1, queries] = log_sums_1L
        mixed_LW = jnp.concatenate(mixed_t, axis=0).T
        results["mixed"][queries, :] = mixed_LW.astype(results["mixed"].dtype)

    _loop(form.blocks, block, None)


def _mix(
    form: Form, inputs: Refs, scratch: Refs, head: int, queries: Any
) -> tuple[jax.Array, jax.Array]:
    """`(mixed [K, L], logarithms of sums [1, L])` of a head, by the online softmax.

    Block after block of keys, what is summed so far is scaled to the largest score so far (Milakov
    and Gimelshein 2018). The sum that divides is that of all probabilities, dropped or not.
    """
    value_KM = scratch["value_t"].at[_features(form, head)]

    def block(j: Any, state: tuple) -> tuple:
        largest_1L, sums_1L, mixed_KL = state
        keys = _slice(j, form.block)
        scores_ML = _scores(form, inputs, scratch, head, queries, keys)
        new_1L = jnp.maximum(largest_1L, scores_ML.max(axis=0, keepdims=True))
        probs_ML, scale_1L = jnp.exp2(scores_ML - new_1L), jnp.exp2(largest_1L - new_1L)
        sums_1L = sums_1L * scale_1L + probs_ML.sum(axis=0, keepdims=True)
        if form.rate:
            probs_ML = jnp.where(_kept(form, inputs, scratch, head, queries, keys), probs_ML, 0.0)
        added_KL = _product(value_KM[:, keys], probs_ML.astype(inputs["value"].dtype), 1, 0)
        return new_1L, sums_1L, mixed_KL * scale_1L + added_KL

    none = jnp.full((1, form.block), _MASKED, jnp.float32)
    zeros = jnp.zeros((form.width, form.block), jnp.float32)
    largest_1L, sums_1L, mixed_KL = _loop(form.blocks, block, (none, jnp.zeros_like(none), zeros))
    return mixed_KL / (sums_1L * (1 - form.rate)), largest_1L + jnp.log2(sums_1L)


def backward(form: Form, inputs: Refs, results: Refs, scratch: Refs) -> None:
    """The gradients of `query`, `key` and `value`, each `[L, W]`.

    Scores, probabilities and the mask are computed again. With P the probabilities, D what dropout
    makes of them, and dX the gradient of X:

        dvalue = D' dmixed,  dD = dmixed value',  dscores = P * (dropout(dD) - inner)

    where `inner`, a query's sum of P * dP, is also its `dmixed . mixed` (Dao et al. 2022). The
    factor 1 / (1 - rate) is left out of dscores, and made good in the gradients.
    """
    _fill_columns(inputs, scratch)
    for name in ("query", "key", "gradient"):
        scratch[f"{name}_t"][...] = inputs[name][...].T
    mixed, gradient = (inputs[x][...].astype(jnp.float32) for x in ("mixed", "gradient"))
    products_t = (mixed * gradient).T
    for head in range(form.group):
        inner = products_t[_features(form, head)].sum(axis=0, keepdims=True)
        scratch["inner"][head : head + 1, :] = inner * (1 - form.rate)
    scratch["dquery_t"][...] = jnp.zeros_like(scratch["dquery_t"])
    undropped = 1 / (1 - form.rate)
    scale = undropped * form.width**-0.5

    def block(j: Any, _: None) -> None:
        keys = _slice(j, form.block)
        of_heads = [_key_gradients(form, inputs, scratch, head, keys) for head in range(form.group)]
        dkey_WM, dvalue_WM = (
            jnp.concatenate(parts, axis=0) for parts in zip(*of_heads, strict=True)
        )
        results["key"][keys, :] = (dkey_WM * scale).T.astype(results["key"].dtype)
        results["value"][keys, :] = (dvalue_WM * undropped).T.astype(results["value"].dtype)

    _loop(form.blocks, block, None)
    dquery_LW = (scratch["dquery_t"][...] * scale).T
    results["query"][...] = dquery_LW.astype(results["query"].dtype)


def _key_gradients(
    form: Form, inputs: Refs, scratch: Refs, head: int, keys: Any
) -> tuple[jax.Array, jax.Array]:
    """`(dkey, dvalue) [K, M]` of a head, unscaled; adds to `dquery_t` what these keys make of it."""
    features = _features(form, head)
    value_MW = _of_head(form, inputs["value"][keys, :], head)
    key_KM = scratch["key_t"][features, keys]
    dtype = inputs["query"].dtype

    def block(i: Any, state: tuple) -> tuple:
        dkey_KM, dvalue_KM = state
        queries = _slice(i, form.block)
        scores_ML = _scores(form, inputs, scratch, head, queries, keys)
        probs_ML = jnp.exp2(scores_ML - inputs["log_sums"][head : head + 1, queries])
        dprobs_ML = _product(value_MW, inputs["gradient"][queries, :], 1, 1)
        dropped_ML = probs_ML
        if form.rate:
            keep_ML = _kept(form, inputs, scratch, head, queries, keys)
            dropped_ML = jnp.where(keep_ML, probs_ML, 0.0)
            dprobs_ML = jnp.where(keep_ML, dprobs_ML, 0.0)
        dscores_ML = probs_ML * (dprobs_ML - scratch["inner"][head : head + 1, queries])
        dropped_ML, dscores_ML = dropped_ML.astype(dtype), dscores_ML.astype(dtype)
        dvalue_KM += _product(scratch["gradient_t"][features, queries], dropped_ML, 1, 1)
        dkey_KM += _product(scratch["query_t"][features, queries], dscores_ML, 1, 1)
        scratch["dquery_t"][features, queries] += _product(key_KM, dscores_ML, 1, 0)
        return dkey_KM, dvalue_KM

    zeros = jnp.zeros((form.width, form.block), jnp.float32)
    return _loop(form.blocks, block, (zeros, zeros))


def _fill_columns(inputs: Refs, scratch: Refs) -> None:
    """What the keys of a row have, along sublanes and the same in every lane, for all its heads."""

    @pl.when(pl.program_id(1) == 0)
    def _() -> None:
        for name in ("ids", "words"):
            if name in inputs:
                row_1M = inputs[name][...]
                column = jnp.broadcast_to(row_1M, (LANES, row_1M.shape[1])).T
                scratch[f"{name}_column"][...] = column


def _column(form: Form, scratch: Refs, name: str, keys: Any) -> jax.Array:
    """`[M, L]`, the same for every query: registers that are used again, not copies."""
    return jnp.concatenate([scratch[f"{name}_column"][keys, :]] * (form.block // LANES), axis=1)


def _scores(
    form: Form, inputs: Refs, scratch: Refs, head: int, queries: Any, keys: Any
) -> jax.Array:
    """The scaled scores `[M, L]` of a head, times log2(e): the softmax is taken in base 2."""
    key_MW = _of_head(form, inputs["key"][keys, :], head)
    scores_ML = _product(key_MW, inputs["query"][queries, :], 1, 1)
    scores_ML *= form.width**-0.5 * math.log2(math.e)
    same_ML = _column(form, scratch, "ids", keys) == inputs["ids"][:, queries]
    return jnp.where(same_ML, scores_ML, _MASKED)


def _kept(form: Form, inputs: Refs, scratch: Refs, head: int, queries: Any, keys: Any) -> jax.Array:
    """The mask `[M, L]` of a head, made of the words of `attention_dropout`."""
    flips, factors = (inputs[name][head : head + 1, queries] for name in ("flips", "factors"))
    return kept(Words(flips, factors, _column(form, scratch, "words", keys)), form.rate)


def _of_head(form: Form, x_MW: jax.Array, head: int) -> jax.Array:
    """Zeros in place of other heads' features: a product over all of them is over one head's.

    It costs the matrix unit, 128 wide, nothing beside a product over 64, and no lane is moved.
    """
    if form.group == 1:
        return x_MW
    lane = jax.lax.broadcasted_iota(jnp.int32, x_MW.shape, 1)
    features = _features(form, head)
    inside = (lane >= features.start) & (lane < features.stop)
    return jnp.where(inside, x_MW, jnp.zeros_like(x_MW))


def _features(form: Form, head: int) -> slice:
    return slice(head * form.width, (head + 1) * form.width)


def _slice(block: Any, length: int) -> Any:
    return pl.ds(pl.multiple_of(block * length, length), length)


def _loop(count: int, block: Callable, state: Any) -> Any:
    """`fori_loop` whose one pass is no loop: the scheduler sees it and its surroundings at once."""
    return block(0, state) if count == 1 else jax.lax.fori_loop(0, count, block, state)


def _product(a: jax.Array, b: jax.Array, over_a: int, over_b: int) -> jax.Array:
    """The matrix product over these dimensions, summed in float32."""
    dimensions = (((over_a,), (over_b,)), ((), ()))
    return jax.lax.dot_general(a, b, dimensions, preferred_element_type=jnp.float32)


def _forward_scratch(form: Form, dtype: Any) -> dict[str, tuple]:
    """`{name: (shape, type)}` of what a program keeps beside its inputs and results."""
    return {
        "ids_column": ((form.length, LANES), jnp.int32),
        "words_column": ((form.length, LANES), jnp.uint32),
        "value_t": ((form.features, form.length), dtype),
    }


def _backward_scratch(form: Form, dtype: Any) -> dict[str, tuple]:
    turned = (form.features, form.length)
    return {
        "ids_column": ((form.length, LANES), jnp.int32),
        "words_column": ((form.length, LANES), jnp.uint32),
        "query_t": (turned, dtype),
        "key_t": (turned, dtype),
        "gradient_t": (turned, dtype),
        "dquery_t": (turned, jnp.float32),
        "inner": ((form.group, form.length), jnp.float32),
    }


KERNELS = {"forward": forward, "backward": backward}
SCRATCH = {"forward": _forward_scratch, "backward": _backward_scratch}
