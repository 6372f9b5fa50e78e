"""Flash attention compiled by the TPU's own compiler, for chips that this machine lacks.

Opt-in (`make test-compiled`): needs libtpu.
"""

import importlib.util

import jax.numpy as jnp
import pytest
from compiled_attention import HEADS, ROWS, WIDTH, calls, compiled

from bertjax.plan import hlo_cost

pytestmark = [
    pytest.mark.tpu_compiler,
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None,
        reason="needs the TPU compiler: pip install 'bertjax[tpu]'",
    ),
]


@pytest.mark.parametrize("length", [128, 256, 384, 512, 1024])
@pytest.mark.parametrize("name", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
def test_every_generation_compiles_every_length(name, length):
    program = compiled(name, length)
    kernels = calls(program)
    assert len(kernels) == 2
    products = 2 * ROWS * length**2 * HEADS * WIDTH
    assert hlo_cost.total_flops(program) == (2 + 5) * products
    # Heads of 64 features lie side by side: nothing is padded to 128, and nothing is transposed.
    for kernel in kernels:
        assert (ROWS, length, HEADS * WIDTH) in [array.dims for array in kernel.results]
    opcodes = {instruction.opcode for _, instruction, _ in program.executed()}
    assert "transpose" not in opcodes


@pytest.mark.parametrize(
    ("length", "heads", "dtype"), [(2048, 12, jnp.bfloat16), (512, 3, jnp.float32)]
)
def test_the_smallest_memory_holds_longer_rows_and_odd_numbers_of_heads(length, heads, dtype):
    """v4 has the smallest memory, 16 MB. A `tensor` shard may have three heads."""
    compiled("v4:2x2x1", length, heads, dtype)
