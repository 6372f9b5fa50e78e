"""Attention kernels on a GPU against the plain form: values, gradients, dropped probabilities, time.

Rows end in padding, some are padding alone. Device memory is filled with NaN first, so that what a
kernel leaves unwritten shows. Figures of values are the largest difference, relative to the largest
value of the plain form in float32, for a kernel and for the plain form in bfloat16; with dropout all
have the same keys. The masks of flash are compared with the plain form's to the bit. Times are of
forward and backward pass together, kernels alternating.

    python -m benchmarks.gpu_attention
"""

import functools
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from bertjax.models import attention, attention_dropout, flash

SHAPES = ((32, 128, 12, 64), (16, 512, 16, 64), (8, 192, 12, 64), (4, 2048, 12, 32))
TIMED = ((256, 128, 12, 64), (32, 512, 16, 64), (8, 2048, 16, 64))  # BERT Base, Large, longer rows
RATE = 0.1


def poison():
    """Leaves NaN in most of the memory that the allocator hands out next."""
    jax.block_until_ready([jnp.full((1 << 28,), jnp.nan, jnp.bfloat16) for _ in range(8)])


def row_keys(rows):
    root = jax.random.key(5, impl="threefry2x32")
    return jax.vmap(jax.random.fold_in, (None, 0))(root, jnp.arange(rows))


