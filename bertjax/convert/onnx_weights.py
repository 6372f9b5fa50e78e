"""Stores the matrices of an ONNX graph in a smaller type than the float32 they compute in.

The nodes that convert them back have only constant inputs, so onnxruntime runs these nodes once,
when it loads the file. The model then computes in float32, with the speed and memory of a float32
file, and a row's results do not depend on the other rows.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from bertjax.convert.onnx_graph import Graph
from bertjax.errors import DataError

_INT8_MOST = 127  # the range is symmetric: -128 is not used


def store_float16(graph: Graph) -> None:
    """Stores every matrix as float16: half the file size.

    Raises:
      DataError: a weight is beyond float16's 65,504.
    """

    def float16(name: str, array: np.ndarray) -> list[Any]:
        most = np.finfo(np.float16).max
        if np.abs(array).max(initial=0) > most:
            raise DataError(f"{name}: a weight beyond {most:,.0f}, float16's largest; write onnx:")
        graph.weights[f"{name}/float16"] = array.astype(np.float16)
        return [_cast(graph, f"{name}/float16", name)]

    _store(graph, float16)


def store_int8(graph: Graph) -> None:
    """Stores every matrix as int8: a quarter of the file size.

    A kernel has one float32 scale per column, an embedding table one per row. A scale is the
    largest magnitude divided by 127, so a weight is off by at most half a scale.
    """

    def int8(name: str, array: np.ndarray) -> list[Any]:
        axis = 0 if name.endswith("kernel") else 1
        scale = np.abs(array).max(axis, keepdims=True) / np.float32(_INT8_MOST)
        scale[scale == 0] = 1
        graph.weights[f"{name}/int8"] = np.rint(array / scale).astype(np.int8)
        graph.weights[f"{name}/scale"] = scale
        factors = [f"{name}/whole", f"{name}/scale"]
        make = graph.onnx.helper.make_node
        return [
            _cast(graph, f"{name}/int8", f"{name}/whole"),
            make("Mul", factors, [name], name=name),
        ]

    _store(graph, int8)


def _store(graph: Graph, replace: Callable[[str, np.ndarray], list[Any]]) -> None:
    """Replaces matrices by nodes, placed first: in ONNX a value is made before it is used."""
    first = []
    for name in [name for name, array in graph.weights.items() if array.ndim == 2]:
        first += replace(name, graph.weights.pop(name))
    others = list(graph.graph.node)
    del graph.graph.node[:]
    graph.graph.node.extend([*first, *others])


def _cast(graph: Graph, stored: str, name: str) -> Any:
    float32 = graph.onnx.TensorProto.FLOAT
    return graph.onnx.helper.make_node("Cast", [stored], [name], name=name, to=float32)
