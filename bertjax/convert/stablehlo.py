"""Exports models to StableHLO: a program for cpu, cuda and tpu that runs without bertjax.

An export is two files, the program and its weights. Inside the program the weights would be
constants, hundreds of megabytes to parse and to fold at every compilation. To run an export:

    import jax, safetensors.numpy
    program = jax.export.deserialize(bytearray(open("bert.stablehlo", "rb").read()))
    params = jax.device_put(safetensors.numpy.load_file("bert.stablehlo.safetensors"))
    outputs = jax.jit(program.call)(params, input_ids, attention_mask, token_type_ids)
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from bertjax import config as config_lib
from bertjax.config import parameters
from bertjax.convert import names, tensor_file, use
from bertjax.convert.pretrained import Pretrained

PLATFORMS = ("cpu", "cuda", "tpu")


def write(pretrained: Pretrained, path: Path) -> list[str]:
    """Writes PATH, a serialized `jax.export` program, and PATH.safetensors, its weights.

    The program takes the weights as a flat dict by our paths (`blocks/query/kernel`; the vocabulary
    without its padding), then int32 arrays of any batch size and length, and returns a dict. Inputs
    and outputs have the names, order and shapes of `onnx.write`. The program computes in float32
    without dropout; matrix products have the platform's default precision, as in `models.apply`.
    The metadata of the weights has the names of the labels, and how a sentence encoder makes its
    vectors.

    Returns:
      Notes on what the export leaves to the program that runs it.
    """
    import jax

    model = float32(pretrained.config.model)
    arrays = dict(weights(model, pretrained.params))
    shapes = {name: jax.ShapeDtypeStruct(x.shape, np.float32) for name, x in arrays.items()}
    dims = "b, c, l" if model.head_record.has_choices else "b, l"
    limits = [f"l <= {model.max_sequence_length}"]
    ids = jax.ShapeDtypeStruct(jax.export.symbolic_shape(dims, constraints=limits), np.int32)
    inputs = [ids] * (3 if model.type_vocab_size > 1 else 2)
    export = jax.export.export(jax.jit(program(model)), platforms=PLATFORMS)
    path.write_bytes(export(shapes, *inputs).serialize())
    tensor_file.write(
        path.with_name(f"{path.name}.safetensors"), arrays.items(), use.of(pretrained)
    )
    return use.notes(pretrained)


def float32(model: config_lib.Model) -> config_lib.Model:
    """The model config of exports: float32, plain XLA attention, no rematerialization."""
    return dataclasses.replace(model, dtype="float32", attention="xla", remat="none")


def weights(model: config_lib.Model, params: dict) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays that `program` takes, by our paths; the vocabulary without its padding."""
    for name in parameters.shapes(model):
        array = np.asarray(names.lookup(params, name))
        yield name, array[: model.vocab_size] if name in parameters.VOCAB_ROWS else array


def program(model: config_lib.Model) -> Callable[..., dict]:
    """The function that is exported: `(weights, *inputs) -> {output: array}`."""
    import jax
    import jax.numpy as jnp

    from bertjax import models

    def compute(
        weights: dict[str, jax.Array],
        input_ids: jax.Array,
        attention_mask: jax.Array,
        token_type_ids: jax.Array | None = None,
    ) -> dict[str, jax.Array]:
        params: dict = {}
        for name, array in weights.items():
            names.insert(params, name, array)
        length = input_ids.shape[-1]
        ids_BL = input_ids.reshape(-1, length)  # one row per choice
        types = jnp.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        batch = {
            "input_ids": ids_BL,
            "attention_mask": attention_mask.reshape(-1, length),
            "token_type_ids": types.reshape(-1, length),
            "masked_lm_positions": jnp.broadcast_to(jnp.arange(length), ids_BL.shape),
        }
        return _outputs(model, models.apply(model, params, batch), input_ids.shape[:-1])

    return compute


def _outputs(model: config_lib.Model, of_model: dict, rows: tuple) -> dict:
    """A model's outputs under Hugging Face's names."""
    head, result = model.head_record, {}
    for output in head.outputs:
        value = of_model[output.of]
        value = value if output.index is None else value[..., output.index]
        result[output.name] = value.reshape(rows) if head.has_choices else value
    return result