def example(shape, packed: bool):
    """`(arrays [B, L, H, K], batch)`."""
    rng = np.random.default_rng(sum(shape))
    rows, length = shape[:2]
    arrays = [rng.standard_normal(shape).astype(np.float32) for _ in range(4)]
    ends = rng.integers(length // 3, length + 1, rows)
    ends[:2] = 0, length
    mask_BL = (np.arange(length) < ends[:, None]).astype(np.int32)
    batch = {"attention_mask": mask_BL, "input_ids": mask_BL}
    if packed:
        batch["segment_ids"] = mask_BL * (1 + (np.arange(length) > length // 4))
    return arrays, jax.tree.map(jnp.asarray, batch)


def values_and_gradients(attend, batch):
    """`(query, key, value, cotangent) -> (mixed, gradients)`, compiled.

    The loss reads real tokens, gradients are of all.
    """
    real_BL11 = batch["attention_mask"][..., None, None]

    def loss(query, key, value, cotangent):
        mixed = attend(query, key, value, batch)
        return jnp.sum((mixed * cotangent * real_BL11).astype(jnp.float32)), mixed

    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))
    return lambda *arrays: (lambda out: (out[0][1], *out[1]))(run(*arrays))


def plain(rate, query, key, value, batch):
    mask_BLM, keys = attention.attention_mask(batch), row_keys(len(query))
    return attention.xla_attention(query, key, value, mask_BLM, rate=rate, dropout_key=keys)


def fused(rate, query, key, value, batch):
    rows, length, heads, _ = query.shape
    ids = batch.get("segment_ids", batch["attention_mask"])
    words = attention_dropout.draw(row_keys(rows), (rows, heads, length)) if rate else ()
    return flash.attention(query, key, value, ids, *words, rate=rate, platform="gpu")


def mapped(attend, query, key, value, batch):
    """The attention as the train step calls it: under `vmap` over the mesh's `data` axis."""
    parts = jax.tree.map(lambda x: x[None], (query, key, value, batch))
    return jax.vmap(attend)(*parts)[0]


def kernels(rate):
    """`{name: attention of (query, key, value, batch)}` of all that drop at this rate."""
    found = {f.__name__: functools.partial(f, rate) for f in (fused, plain)}
    if not rate:
        found["cudnn"] = attention.cudnn_attention
    return found


def compare_values():
    print(
        "| shape | rows | rate | mixed | d query | d key | d value | not finite |\n|" + "---|" * 8
    )
    for shape in SHAPES:
        for packed, rate in ((False, 0.0), (False, RATE), (True, 0.0), (True, RATE)):
            arrays, batch = example(shape, packed)
            with jax.default_matmul_precision("float32"):
                reference = values_and_gradients(functools.partial(plain, rate), batch)(*arrays)
            reference = [np.asarray(x, np.float32) for x in reference]
            real = np.asarray(batch["attention_mask"], bool)
            found = kernels(rate)
            found |= {f"{n}, mapped": functools.partial(mapped, f) for n, f in found.items()}
            for name, attend in found.items():
                for dtype in ("bfloat16",) if "cudnn" in name else ("float32", "bfloat16"):
                    rows = ("packed" if packed else "padded") + f" | {rate}"
                    line = _differences(attend, arrays, batch, dtype, reference, real)
                    print(f"| {shape}, {name}, {dtype} | {rows} | {line} |", flush=True)


def _differences(attend, arrays, batch, dtype, reference, real):
    run = values_and_gradients(attend, batch)
    arrays = [jnp.asarray(x, dtype) for x in arrays]
    with jax.default_matmul_precision("float32"):
        jax.block_until_ready(run(*arrays))
        poison()
        found = [np.asarray(x, np.float32) for x in run(*arrays)]
    errors = [
        np.abs(f - r)[real].max() / np.abs(r).max() for f, r in zip(found, reference, strict=True)
    ]
    bad = sum(int((~np.isfinite(f)).sum()) for f in found)
    tails = max(float(np.abs(f[~real]).max()) for f in found[1:])
    errors = " | ".join(f"{e:.1e}" for e in errors)
    return f"{errors} | {bad} (gradients of padding: up to {tails:.1e})"


def count_mask_differences(shape, dtype):
    """Scores whose mask differs from the plain form's, in the forward and in the backward kernel.

    Scores are 0, and values (and gradients) are 1 at one feature for each of K tokens at a time:
    what is not 0 of the result was kept.
    """
    rows, length, heads, width = shape
    zeros, ids = jnp.zeros(shape, dtype), jnp.ones((rows, length), jnp.int32)
    words = attention_dropout.draw(row_keys(rows), (rows, heads, length))

    @jax.jit
    def kept(start):
        at = jnp.arange(length)[:, None] - start == jnp.arange(width)
        ones = jnp.broadcast_to(at[None, :, None], shape).astype(dtype)
        attend = functools.partial(flash.attention, rate=RATE, platform="gpu")
        mixed, back = jax.vjp(lambda value: attend(zeros, zeros, value, ids, *words), ones)
        return mixed != 0, back(ones)[0] != 0

    parts = [kept(start) for start in range(0, length, width)]
    by_key, by_query = (np.concatenate(x, -1) for x in zip(*parts, strict=True))
    everything = jnp.ones((rows, heads, length, length))
    expected = np.asarray(attention_dropout.dropout(everything, RATE, row_keys(rows)) != 0)
    forward = (by_key.transpose(0, 2, 1, 3) != expected).sum()
    backward = (by_query.transpose(0, 2, 3, 1) != expected).sum()
    return int(forward), int(backward), expected.size


def compare_masks():
    print("| shape | type | scores | other masks: forward, backward |\n|" + "---|" * 4)
    for shape in SHAPES:
        for dtype in ("float32", "bfloat16"):
            forward, backward, scores = count_mask_differences(shape, dtype)
            print(f"| {shape} | {dtype} | {scores:,} | {forward}, {backward} |", flush=True)


def compare_times(rounds=15):
    print("| shape, bfloat16 | rate | kernel | ms, least | median |\n|" + "---|" * 5)
    for shape in TIMED:
        arrays, batch = example(shape, packed=False)
        arrays = [jnp.asarray(x, jnp.bfloat16) for x in arrays]
        for rate in (RATE, 0.0):
            runs = {name: values_and_gradients(f, batch) for name, f in kernels(rate).items()}
            seconds = {name: [] for name in runs}
            for _ in range(rounds + 2):
                for name, run in runs.items():
                    jax.block_until_ready(arrays)
                    started = time.perf_counter()
                    jax.block_until_ready([run(*arrays) for _ in range(5)])
                    seconds[name].append((time.perf_counter() - started) / 5)
            for name, found in seconds.items():
                least, median = min(found[2:]), statistics.median(found[2:])
                print(
                    f"| {shape} | {rate} | {name} | {1e3 * least:.3f} | {1e3 * median:.3f} |",
                    flush=True,
                )


def main():
    if jax.devices()[0].platform != "gpu":
        sys.exit("skipped: needs an NVIDIA GPU")
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}")
    compare_masks()
    compare_values()
    compare_times()


if __name__ == "__main__":
    main()
