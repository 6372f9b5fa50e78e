"""Flash attention for TPUs, with dropout of probabilities: scores stay in the chip's own memory.

The plain form is `attention.xla_attention`; `docs/attention_kernel.md` explains the kernel.

Shape suffixes: B batch, L length (queries), M length (keys), H heads, K head dim, W features of
the heads that one program computes, G heads of a program, N programs for the heads of a row.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from bertjax.models import attention_dropout as dropout

LANES = 128  # of a TPU vector register
_LONGEST_BLOCK = 512
RESIDUALS = "attention_residuals"  # what remat policies know the kernel's result by
_MASKED = -1e30  # a score that no exponential is left of
_CONTRACT_LAST = (((1,), (1,)), ((), ()))
_CONTRACT = (((1,), (0,)), ((), ()))


def fits(length: int) -> bool:
    """Whether the kernel can be run on sequences of `length`: whole registers of keys."""
    return length % LANES == 0


def block_length(length: int) -> int:
    blocks = range(LANES, min(length, _LONGEST_BLOCK) + 1, LANES)
    return max(block for block in blocks if length % block == 0)


def heads_together(heads: int, width: int) -> int:
    """Heads that a program computes: the fewest whose features fill whole registers, or all."""
    fill = (n for n in range(1, heads) if heads % n == 0 and n * width % LANES == 0)
    return next(fill, heads)


class Form(NamedTuple):
    """What a kernel is made for."""

    heads: int
    width: int
    rate: float
    interpret: bool

    @property
    def scale(self):
        return self.width**-0.5


def attention(query_BLHK, key_BLHK, value_BLHK, ids_BL, words=None, *, rate=0.0, interpret=False):
    size, length, heads, width = query_BLHK.shape
    form = Form(heads, width, rate if words is not None else 0.0, interpret)
    flat = (x.reshape(size, length, heads * width) for x in (query_BLHK, key_BLHK, value_BLHK))
    drawn = ()
    if form.rate:
        together = heads_together(heads, width)
        flips, factors = (
            w.reshape(size, heads // together, together, length) for w in (words.flip, words.factor)
        )
        drawn = (jnp.concatenate([flips, factors], axis=2), words.key[:, None, :])
    mixed = _attention(form, *flat, ids_BL[:, None, :], drawn)
    return mixed.reshape(query_BLHK.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(form, query, key, value, ids, drawn):
    return _forward(form, query, key, value, ids, drawn)[0]


def _columns(ids_ref, drawn, ids_column, word_column):
    """Rows over keys are turned to columns once a row of the batch."""
    from jax.experimental import pallas as pl

    def column(row):
        wide = jnp.broadcast_to(row, (LANES, row.shape[1]))
        return wide.T

    @pl.when(pl.program_id(1) == 0)
    def _():
        ids_column[...] = column(ids_ref[...])
        if drawn:
            word_column[...] = column(drawn[1][...])


def _wide(column, lanes):
    return jnp.concatenate([column] * (lanes // LANES), axis=1)


def _of_head(x, head, form):
    """x with zeros in the lanes of other heads"""
    if x.shape[1] == form.width:
        return x
    lane = jax.lax.broadcasted_iota(jnp.int32, x.shape, 1)
    inside = (lane >= head * form.width) & (lane < (head + 1) * form.width)
    return jnp.where(inside, x, jnp.zeros_like(x))


def _scores(key_MW, query_LW, same_ML, form):
    s = jax.lax.dot_general(
        key_MW, query_LW, _CONTRACT_LAST, preferred_element_type=jnp.float32
    )
    return jnp.where(same_ML, s * (form.scale * math.log2(math.e)), _MASKED)


def _keep(drawn, head, together, at, word_column, form):
    flip = drawn[0][head : head + 1, at]
    factor = drawn[0][together + head : together + head + 1, at]
    return dropout.kept(word_column, flip, factor, form.rate)


def _forward_kernel(form, together, blocks, *refs):
    from jax.experimental import pallas as pl

    query, key, value, ids, *drawn, out, lse, ids_column, word_column, turned = refs
    length, width = query.shape
    query_block, key_block = blocks
    _columns(ids, drawn, ids_column, word_column)
    turned[...] = value[...].astype(jnp.float32).T.astype(turned.dtype)

    def block(i, carry):
        at = pl.ds(pl.multiple_of(i * query_block, query_block), query_block)
        query_LW, parts = query[at, :], []
        for head in range(together):
            features = slice(head * form.width, (head + 1) * form.width)

            def step(j, state):
                largest, total, mixed = state
                keys = pl.ds(pl.multiple_of(j * key_block, key_block), key_block)
                same = _wide(ids_column[keys, :], query_block) == ids[:, at]
                scores = _scores(_of_head(key[keys, :], head, form), query_LW, same, form)
                new = jnp.maximum(largest, scores.max(axis=0, keepdims=True))
                probs = jnp.exp2(scores - new)
                fade = jnp.exp2(largest - new)
                total = total * fade + probs.sum(axis=0, keepdims=True)
                if form.rate:
                    words = _wide(word_column[keys, :], query_block)
                    probs = jnp.where(_keep(drawn, head, together, at, words, form), probs, 0.0)
                new_mixed = jax.lax.dot_general(
                    turned[features, keys], probs.astype(value.dtype), _CONTRACT,
                    preferred_element_type=jnp.float32,
                )
                return new, total, mixed * fade + new_mixed

            start = (
                jnp.full((1, query_block), _MASKED, jnp.float32),
                jnp.zeros((1, query_block), jnp.float32),
                jnp.zeros((form.width, query_block), jnp.float32),
            )
            steps = length // key_block
            if steps == 1:
                largest, total, mixed = step(0, start)
            else:
                largest, total, mixed = jax.lax.fori_loop(0, steps, step, start)
            parts.append(mixed / (total * (1 - form.rate)))
            lse[head : head + 1, at] = largest + jnp.log2(total)
        whole = parts[0] if together == 1 else jnp.concatenate(parts, axis=0)
        out[at, :] = whole.T.astype(out.dtype)
        return carry

    n = length // query_block
    jax.lax.fori_loop(0, n, block, None)


def _backward_kernel(form, together, blocks, *refs):
    from jax.experimental import pallas as pl

    query, key, value, ids, *drawn, out, lse, grad = refs[:-8]
    dquery, dkey, dvalue, ids_column, word_column, turned, inner, dturned = refs[-8:]
    length, width = query.shape
    query_block, key_block = blocks
    _columns(ids, drawn, ids_column, word_column)
    turned[...] = key[...].astype(jnp.float32).T.astype(turned.dtype)
    product = (out[...].astype(jnp.float32) * grad[...].astype(jnp.float32)).T
    for head in range(together):
        features = slice(head * form.width, (head + 1) * form.width)
        inner[head : head + 1, :] = product[features].sum(axis=0, keepdims=True) * (1 - form.rate)
    dturned[...] = jnp.zeros_like(dturned)
    back = form.scale / (1 - form.rate)

    def block(j, carry):
        keys = pl.ds(pl.multiple_of(j * key_block, key_block), key_block)
        key_MW, value_MW = key[keys, :], value[keys, :]
        dkeys = dvalues = None
        for head in range(together):
            features = slice(head * form.width, (head + 1) * form.width)
            key_h, value_h = _of_head(key_MW, head, form), _of_head(value_MW, head, form)

            def step(i, state):
                dk, dv = state
                at = pl.ds(pl.multiple_of(i * query_block, query_block), query_block)
                query_LW, grad_LW = query[at, :], grad[at, :]
                same = _wide(ids_column[keys, :], query_block) == ids[:, at]
                scores = _scores(key_h, query_LW, same, form)
                probs = jnp.exp2(scores - lse[head : head + 1, at])
                dprobs = jax.lax.dot_general(
                    value_h, grad_LW, _CONTRACT_LAST, preferred_element_type=jnp.float32
                )
                dropped = probs
                if form.rate:
                    words = _wide(word_column[keys, :], query_block)
                    keep = _keep(drawn, head, together, at, words, form)
                    dropped = jnp.where(keep, probs, 0.0)
                    dprobs = jnp.where(keep, dprobs, 0.0)
                dv = dv + jax.lax.dot_general(
                    dropped.astype(grad.dtype), grad_LW, _CONTRACT,
                    preferred_element_type=jnp.float32,
                )
                dscores = (probs * (dprobs - inner[head : head + 1, at])).astype(query.dtype)
                dk = dk + jax.lax.dot_general(
                    dscores, query_LW, _CONTRACT, preferred_element_type=jnp.float32
                )
                dturned[features, at] += jax.lax.dot_general(
                    turned[features, keys], dscores, _CONTRACT,
                    preferred_element_type=jnp.float32,
                )
                return dk, dv

            zeros = jnp.zeros((key_block, width), jnp.float32)
            steps = length // query_block
            if steps == 1:
                dk, dv = step(0, (zeros, zeros))
            else:
                dk, dv = jax.lax.fori_loop(0, steps, step, (zeros, zeros))
            dk, dv = _of_head(dk, head, form), _of_head(dv, head, form)
            dkeys = dk if dkeys is None else dkeys + dk
            dvalues = dv if dvalues is None else dvalues + dv
        dkey[keys, :] = (dkeys * back).astype(dkey.dtype)
        dvalue[keys, :] = (dvalues * (1 / (1 - form.rate))).astype(dvalue.dtype)
        return carry

    jax.lax.fori_loop(0, length // key_block, block, None)
    dquery[...] = (dturned[...] * back).T.astype(dquery.dtype)


FWD = (128, 512)
BWD = (512, 128)


def _call(form, name, kernel, blocks, arrays, results, scratch, products):
    """arrays: a list of `[B, L, D]`, `[B, 1, L]` or `[B, N, X, L]`."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu as pltpu

    size, length, features = arrays[0].shape
    together = heads_together(form.heads, form.width)
    width = together * form.width

    def spec(x):
        if x.ndim == 4:
            return pl.BlockSpec((None, None, *x.shape[2:]), lambda b, n: (b, n, 0, 0))
        if x.shape[1] == 1 and length != 1:
            return pl.BlockSpec((None, 1, length), lambda b, n: (b, 0, 0))
        return pl.BlockSpec((None, length, width), lambda b, n: (b, 0, n))

    scratch = [pltpu.VMEM(shape, dtype) for shape, dtype in scratch]
    row = 2 * length**2 * features
    return pl.pallas_call(
        functools.partial(kernel, form, together, blocks),
        grid=(size, form.heads // together),
        in_specs=[spec(x) for x in arrays],
        out_specs=[spec(x) for x in results],
        out_shape=results,
        scratch_shapes=scratch,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        cost_estimate=pl.CostEstimate(
            flops=products * row * size,
            transcendentals=size * form.heads * length**2,
            bytes_accessed=sum(x.size * x.dtype.itemsize for x in [*arrays, *results]),
        ),
        interpret=form.interpret,
        name=name,
    )(*arrays)


def _scratch(form, length, dtype):
    width = heads_together(form.heads, form.width) * form.width
    return [
        ((length, LANES), jnp.int32),
        ((length, LANES), jnp.uint32),
        ((width, length), dtype),
    ]


def _forward(form, query, key, value, ids, drawn):
    size, length, _ = query.shape
    together = heads_together(form.heads, form.width)
    stats = jax.ShapeDtypeStruct((size, form.heads // together, together, length), jnp.float32)
    results = [jax.ShapeDtypeStruct(query.shape, query.dtype), stats]
    blocks = min(FWD[0], block_length(length)), min(FWD[1], block_length(length))
    out, lse = _call(
        form, "attention_forward", _forward_kernel, blocks,
        [query, key, value, ids, *drawn], results, _scratch(form, length, query.dtype), 2,
    )
    out, lse = (checkpoint_name(x, RESIDUALS) for x in (out, lse))
    return out, (query, key, value, ids, drawn, out, lse)


def _backward(form, residuals, grad):
    query, key, value, ids, drawn, out, lse = residuals
    length = query.shape[1]
    together = heads_together(form.heads, form.width)
    width = together * form.width
    results = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (query, key, value)]
    blocks = min(BWD[0], block_length(length)), min(BWD[1], block_length(length))
    scratch = _scratch(form, length, query.dtype) + [
        ((together, length), jnp.float32),
        ((width, length), jnp.float32),
    ]
    grads = _call(
        form, "attention_backward", _backward_kernel, blocks,
        [query, key, value, ids, *drawn, out, lse, grad], results, scratch, 5,
    )
    return *grads, None, None


_attention.defvjp(_forward, _backward)
