"""Flash attention for TPUs and GPUs, with dropout of probabilities: scores never reach HBM.

The kernels are in `flash_tpu` and `flash_gpu`; this file calls them. docs/explanations/attention_kernel.md
explains both.
The plain form is `attention.xla_attention`, whose mask is the same to the bit.

Shape suffixes: B batch, L length, H heads, K head dim, D features of all heads, N groups of heads,
G heads of a group.
"""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from bertjax.models import flash_form
from bertjax.models.attention_dropout import Words
from bertjax.models.flash_form import Form

RESIDUALS = "attention_residuals"  # what remat policies know the kernel's results by


def attention(
    query_BLHK: jax.Array,
    key_BLHK: jax.Array,
    value_BLHK: jax.Array,
    ids_BL: jax.Array,
    *words: jax.Array,
    biases: tuple[jax.Array, ...] = (),
    rate: float = 0.0,
    platform: str = "tpu",
    interpret: bool = False,
) -> jax.Array:
    """Softmax attention in which tokens of equal ids see each other: `[B, L, H, K]`.

    Scores, softmax and dropout are float32. With a mask of 0 and 1 for ids, padding sees padding,
    which no real token sees. In plain JAX, for `M` keys:

        probs_BHLM = softmax(where(ids_BL == ids_BM, query @ key / sqrt(K), -inf))
        mixed_BLHK = dropout(probs_BHLM, rate) @ value

    Args:
      words: those of `attention_dropout.draw`; none where nothing is dropped.
      biases: of queries, keys and values `[H, K]`, which a GPU's kernels add to them; or none.
      platform: whose kernels: `tpu` or `gpu`.
      interpret: run by JAX's interpreter of kernels, on any device and slowly, for tests.
    """
    size, length, heads, width = query_BLHK.shape
    rate, itemsize = rate if words else 0.0, query_BLHK.dtype.itemsize
    form = flash_form.of(length, heads, width, rate, platform, interpret, itemsize)
    arrays = {
        name: x.reshape(size, length, heads * width)
        for name, x in (("query", query_BLHK), ("key", key_BLHK), ("value", value_BLHK))
    }
    for name, bias_HK in zip(("query", "key", "value"), biases, strict=False):
        arrays[f"{name}_bias"] = bias_HK.reshape(-1)
    rows = {"ids": ids_BL[:, None, :]}
    if form.rate:
        drawn = Words(*words)
        grouped = (size, heads // form.group, form.group, length)
        rows["flips"], rows["factors"] = (x.reshape(grouped) for x in drawn[:2])
        rows["words"] = drawn.keys[:, None, :]
    return _attention(form, arrays, rows).reshape(query_BLHK.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(form: Form, arrays: dict, rows: dict) -> jax.Array:
    """`mixed [B, L, D]` of `query`, `key` and `value` `[B, L, D]`, and their biases `[D]`.

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
    size, _, features = gradient_BLD.shape
    sums = jax.ShapeDtypeStruct((size, form.blocks, features), jnp.float32)  # of each program
    shapes = {
        name: sums if x.ndim == 1 else jax.ShapeDtypeStruct(x.shape, x.dtype)
        for name, x in arrays.items()
    }
    found = _call("backward", form, inputs, shapes)
    of_biases = {
        name: found[name].sum(axis=(0, 1)).astype(x.dtype)
        for name, x in arrays.items()
        if x.ndim == 1
    }
    return found | of_biases, None


_attention.defvjp(_forward, _backward)


def _call(kernel: str, form: Form, inputs: dict, results: dict) -> dict:
    """Runs a platform's kernel, whose import takes a third of a second."""
    if form.platform == "gpu":
        from bertjax.models import flash_gpu

        return flash_gpu.call(kernel, form, inputs, results)
    from bertjax.models import flash_tpu

    return flash_tpu.call(kernel, form, inputs, results)
