"""Flash attention on GPUs: its kernels, forward and backward, in Pallas for Triton.

A program has one head of one row of the batch and one block of its queries (backward: also of its
keys). `docs/explanations/attention_kernel.md` explains what it does with them.

JAX 0.11 calls Pallas' Triton backend deprecated, in favor of Mosaic GPU. Mosaic GPU runs its matrix
products on Hopper and Blackwell alone; here one kernel serves Ampere too.

Shape suffixes: L queries of a block, M keys of a block, K head dim.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from bertjax.models.attention_dropout import Words, kept
from bertjax.models.flash_form import Form

Refs = dict[str, Any]  # arrays in HBM, by name
Block = dict[str, jax.Array]  # arrays of a block of queries or of keys, by name
_STEP = 64  # keys, or queries, that a program's loop takes at a time
_MASKED = -1e30  # in base 2: no exponential is left of it
BIASES = ("query_bias", "key_bias", "value_bias")
_OF_QUERIES = ("query", "ids", "flips", "factors", "mixed", "gradient", "log_sums")
_OF_KEYS = ("key", "value", "ids", "words")


def call(kernel: str, form: Form, inputs: Refs, results: Refs) -> dict[str, jax.Array]:
    """Runs a kernel: a program for every row of the batch, head and block of queries.

    Args:
      inputs: of queries and keys `[B, L, D]`, of rows `[B, 1, L]`, of heads `[B, H, 1, L]`; the
        biases of queries, keys and values `[D]`.
      results: shapes and types of what it returns; of a bias, sums of each program `[B, N, D]`.
    """
    size, length, features = inputs["query"].shape
    whole = kernel == "backward" and form.blocks == 1
    body = _backward_of_row if whole else KERNELS[kernel]

    def block(name: str, x: Any) -> pl.BlockSpec:
        if x.ndim == 1:
            return pl.BlockSpec((form.width,), lambda i, h, b: (h,))
        if name in BIASES:
            return pl.BlockSpec((None, None, form.width), lambda i, h, b: (b, i, h))
        if x.ndim == 4:
            return pl.BlockSpec((None, None, None, length), lambda i, h, b: (b, h, 0, 0))
        if x.shape[1] == 1:
            return pl.BlockSpec((None, None, length), lambda i, h, b: (b, 0, 0))
        return pl.BlockSpec((None, length, form.width), lambda i, h, b: (b, 0, h))

    return pl.pallas_call(
        functools.partial(body, form),
        # Blocks of one head are neighbors in time: its keys are then in the L2 cache.
        grid=(form.blocks, features // form.width, size),
        in_specs=[{name: block(name, x) for name, x in inputs.items()}],
        out_specs={name: block(name, x) for name, x in results.items()},
        out_shape=results,
        # By the compiler's count of registers, RESULTS.md ("The attention kernel on GPUs").
        compiler_params=triton.CompilerParams(num_warps=form.block // 16, num_stages=2),
        interpret=form.interpret,
        name=f"attention_{kernel}",
        # `cost_estimate` does not reach the compiled program; `plan.hlo_cost` reads this.
        metadata={"program_flops": str(2 * _PRODUCTS[body] * form.block * length * form.width)},
    )(inputs)


def _forward(form: Form, inputs: Refs, results: Refs) -> None:
    """`mixed [L, K]` and, in base 2, the logarithms of the softmax's sums, `[L]`.

    By the online softmax: block after block of keys, what is summed so far is scaled to the largest
    score so far (Milakov and Gimelshein 2018). The sum that divides is that of all probabilities,
    dropped or not.
    """
    queries = _slice(pl.program_id(0), form.block)
    query = _load(inputs, _OF_QUERIES, queries)

    def block(j: Any, state: tuple) -> tuple:
        largest_L, sums_L, mixed_LK = state
        key = _load(inputs, _OF_KEYS, _slice(j, _STEP))
        scores_LM = _scores(form, query, key)
        new_L = jnp.maximum(largest_L, scores_LM.max(axis=1))
        probs_LM, scale_L = jnp.exp2(scores_LM - new_L[:, None]), jnp.exp2(largest_L - new_L)
        sums_L = sums_L * scale_L + probs_LM.sum(axis=1)
        if form.rate:
            probs_LM = jnp.where(_kept(form, query, key), probs_LM, 0.0)
        added_LK = _product(probs_LM.astype(key["value"].dtype), key["value"], 1, 0)
        return new_L, sums_L, mixed_LK * scale_L[:, None] + added_LK

    none = jnp.full((form.block,), _MASKED, jnp.float32)
    state = none, jnp.zeros_like(none), jnp.zeros((form.block, form.width), jnp.float32)
    largest_L, sums_L, mixed_LK = jax.lax.fori_loop(0, form.length // _STEP, block, state)
    mixed_LK = mixed_LK / (sums_L * (1 - form.rate))[:, None]
    results["mixed"][queries, :] = mixed_LK.astype(results["mixed"].dtype)
    results["log_sums"][queries] = largest_L + jnp.log2(sums_L)


def _backward(form: Form, inputs: Refs, results: Refs) -> None:
    """The gradients of a block of `query`, `key` and `value`, each `[L, K]`.

    Formulas as of `flash_tpu.backward`. No program adds to what another one writes: the gradients
    of its keys take one walk over all queries, those of its queries one over all keys.
    """
    own = _slice(pl.program_id(0), form.block)
    key, zeros = _load(inputs, _OF_KEYS, own), jnp.zeros((form.block, form.width), jnp.float32)

    def of_queries(i: Any, state: tuple) -> tuple:
        dkey_MK, dvalue_MK = state
        query = _load(inputs, _OF_QUERIES, _slice(i, _STEP))
        dropped_ML, dscores_ML = _scores_and_gradients(form, query, key, keys_first=True)
        dvalue_MK += _product(dropped_ML, query["gradient"], 1, 0)
        return dkey_MK + _product(dscores_ML, query["query"], 1, 0), dvalue_MK

    def of_keys(j: Any, dquery_LK: jax.Array) -> jax.Array:
        key = _load(inputs, _OF_KEYS, _slice(j, _STEP))
        _, dscores_LM = _scores_and_gradients(form, query, key)
        return dquery_LK + _product(dscores_LM, key["key"], 1, 0)

    dkey_MK, dvalue_MK = jax.lax.fori_loop(0, form.length // _STEP, of_queries, (zeros, zeros))
    sums = _store(form, results, own, key=dkey_MK, value=dvalue_MK)
    query = _load(inputs, _OF_QUERIES, own)
    dquery_LK = jax.lax.fori_loop(0, form.length // _STEP, of_keys, zeros)
    _store_sums(results, sums | _store(form, results, own, query=dquery_LK))


def _backward_of_row(form: Form, inputs: Refs, results: Refs) -> None:
    """As `_backward`, of all queries of a row at once: scores are computed once, not twice."""
    query = _load(inputs, _OF_QUERIES, slice(None))

    def block(j: Any, state: tuple) -> tuple:
        dquery_LK, sums = state
        keys = _slice(j, _STEP)
        key = _load(inputs, _OF_KEYS, keys)
        dropped_LM, dscores_LM = _scores_and_gradients(form, query, key)
        dvalue_MK = _product(dropped_LM, query["gradient"], 0, 0)
        dkey_MK = _product(dscores_LM, query["query"], 0, 0)
        of_block = _store(form, results, keys, key=dkey_MK, value=dvalue_MK)
        sums = {name: sums[name] + of_block[name] for name in sums}
        return dquery_LK + _product(dscores_LM, key["key"], 1, 0), sums

    none_K = jnp.zeros((form.width,), jnp.float32)
    state = jnp.zeros((form.length, form.width), jnp.float32), {"key": none_K, "value": none_K}
    dquery_LK, sums = jax.lax.fori_loop(0, form.length // _STEP, block, state)
    _store_sums(results, sums | _store(form, results, slice(None), query=dquery_LK))


KERNELS = {"forward": _forward, "backward": _backward}
# `[L, K] x [K, M]`, or as many FLOPs, of a program's queries with all keys of a row.
_PRODUCTS = {_forward: 2, _backward: 7, _backward_of_row: 5}


def _store(form: Form, results: Refs, places: Any, **gradients: jax.Array) -> Block:
    """Writes gradients of these queries or keys, after the factors that they lack.

    Returns:
      Their sums over the places, `[K]`.
    """
    sums = {}
    for name, gradient in gradients.items():
        scale = (1.0 if name == "value" else form.width**-0.5) / (1 - form.rate)
        results[name][places, :] = (gradient * scale).astype(results[name].dtype)
        sums[name] = gradient.sum(axis=0) * scale
    return sums


def _store_sums(results: Refs, sums: Block) -> None:
    """Writes what a program adds to the gradients of the biases."""
    for name, sum_K in sums.items():
        if f"{name}_bias" in results:
            results[f"{name}_bias"][...] = sum_K


def _scores_and_gradients(
    form: Form, query: Block, key: Block, *, keys_first: bool = False
) -> tuple[jax.Array, jax.Array]:
    """`(probabilities without the dropped ones, dscores)`, `[L, M]`, or `[M, L]` keys first.

    The factor 1 / (1 - rate) is left out of both.
    """
    of_query = _row if keys_first else _column
    inner_L = (query["mixed"].astype(jnp.float32) * query["gradient"].astype(jnp.float32)).sum(1)
    probs = jnp.exp2(_scores(form, query, key, keys_first) - of_query(query["log_sums"]))
    factors = key["value"], query["gradient"]
    dprobs = _product(*(factors if keys_first else factors[::-1]), 1, 1)
    dropped = probs
    if form.rate:
        keep = _kept(form, query, key, keys_first)
        dropped, dprobs = jnp.where(keep, probs, 0.0), jnp.where(keep, dprobs, 0.0)
    dscores = probs * (dprobs - of_query(inner_L * (1 - form.rate)))
    dtype = query["query"].dtype
    return dropped.astype(dtype), dscores.astype(dtype)


def _scores(form: Form, query: Block, key: Block, keys_first: bool = False) -> jax.Array:
    """The scaled scores, times log2(e): the softmax is taken in base 2."""
    factors = (key["key"], query["query"]) if keys_first else (query["query"], key["key"])
    scores = _product(*factors, 1, 1) * (form.width**-0.5 * math.log2(math.e))
    of_query, of_key = (_row, _column) if keys_first else (_column, _row)
    return jnp.where(of_query(query["ids"]) == of_key(key["ids"]), scores, _MASKED)


def _kept(form: Form, query: Block, key: Block, keys_first: bool = False) -> jax.Array:
    """The mask, made of the words of `attention_dropout`."""
    of_query, of_key = (_row, _column) if keys_first else (_column, _row)
    words = Words(of_query(query["flips"]), of_query(query["factors"]), of_key(key["words"]))
    return kept(words, form.rate)


def _row(x: jax.Array) -> jax.Array:
    return x[None, :]


def _column(x: jax.Array) -> jax.Array:
    return x[:, None]


def _load(inputs: Refs, names: tuple[str, ...], places: Any) -> Block:
    """The named arrays that there are, at these queries or keys, each with its bias."""
    refs = {name: inputs[name] for name in names if name in inputs}
    block = {name: x[(places, slice(None))[: x.ndim]] for name, x in refs.items()}
    biases = {name: inputs[f"{name}_bias"] for name in refs if f"{name}_bias" in inputs}
    added = {name: block[name].astype(jnp.float32) + x[...] for name, x in biases.items()}
    return block | {name: x.astype(block[name].dtype) for name, x in added.items()}


def _slice(block: Any, length: int) -> Any:
    return pl.ds(pl.multiple_of(block * length, length), length)


def _product(a: jax.Array, b: jax.Array, over_a: int, over_b: int) -> jax.Array:
    """The matrix product over these dimensions, summed in float32."""
    dimensions = (((over_a,), (over_b,)), ((), ()))
    return jax.lax.dot_general(a, b, dimensions, preferred_element_type=jnp.float32)
