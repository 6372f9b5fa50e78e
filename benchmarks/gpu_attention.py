"""cuDNN attention on a GPU against the plain form: values, gradients, and results in padding.

Rows end in padding; some rows are padding alone. Device memory is filled with NaN first, so that
values that a kernel does not write are visible. Figures are the largest difference, relative to the
largest value of the plain form in float32, for the kernel and for the plain form in bfloat16.

    python -m benchmarks.gpu_attention
"""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np

from bertjax.models import attention

SHAPES = ((32, 128, 12, 64), (16, 512, 16, 64), (8, 200, 12, 64))


def poison():
    """Leaves NaN in most of the memory that the allocator hands out next."""
    jax.block_until_ready([jnp.full((1 << 28,), jnp.nan, jnp.bfloat16) for _ in range(8)])


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


def values_and_gradients(attend, arrays, batch, dtype):
    """`(mixed, dquery, dkey, dvalue)`, float32; the loss reads real tokens, gradients all."""
    *qkv, cotangent = (jnp.asarray(x, dtype) for x in arrays)
    real_BL11 = batch["attention_mask"][..., None, None]

    def loss(query, key, value):
        mixed = attend(query, key, value, batch)
        return jnp.sum((mixed * cotangent * real_BL11).astype(jnp.float32)), mixed

    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))
    compiled = run.lower(*qkv).compile()
    poison()
    (_, mixed), grads = compiled(*qkv)
    return [np.asarray(x, np.float32) for x in (mixed, *grads)]


def plain(query, key, value, batch):
    mask_BLM = attention.attention_mask(batch)
    return attention.xla_attention(query, key, value, mask_BLM, rate=0.0, dropout_key=None)


def mapped(attend, query, key, value, batch):
    """The attention as the train step calls it: under `vmap` over the mesh's `data` axis."""
    parts = jax.tree.map(lambda x: x[None], (query, key, value, batch))
    return jax.vmap(attend)(*parts)[0]


def main():
    if jax.devices()[0].platform != "gpu":
        sys.exit("skipped: needs an NVIDIA GPU")
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}")
    print("| shape | rows | mixed | d query | d key | d value | not finite |\n|" + "---|" * 7)
    for shape in SHAPES:
        for packed in (False, True):
            arrays, batch = example(shape, packed)
            reference = values_and_gradients(plain, arrays, batch, jnp.float32)
            real = np.asarray(batch["attention_mask"], bool)
            for name, attend in (
                ("cudnn", attention.cudnn_attention),
                ("cudnn, mapped", functools.partial(mapped, attention.cudnn_attention)),
                ("plain", plain),
            ):
                found = values_and_gradients(attend, arrays, batch, jnp.bfloat16)
                errors = [
                    np.abs(f - r)[real].max() / np.abs(r).max()
                    for f, r in zip(found, reference, strict=True)
                ]
                errors = " | ".join(f"{e:.1e}" for e in errors)
                bad = sum(int((~np.isfinite(f)).sum()) for f in found)
                tails = [float(np.abs(f[~real]).max()) for f in found[1:]]
                rows = "packed" if packed else "padded"
                print(
                    f"| {shape}, {name} | {rows} | {errors} | {bad} "
                    f"(gradients of padding: up to {max(tails):.1e}) |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
