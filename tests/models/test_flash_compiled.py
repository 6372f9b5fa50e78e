"""Flash attention compiled by the TPU's own compiler, for chips that this machine lacks.

Opt-in (`make test-compiled`): needs libtpu.
"""

import functools
import importlib.util

import jax
import jax.numpy as jnp
import pytest

from bertjax.models import attention_dropout, flash
from bertjax.plan import hlo, hlo_cost, topology

pytestmark = [
    pytest.mark.tpu_compiler,
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None,
        reason="needs the TPU compiler: pip install 'bertjax[tpu]'",
    ),
]
ROWS, WIDTH, RATE = 8, 64, 0.1


def compiled(name, length, heads=12, dtype=jnp.bfloat16):
    """The forward and backward pass for one chip, on arrays in the layers' form: `[B, L, D]`."""
    chip = jax.sharding.SingleDeviceSharding(topology.devices(name)[0])
    array = functools.partial(jax.ShapeDtypeStruct, sharding=chip)

    def attend(arrays, ids, keys):
        words = attention_dropout.draw(keys, (ROWS, heads, length))
        heads_of = [x.reshape(ROWS, length, heads, WIDTH) for x in arrays]
        return flash.attention(*heads_of, ids, *words, rate=RATE).reshape(arrays[0].shape)

    def both(arrays, ids, keys, cotangent):
        mixed, gradients = jax.vjp(lambda arrays: attend(arrays, ids, keys), arrays)
        return mixed, gradients(cotangent)

    x = array((ROWS, length, heads * WIDTH), dtype)
    keys = array((ROWS,), jax.eval_shape(lambda: jax.random.key(0, impl="threefry2x32")).dtype)
    program = jax.jit(both).lower([x] * 3, array((ROWS, length), jnp.int32), keys, x).compile()
    return hlo.Program(program.as_text())


@pytest.mark.parametrize("length", [128, 256, 384, 512, 1024])
@pytest.mark.parametrize("name", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
def test_every_generation_compiles_every_length(name, length):
    program = compiled(name, length)
    kernels = [
        (computation, instruction)
        for computation, instruction, _ in program.executed()
        if instruction.opcode == "custom-call" and hlo_cost.flops(program, computation, instruction)
    ]
    assert len(kernels) == 2
    products = 2 * ROWS * length**2 * 12 * WIDTH
    assert hlo_cost.total_flops(program) == (2 + 5) * products
    # Heads of 64 features lie side by side: no array is padded to 128 or transposed.
    for _, kernel in kernels:
        assert (ROWS, length, 12 * WIDTH) in [array.dims for array in kernel.results]
    opcodes = {instruction.opcode for _, instruction, _ in program.executed()}
    assert "transpose" not in opcodes


@pytest.mark.parametrize(
    ("length", "heads", "dtype"), [(2048, 12, jnp.bfloat16), (512, 3, jnp.float32)]
)
def test_the_smallest_memory_holds_longer_rows_and_odd_numbers_of_heads(length, heads, dtype):
    """v4 has the smallest memory, 16 MB. A `tensor` shard may have three heads."""
    compiled("v4:2x2x1", length, heads, dtype)
