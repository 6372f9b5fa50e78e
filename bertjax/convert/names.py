"""Name maps: one table an architecture and format, read in both directions.

The other side keeps one tensor a layer, this side stacks them on a leading axis; the other side
has no padding of the vocabulary, this side a multiple of 128. Nothing here needs JAX.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from bertjax import config as config_lib
from bertjax.errors import DataError

VOCAB_ROWS = ("embeddings/word/embedding", "masked_lm/bias")


class Row(NamedTuple):
    """Where a parameter of ours lies on the other side."""

    path: str  # ours, "blocks/query/kernel"
    name: str  # theirs, with {} where a block's number stands
    transpose: bool = False  # theirs is [out, in] where ours is [in, out]


def linear(path: str, name: str) -> list[Row]:
    """The rows of a PyTorch `Linear`."""
    return [Row(f"{path}/kernel", f"{name}.weight", True), Row(f"{path}/bias", f"{name}.bias")]


def layer_norm(path: str, name: str) -> list[Row]:
    """The rows of a PyTorch `LayerNorm`."""
    return [Row(f"{path}/scale", f"{name}.weight"), Row(f"{path}/bias", f"{name}.bias")]


class Tensor(NamedTuple):
    """An array of a source that is not read yet."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


def shapes(model: config_lib.Model) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter of a model by its path, as `models.abstract_params` has them."""
    D, F, N = model.hidden_size, model.intermediate_size, model.num_hidden_layers
    V = model.padded_vocab_size

    def dense(path, features_in, features_out, stack=()):
        kernel, bias = (*stack, features_in, features_out), (*stack, features_out)
        return {f"{path}/kernel": kernel, f"{path}/bias": bias}

    def norm(path, stack=()):
        return {f"{path}/scale": (*stack, D), f"{path}/bias": (*stack, D)}

    result = {"embeddings/word/embedding": (V, D)}
    result["embeddings/position/embedding"] = (model.max_position_embeddings, D)
    if model.type_vocab_size:
        result["embeddings/token_type/embedding"] = (model.type_vocab_size, D)
    result |= norm("embeddings/layer_norm")
    for name in ("query", "key", "value", "attention_output"):
        result |= dense(f"blocks/{name}", D, D, (N,))
    result |= dense("blocks/intermediate", D, F, (N,)) | dense("blocks/output", F, D, (N,))
    for name in ("attention", "output"):
        result |= norm(f"blocks/{name}_layer_norm", (N,))
    if model.has_pooler:
        result |= dense("pooler/dense", D, D)
    if model.head == "pretraining":
        result |= dense("next_sentence/dense", D, 2)
    if model.has_masked_lm:
        result |= dense("masked_lm/transform", D, D) | norm("masked_lm/layer_norm")
        result["masked_lm/bias"] = (V,)
    if model.head in ("classification", "multiple_choice"):
        labels = model.num_labels if model.head == "classification" else 1
        result |= dense("classifier/dense", D, labels)
    if model.head == "span":
        result |= dense("span/dense", D, 2)
    return result


def gather(
    rows: Iterable[Row], model: config_lib.Model, tensors: Mapping[str, Tensor], where: str
) -> dict:
    """The parameter tree of a model, float32, from another side's tensors.

    All names and shapes are checked before the first byte is read or allocated.

    Args:
      rows: must hold every parameter of `model`; others are passed over.
      where: the source, for messages.

    Raises:
      DataError: a tensor is missing, or its shape is not what `model` says.
    """
    if model.num_hidden_layers > len(tensors):
        raise DataError(
            f"{where}: {model.num_hidden_layers:,} layers in the config, {len(tensors)} tensors"
        )
    for name, shape in named_shapes(rows, model):
        if name not in tensors:
            raise DataError(f"{where}: lacks the tensor {name}")
        if tuple(tensors[name].shape) != shape:
            raise DataError(
                f"{where}: {name} has shape {list(tensors[name].shape)}; "
                f"the config asks for {list(shape)}"
            )
    wanted = shapes(model)
    rows = [row for row in rows if row.path in wanted]
    absent = wanted.keys() - {row.path for row in rows}
    if absent:
        raise DataError(f"{where}: has no place for {', '.join(sorted(absent))}")
    size = 4 * sum(math.prod(shape) for shape in wanted.values())
    if size > os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"):
        raise DataError(
            f"{where}: {size:,} bytes of float32 weights; more than this machine's memory"
        )
    params: dict = {}
    for row in rows:
        array = _aligned_zeros(wanted[row.path])
        stacked = row.path.startswith("blocks/")
        for index, (name, _) in enumerate(_theirs(row, model, wanted[row.path])):
            value = tensors[name].read()
            value = value.T if row.transpose else value
            target = array[index] if stacked else array
            target[: len(value)] = value
        insert(params, row.path, array)
    return params


def _aligned_zeros(shape: tuple[int, ...]) -> np.ndarray:
    """float32 zeros at a multiple of 64 bytes: JAX takes such memory on a CPU without copying."""
    raw = np.zeros(4 * math.prod(shape) + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : raw.size - 64 + start].view(np.float32).reshape(shape)


def scatter(
    rows: Iterable[Row], model: config_lib.Model, params: dict
) -> Iterator[tuple[str, np.ndarray]]:
    """The other side's `(name, array)` of every parameter: views, in the order of the table."""
    wanted = shapes(model)
    for row in rows:
        if row.path not in wanted:
            continue
        array = np.asarray(lookup(params, row.path))
        if row.path in VOCAB_ROWS:
            array = array[: model.vocab_size]
        for index, (name, _) in enumerate(_theirs(row, model, wanted[row.path])):
            value = array[index] if row.path.startswith("blocks/") else array
            yield name, value.T if row.transpose else value


def named_shapes(rows: Iterable[Row], model: config_lib.Model) -> Iterator[tuple[str, tuple]]:
    """Name and shape of every tensor that a model has on the other side."""
    wanted = shapes(model)
    for row in rows:
        if row.path in wanted:
            yield from _theirs(row, model, wanted[row.path])


def _theirs(row: Row, model: config_lib.Model, shape: tuple) -> list[tuple[str, tuple]]:
    """Name and shape of every tensor on the other side that makes up one of ours."""
    if row.path in VOCAB_ROWS:
        shape = (model.vocab_size, *shape[1:])
    if row.path.startswith("blocks/"):
        each = shape[:0:-1] if row.transpose else shape[1:]
        return [(row.name.format(layer), each) for layer in range(shape[0])]
    return [(row.name, shape[::-1] if row.transpose else shape)]


def insert(tree: dict, path: str, value):
    """Puts `value` at `a/b/c` of a nested dict."""
    *parents, last = path.split("/")
    for parent in parents:
        tree = tree.setdefault(parent, {})
    tree[last] = value


def lookup(tree: dict, path: str):
    """What lies at `a/b/c` of a nested dict."""
    for part in path.split("/"):
        tree = tree[part]
    return tree
