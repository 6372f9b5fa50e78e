"""Flash attention as XLA's compiler makes it for NVIDIA GPUs that are not there."""

import importlib.util

import jax.numpy as jnp
import pytest
from compiled_attention import HEADS, ROWS, WIDTH, calls, compiled

from bertjax.plan import hlo_cost

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("jax_plugins") is None
    or importlib.util.find_spec("jax_plugins.xla_cuda12") is None,
    reason="needs the CUDA compiler: pip install 'bertjax[cuda]'",
)


@pytest.mark.parametrize(
    ("name", "length"),
    [("h100", 64), ("h100", 128), ("h100", 192), ("h100", 512), ("h100", 2048)]
    + [(name, length) for name in ("a100", "b200") for length in (128, 512)],
)
def test_every_generation_compiles_every_length(name, length):
    program = compiled(name, length)
    kernels = calls(program)
    assert len(kernels) == 2
    products = 2 * ROWS * length**2 * HEADS * WIDTH
    assert hlo_cost.total_flops(program) == (2 + (5 if length <= 128 else 7)) * products
    opcodes = {instruction.opcode for _, instruction, _ in program.executed()}
    assert "transpose" not in opcodes
    # Arrays of all heads: queries, keys, values, their mixture and gradients, as layers have them.
    moved = ROWS * length * HEADS * WIDTH * 2 * (4 + 8)
    small = ROWS * length * (HEADS * 4 * (2 + 2 + 2) + 4 * (2 + 2))
    found = sum(
        hlo_cost.hbm_bytes(program, program.computations[program.entry], k) for k in kernels
    )
    assert found == moved + small


@pytest.mark.slow
@pytest.mark.parametrize("length", [128, 512])
@pytest.mark.parametrize(
    ("name", "width", "dtype"),
    [("a100", width, jnp.bfloat16) for width in (16, 32)]
    + [("a100", 64, jnp.float32), ("h100", 64, jnp.float32)],
)
def test_every_width_and_type_compiles(name, width, dtype, length):
    """None wants more shared memory than there is."""
    assert len(calls(compiled(name, length, 3, dtype, width))) == 2
