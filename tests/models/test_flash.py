"""Flash attention has the mask of the plain form to the bit, and the results of the plain form.

The kernels run here in JAX's interpreter of kernels; that they compile for TPUs and GPUs is shown
where programs are compiled for them (test_flash_compiled.py, test_flash_gpu_compiled.py).
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from bertjax import config as config_lib
from bertjax import sharding
from bertjax.models import attention, attention_dropout, flash, flash_form

PLATFORMS = ("tpu", "gpu")
INTERPRETED = {
    platform: functools.partial(flash.attention, platform=platform, interpret=True)
    for platform in PLATFORMS
}
RATE = 0.1


def row_keys(rows, seed=5):
    root = jax.random.key(seed, impl="threefry2x32")
    return jax.vmap(jax.random.fold_in, (None, 0))(root, jnp.arange(rows))


def test_one_block_up_to_512_and_then_the_longest_that_divides():
    lengths = (128, 256, 384, 512, 640, 1024, 1152)
    assert [flash_form.block_length(n) for n in lengths] == [128, 256, 384, 512, 128, 512, 384]


@pytest.mark.parametrize(
    ("heads", "width", "group"), [(12, 64, 2), (16, 32, 4), (8, 128, 1), (3, 64, 3), (1, 64, 1)]
)
def test_a_program_takes_heads_that_fill_registers_or_all(heads, width, group):
    assert flash_form.of(128, heads, width, 0.0).group == group


# ---- the mask


def segments(rows, length):
    """Segment ids of packed rows that end in padding."""
    at = np.arange(length)
    ids = 1 + (at > length // 5) + (at > length // 2)
    return np.tile(np.where(at < length - 10, ids, 0), (rows, 1)).astype(np.int32)


def digits(length, width):
    """`[L, K]`: column k holds powers of two at the positions k, k + K, k + 2K ...

    A sum of these numbers, of at most 24 bits, shows which positions were summed.
    """
    at = np.arange(length)
    return np.where(at[:, None] % width == np.arange(width), 2.0 ** (at[:, None] // width), 0)


def read(sums, length):
    """1 for the positions `[..., L]` that were summed, from sums of `digits` `[..., K]`."""
    sums = np.round(np.asarray(sums, np.float64)).astype(np.int64)
    return np.stack(
        [sums[..., m % sums.shape[-1]] >> (m // sums.shape[-1]) & 1 for m in range(length)], -1
    )


@functools.partial(jax.jit, static_argnums=(2, 3))
def masks(words, ids, width, platform):
    """What the kernels keep, `mixed` and `dvalue`: every score is 0, and values are `digits`."""
    size, heads, length = words[0].shape
    zeros = jnp.zeros((size, length, heads, width))
    values = zeros + jnp.asarray(digits(length, width))[None, :, None]
    mixed, gradients = jax.vjp(
        lambda value: INTERPRETED[platform](zeros, zeros, value, ids, *words, rate=RATE), values
    )
    return mixed, gradients(values)[0]


MASKS = list(itertools.product(PLATFORMS, (2, 12, 16), (128, 256, 384, 512, 1024)))
MASKS += [("gpu", 2, 64)]
QUICK_MASKS = [("tpu", 2, 128), ("tpu", 2, 1024), ("gpu", 2, 64), ("gpu", 1, 192)]


@pytest.mark.parametrize(
    ("platform", "heads", "length"),
    QUICK_MASKS
    + [pytest.param(*case, marks=pytest.mark.slow) for case in MASKS if case not in QUICK_MASKS],
)
def test_the_mask_is_the_plain_forms_to_the_bit(platform, heads, length):
    """In the forward and in the backward kernel, in packed rows."""
    rows, width = 1, 64
    ids, keys = segments(rows, length), row_keys(rows)
    same = (ids[:, :, None] == ids[:, None, :])[:, None]
    ones = jnp.ones((rows, heads, length, length))
    expected = np.asarray(attention_dropout.dropout(ones, RATE, keys) != 0) & same
    words = attention_dropout.draw(keys, (rows, heads, length))
    mixed, dvalue = masks(words, ids, width, platform)
    # Equal scores: a probability is 1 over the number of tokens that are seen.
    seen = same.sum(-1)[:, 0, :, None, None] * (1 - RATE)
    kept_BLHM = read(mixed * seen, length)
    np.testing.assert_array_equal(kept_BLHM.swapaxes(1, 2), expected)
    if length <= 192:  # queries of one segment, and their probabilities, are those that keys see
        kept_BMHL = read(dvalue * seen, length)
        np.testing.assert_array_equal(kept_BMHL.transpose(0, 2, 3, 1), expected)


# ---- the results of the kernels


def example(shape, dtype, *, packed):
    """`(arrays, batch)`: query, key, value and a cotangent `[B, L, H, K]`; rows end in padding."""
    rng = np.random.default_rng(sum(shape))
    arrays = [jnp.asarray(rng.standard_normal(shape), dtype) for _ in range(4)]
    rows, length = shape[:2]
    at_BL = np.arange(length)[None]
    real_BL = at_BL < rng.integers(length // 2, length, (rows, 1))
    names = ("input_ids", "attention_mask") + ("segment_ids",) * packed
    batch = dict.fromkeys(names, real_BL.astype(np.int32))
    if packed:
        batch["segment_ids"] = real_BL * (1 + (at_BL > length // 5) + (at_BL > length // 2))
    return arrays, jax.tree.map(lambda x: jnp.asarray(x, jnp.int32), batch)


def values_and_gradients(attend, arrays, batch):
    """The output of `attend` for real tokens, and gradients of its product with the cotangent."""
    *qkv, cotangent_BLHK = arrays
    real_BL11 = batch["attention_mask"][..., None, None]

    def product(*qkv):
        mixed_BLHK = attend(*qkv).astype(jnp.float32) * real_BL11
        return jnp.sum(mixed_BLHK * cotangent_BLHK.astype(jnp.float32)), mixed_BLHK

    (_, mixed_BLHK), grads = jax.jit(jax.value_and_grad(product, argnums=(0, 1, 2), has_aux=True))(
        *qkv
    )
    return mixed_BLHK, *grads


def plain(arrays, batch, rate):
    """The plain form in float32, whatever the type of the arrays."""
    arrays = [x.astype(jnp.float32) for x in arrays]
    mask_BLM = attention.attention_mask(batch)
    keys = row_keys(len(mask_BLM))
    attend = functools.partial(
        attention.xla_attention, mask_BLM=mask_BLM, factors="float32", rate=rate, dropout_key=keys
    )
    return values_and_gradients(attend, arrays, batch)


def fused(arrays, batch, rate, kernel):
    size, length, heads, _ = arrays[0].shape
    ids = batch.get("segment_ids", batch["attention_mask"])

    def attend(*qkv):
        words = attention_dropout.draw(row_keys(size), (size, heads, length)) if rate else ()
        return kernel(*qkv, ids, *words, rate=rate)

    return values_and_gradients(attend, arrays, batch)


def assert_equal(found, expected, tolerance):
    """Asserts equality up to `tolerance` times the largest value of each array."""
    for a, b in zip(found, expected, strict=True):
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        assert np.abs(a - b).max() <= tolerance * np.abs(b).max()


SHAPES = [(128, 2, 64), (128, 3, 32), (256, 2, 64), (384, 2, 64), (512, 2, 64), (1024, 1, 64)]
# Any two of packing, type and rate meet in every combination.
FORMS = [
    (True, "float32", RATE),
    (False, "bfloat16", RATE),
    (True, "bfloat16", 0.0),
    (False, "float32", 0.0),
]
CASES = [(*where, *form) for where in itertools.product(PLATFORMS, SHAPES) for form in FORMS]
QUICK = [
    ("tpu", SHAPES[0], True, "float32", RATE),
    ("tpu", SHAPES[0], False, "bfloat16", RATE),
    ("tpu", SHAPES[1], False, "float32", 0.0),
    ("gpu", SHAPES[0], False, "bfloat16", RATE),  # all queries of a row in one program
    ("gpu", (192, 1, 64), True, "float32", RATE),  # three programs
    ("gpu", (64, 3, 32), False, "float32", 0.0),
]


@pytest.mark.parametrize(
    ("platform", "shape", "packed", "dtype", "rate"),
    QUICK + [pytest.param(*case, marks=pytest.mark.slow) for case in CASES if case not in QUICK],
)
def test_flash_is_the_plain_form_with_its_gradients(platform, shape, packed, dtype, rate):
    """bfloat16 keeps 8 bits: one rounding of a result is 0.4% of it.

    float32 sums over 256 keys and more, taken in another order, differ by up to 1.3e-6.
    """
    length, heads, width = shape
    tolerance = {"float32": 1e-6 if length <= 128 else 2e-6, "bfloat16": 1e-2}[dtype]
    arrays, batch = example((2, length, heads, width), dtype, packed=packed)
    found = fused(arrays, batch, rate, INTERPRETED[platform])
    assert all(x.dtype == dtype for x in found[1:])
    assert_equal(found, plain(arrays, batch, rate), tolerance)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_row_of_padding_alone_is_finite_and_has_no_gradient(platform):
    arrays, batch = example((1, 128, 2, 64), jnp.float32, packed=False)
    batch = jax.tree.map(jnp.zeros_like, batch)
    for x in fused(arrays, batch, RATE, INTERPRETED[platform]):
        np.testing.assert_array_equal(x, jnp.zeros_like(x))


MESHES = list(itertools.product(PLATFORMS, [(2, 2, 2), (1, 1, 1), (8, 1, 1), (1, 8, 1), (1, 1, 2)]))
QUICK_MESHES = [("tpu", (2, 2, 2)), ("gpu", (2, 2, 2))]
NAMES = ("heads", "heads", "heads", "ids", "query_words", "query_words", "ids")


@pytest.mark.parametrize(
    ("platform", "mesh"),
    QUICK_MESHES
    + [pytest.param(*case, marks=pytest.mark.slow) for case in MESHES if case not in QUICK_MESHES],
)
def test_every_mesh_computes_the_same(platform, mesh):
    """The heads of a `tensor` shard drop what they drop among all heads."""
    devices = jax.devices()[: np.prod(mesh)]
    placement = sharding.Placement(sharding.make_mesh(config_lib.Mesh(*mesh), devices))
    arrays, batch = example((8, 128, 2, 16), jnp.float32, packed=True)

    def kernel(*arrays, rate):
        attend = functools.partial(INTERPRETED[platform], rate=rate)
        return placement.per_shard(attend, NAMES)(*arrays)

    assert_equal(fused(arrays, batch, RATE, kernel), plain(arrays, batch, RATE), 1e-6)


MAPPED = list(itertools.product(PLATFORMS, [("data",), ("data", "fsdp")]))
QUICK_MAPPED = [("tpu", ("data",))]


@pytest.mark.parametrize(
    ("platform", "mapped"),
    QUICK_MAPPED
    + [pytest.param(*case, marks=pytest.mark.slow) for case in MAPPED if case not in QUICK_MAPPED],
)
def test_mapped_over_axes_of_the_batch_it_computes_the_same(platform, mapped):
    """As micro-batches are: `vmap` over what these split, `shard_map` over the other axes."""
    placement = sharding.Placement(sharding.make_mesh(config_lib.Mesh(2, 2, 2), jax.devices()))
    arrays, batch = example((4, 128, 2, 16), jnp.float32, packed=True)

    def kernel(*arrays, rate):
        inside = placement.within(mapped)
        attend = inside.per_shard(functools.partial(INTERPRETED[platform], rate=rate), NAMES)
        parts = [x.reshape(2 ** len(mapped), -1, *x.shape[1:]) for x in arrays]
        mixed = jax.vmap(attend, spmd_axis_name=mapped)(*parts)
        return mixed.reshape(arrays[0].shape)

    assert_equal(fused(arrays, batch, RATE, kernel), plain(arrays, batch, RATE), 1e-6)


def test_a_device_draws_for_its_rows_and_heads_alone():
    placement = sharding.Placement(sharding.make_mesh(config_lib.Mesh(2, 2, 2), jax.devices()))
    arrays, batch = example((8, 128, 2, 16), jnp.float32, packed=True)
    kernel = functools.partial(INTERPRETED["tpu"], rate=RATE)

    def attend(query, key, value, keys):
        words = attention_dropout.draw(keys, (8, 2, 128))
        mixed = placement.per_shard(kernel, NAMES)(query, key, value, batch["segment_ids"], *words)
        return placement("heads", mixed)

    placed = [
        jax.device_put(x, NamedSharding(placement.mesh, placement.spec("heads")))
        for x in arrays[:3]
    ]
    keys = jax.device_put(row_keys(8), sharding.batch_sharding(placement.mesh))
    text = jax.jit(attend).lower(*placed, keys).compile().as_text()
    assert "all-gather" not in text
    assert "all-to-all" not in text


@pytest.mark.parametrize("length", [128, 192])
def test_a_gpus_kernels_add_biases(length):
    """Of a whole row and of blocks; the gradients of biases are sums over rows and tokens."""
    heads, width = 2, 16
    arrays, batch = example((2, length, heads, width), jnp.float32, packed=True)
    biases = jax.random.normal(jax.random.key(2), (3, heads, width))
    words = attention_dropout.draw(row_keys(2), (2, heads, length))

    def inside(products, biases):
        kernel = functools.partial(INTERPRETED["gpu"], biases=tuple(biases), rate=RATE)
        return kernel(*products, batch["segment_ids"], *words)

    def outside(products, biases):
        biased = attention.biased(products, tuple(biases))
        return INTERPRETED["gpu"](*biased, batch["segment_ids"], *words, rate=RATE)

    found, expected = (
        (mixed, *pull(arrays[3]))
        for mixed, pull in (jax.vjp(f, tuple(arrays[:3]), biases) for f in (inside, outside))
    )
    for mine, reference in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        atol = 1e-6 * max(np.abs(reference).max(), 1)
        np.testing.assert_allclose(mine, reference, atol=atol, rtol=1e-5)
