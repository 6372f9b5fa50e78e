"""Tables of parameter names: one per architecture and format, used to read and to write.

Other formats keep one tensor per layer; bertjax stacks the layers on a leading axis. Other formats
do not pad the vocabulary; bertjax pads it to a multiple of 128. Nothing here needs JAX.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from bertjax import config as config_lib
from bertjax.config.heads import Head
from bertjax.config.parameters import VOCAB_ROWS, shapes
from bertjax.errors import DataError, UsageError


class Row(NamedTuple):
    """A parameter's path in bertjax and its name in another format."""

    path: str  # ours, "blocks/query/kernel"
    name: str  # theirs, with {} in place of a block's number
    transpose: bool = False  # theirs is [out, in] where ours is [in, out]


def linear(path: str, name: str) -> list[Row]:
    """The rows of a PyTorch `Linear`."""
    return [Row(f"{path}/kernel", f"{name}.weight", True), Row(f"{path}/bias", f"{name}.bias")]


def layer_norm(path: str, name: str) -> list[Row]:
    """The rows of a PyTorch `LayerNorm`."""
    return [Row(f"{path}/scale", f"{name}.weight"), Row(f"{path}/bias", f"{name}.bias")]


class Unread(Protocol):
    """An array of a source that is not read yet: a `Tensor`, or a format's own class."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its size along each axis."""

    def read(self) -> np.ndarray:
        """Its values."""


class Tensor(NamedTuple):
    """An array with a function that reads it."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


def gather(
    rows: Iterable[Row], model: config_lib.Model, tensors: Mapping[str, Unread], where: str
) -> dict:
    """The parameter tree of a model, float32, from another format's tensors.

    All names and shapes are checked before the first byte is read or allocated.

    Args:
      rows: must hold every parameter of `model`; other rows are skipped.
      where: the source, for messages.

    Raises:
      DataError: a tensor is missing or its shape differs from the config's, or the weights are
        larger than this machine's memory.
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


def has_parts(rows: Iterable[Row], head: Head, tensors: Mapping[str, Unread]) -> bool:
    """Whether `tensors` has every part of a head, judged by the first matrix of each part.

    A part that reads every token and has a fixed width must have that width: a matrix of another
    width belongs to another head.
    """
    first = {}
    for row in rows:
        first.setdefault(row.path.split("/")[0], row.name)
    for part in head.parts:
        if first.get(part.name) not in tensors:
            return False
        shape, is_fixed = tensors[first[part.name]].shape, isinstance(part.width, int)
        if part.reads == "hidden" and is_fixed and shape[:1] != (part.width,):
            return False
    return True


def _aligned_zeros(shape: tuple[int, ...]) -> np.ndarray:
    """float32 zeros, aligned to 64 bytes: JAX on a CPU uses such memory without copying it."""
    raw = np.zeros(4 * math.prod(shape) + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : raw.size - 64 + start].view(np.float32).reshape(shape)


def scatter(
    rows: Iterable[Row], model: config_lib.Model, params: dict
) -> Iterator[tuple[str, np.ndarray]]:
    """`(name, array)` of every parameter in the other format: views, in the order of the table.

    Raises:
      UsageError: the other format has no name for a parameter.
    """
    wanted, rows = shapes(model), list(rows)
    absent = wanted.keys() - {row.path for row in rows}
    if absent:
        raise UsageError(
            f"config.model.head={model.head!r}: the format has no place for "
            f"{', '.join(sorted(absent))}"
        )
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
    """Name and shape of every tensor that a model has in the other format."""
    wanted = shapes(model)
    for row in rows:
        if row.path in wanted:
            yield from _theirs(row, model, wanted[row.path])


def _theirs(row: Row, model: config_lib.Model, shape: tuple) -> list[tuple[str, tuple]]:
    """Names and shapes of the other format's tensors that make up one of our parameters."""
    if row.path in VOCAB_ROWS:
        shape = (model.vocab_size, *shape[1:])
    if row.path.startswith("blocks/"):
        each = shape[:0:-1] if row.transpose else shape[1:]
        return [(row.name.format(layer), each) for layer in range(shape[0])]
    return [(row.name, shape[::-1] if row.transpose else shape)]


def insert(tree: dict, path: str, value: Any) -> None:
    """Puts `value` at `a/b/c` of a nested dict."""
    *parents, last = path.split("/")
    for parent in parents:
        tree = tree.setdefault(parent, {})
    tree[last] = value


def lookup(tree: dict, path: str) -> Any:
    """The value at `a/b/c` of a nested dict."""
    for part in path.split("/"):
        tree = tree[part]
    return tree
