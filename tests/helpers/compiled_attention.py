"""Flash attention compiled for a device that is not there."""

import functools

import jax
import jax.numpy as jnp

from bertjax import config as config_lib
from bertjax import sharding
from bertjax.models import attention_dropout, flash
from bertjax.plan import hlo, hlo_cost, topology

ROWS, HEADS, WIDTH, RATE = 8, 12, 64, 0.1
NAMES = ("heads", "heads", "heads", "ids", "query_words", "query_words", "ids")


def compiled(name, length, heads=HEADS, dtype=jnp.bfloat16, width=WIDTH):
    """Forward and backward pass on one device, of arrays as layers have them: `[B, L, D]`."""
    mesh = sharding.make_mesh(config_lib.Mesh(), topology.devices(name)[:1])
    placement = sharding.Placement(mesh)
    kernel = functools.partial(flash.attention, rate=RATE, platform=placement.device.platform)
    array = functools.partial(jax.ShapeDtypeStruct, sharding=sharding.batch_sharding(mesh))

    def attend(arrays, ids, keys):
        words = attention_dropout.draw(keys, (ROWS, heads, length))
        heads_of = [x.reshape(ROWS, length, heads, width) for x in arrays]
        mixed = placement.per_shard(kernel, NAMES)(*heads_of, ids, *words)
        return mixed.reshape(arrays[0].shape)

    def both(arrays, ids, keys, cotangent):
        mixed, gradients = jax.vjp(lambda arrays: attend(arrays, ids, keys), arrays)
        return mixed, gradients(cotangent)

    x = array((ROWS, length, heads * width), dtype)
    keys = array((ROWS,), jax.eval_shape(lambda: jax.random.key(0, impl="threefry2x32")).dtype)
    program = jax.jit(both).lower([x] * 3, array((ROWS, length), jnp.int32), keys, x).compile()
    return hlo.Program(program.as_text())


def calls(program):
    """Instructions that run a kernel which declares its FLOPs."""
    return [
        instruction
        for computation, instruction, _ in program.executed()
        if instruction.opcode == "custom-call" and hlo_cost.flops(program, computation, instruction)
    ]
