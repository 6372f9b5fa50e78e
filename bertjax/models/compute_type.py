"""The types in which a model computes on a device: of the factors of products, of hidden states."""

import dataclasses

import jax
import jax.numpy as jnp

from bertjax import config as config_lib
from bertjax import processor
from bertjax.config import rules
from bertjax.models.placement import is_ampere

# Instructions of processors that multiply bfloat16 factors at twice the rate of float32 or more.
_BFLOAT16 = {"amx_bf16", "avx512_bf16"}


def of_hidden(config: config_lib.Model, device: jax.Device) -> jnp.dtype:
    """The type of hidden states, and of the results of products.

    CPUs have instructions for bfloat16 factors with a float32 sum, and for nothing else of
    bfloat16. So on a CPU only factors are rounded.
    """
    return jnp.dtype("float32" if device.platform == "cpu" else config.dtype)


def resolved(config: config_lib.Model, device: jax.Device) -> config_lib.Model:
    """The config with a type in place of `dtype=auto`: bfloat16 if `device` gains by it.

    Processes of a training on CPUs take float32: their processors may differ, their programs may
    not.
    """
    if config.dtype != rules.AUTO:
        return config
    gains = device.platform == "tpu" or is_ampere(device)
    if device.platform == "cpu" and jax.process_count() == 1:
        gains = bool(instructions())
    return dataclasses.replace(config, dtype="bfloat16" if gains else "float32")


def instructions() -> list[str]:
    """The instructions for bfloat16 products that this machine's processor has."""
    return sorted(_BFLOAT16 & processor.flags(processor.cpuinfo()))
