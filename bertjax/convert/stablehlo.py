"""Models out to StableHLO: a program for cpu, cuda and tpu that needs JAX and nothing of bertjax.

Two files, the program and its weights. Weights inside the program would be constants: hundreds of
megabytes to parse, to hash and to fold at every compilation. To use them:

    import jax, numpy as np, safetensors.numpy
    model = jax.export.deserialize(bytearray(open("model.stablehlo", "rb").read()))
    params = jax.device_put(safetensors.numpy.load_file("model.stablehlo.safetensors"))
    batch = {"input_ids": np.array([[101, 7592, 102]]), "attention_mask": np.ones((1, 3), int)}
    outputs = jax.jit(model.call)(params, batch)
"""

import dataclasses
from pathlib import Path

import numpy as np

from bertjax import config as config_lib
from bertjax.convert import names
from bertjax.convert.pretrained import Pretrained

PLATFORMS = ("cpu", "cuda", "tpu")


def write(pretrained: Pretrained, path: Path):
    """PATH, the serialized `jax.export` program, and PATH.safetensors, its weights.

    The program takes `(params, batch)`: the flat dict of the weights file (`blocks/query/kernel`
    and so on, the vocabulary as published) and a dict of int32 or int64 arrays of any batch and
    length, and gives a dict. The names and shapes of inputs and outputs are those of
    `convert.onnx`. It computes in float32 without dropout, at the platform's default precision of
    matrix products, as `models.apply` does.
    """
    import jax
    import safetensors.numpy

    model = dataclasses.replace(
        pretrained.config.model, dtype="float32", attention="xla", remat="none"
    )
    weights = {}
    for name in names.shapes(model):
        array = np.asarray(names.lookup(pretrained.params, name), np.float32)
        weights[name] = array[: model.vocab_size] if name in names.VOCAB_ROWS else array
    ...
