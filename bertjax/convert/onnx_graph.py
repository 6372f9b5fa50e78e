"""Builds an ONNX graph and writes its file, without a copy of the weights in memory."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from bertjax import config as config_lib
from bertjax.convert import names
from bertjax.data.varint import varint
from bertjax.errors import UsageError

# Opset 20 is the first with Gelu, 17 with LayerNormalization; IR 9 came with opset 20, and
# onnxruntime has read both since 1.17.
OPSET, IR_VERSION = 20, 9


MAX_BYTES = 2**31 - 1  # of a protobuf message


class Graph:
    """Nodes and weights of one model. Values have names; a node's result has the node's name.

    Raises:
      UsageError: the onnx package is not installed.
    """

    def __init__(self, model: config_lib.Model, params: dict):
        try:
            import onnx
        except ImportError:
            raise UsageError("ONNX needs the onnx package: pip install 'bertjax[onnx]'") from None
        self.onnx, self.model, self.params = onnx, model, params
        self.graph = onnx.helper.make_graph([], "bertjax", [], [])
        self.weights: dict[str, np.ndarray] = {}  # views, kept out of the message
        self.metadata: dict[str, str] = {}

    def input(self, name: str, dims: tuple) -> str:
        """An int64 input; a dim is a size or the name of one that varies."""
        self.graph.input.append(self._info(name, dims, np.int64))
        return name

    def output(self, name: str, value: str, dims: tuple) -> None:
        """Makes `value` the float32 output `name`."""
        self.graph.output.append(self._info(name, dims, np.float32))
        self.node("Identity", name, value)

    def describe(self, value: str, dims: tuple, dtype: type) -> None:
        """Declares a shape that shape inference cannot find, and that onnxruntime needs to fuse."""
        self.graph.value_info.append(self._info(value, dims, dtype))

    def _info(self, name: str, dims: tuple, dtype: DTypeLike) -> Any:
        helper = self.onnx.helper
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return helper.make_tensor_value_info(name, kind, dims)

    def node(self, operator: str, name: str, *inputs: str, **attributes: Any) -> str:
        """One operation; inputs and result are names of values."""
        make = self.onnx.helper.make_node
        self.graph.node.append(make(operator, inputs, [name], name=name, **attributes))
        return name

    def constant(self, name: str, value: ArrayLike) -> str:
        """A small constant; integers become int64. A constant of this name is added only once."""
        if not any(tensor.name == name for tensor in self.graph.initializer):
            tensor = self.onnx.numpy_helper.from_array(np.asarray(value), name)
            self.graph.initializer.append(tensor)
        return name

    def weight(self, path: str, rows: slice = slice(None)) -> str:
        """A parameter by its path; `blocks/3/query/kernel` is one slice of the stacked array."""
        top, layer, *rest = path.split("/")
        if top == "blocks":
            array = np.asarray(names.lookup(self.params[top], "/".join(rest)))[int(layer)]
        else:
            array = np.asarray(names.lookup(self.params, path))[rows]
        self.weights[path] = array
        return path

    def linear(self, at: str, x: str) -> str:
        product = self.node("MatMul", f"{at}/product", x, self.weight(f"{at}/kernel"))
        return self.node("Add", at, product, self.weight(f"{at}/bias"))

    def layer_norm(self, at: str, x: str) -> str:
        scale, bias = self.weight(f"{at}/scale"), self.weight(f"{at}/bias")
        epsilon = self.model.layer_norm_eps
        return self.node("LayerNormalization", at, x, scale, bias, epsilon=epsilon)

    def save(self, path: Path) -> None:
        """Checks the graph and writes it, with the weights directly from their arrays.

        `onnx.save` would hold the weights three times: here, in the message, and in its encoding.
        The encoding nests (key, length, content), so it can be written piece by piece once the
        lengths are known (protobuf.dev/programming-guides/encoding).

        Raises:
          UsageError: the model is too large for one ONNX file.
        """
        self._check()
        model = self._model().SerializeToString()
        graph = self.graph.SerializeToString()
        headers = {name: self._tensor_header(name, array) for name, array in self.weights.items()}
        size = len(graph) + sum(len(headers[n]) + a.nbytes for n, a in self.weights.items())
        if len(model) + size > MAX_BYTES:
            raise UsageError(f"{size:,} bytes of weights: one ONNX file holds less than 2 GiB")
        with path.open("wb") as file:
            file.write(model + _key(7) + varint(size) + graph)  # 7: ModelProto.graph
            for name, array in self.weights.items():
                file.write(headers[name])
                little = array.dtype.newbyteorder("<")
                file.write(np.ascontiguousarray(array, little).data)

    def _model(self) -> Any:
        """The ModelProto around a graph."""
        opset = self.onnx.helper.make_opsetid("", OPSET)
        model = self.onnx.ModelProto(
            ir_version=IR_VERSION, producer_name="bertjax", opset_import=[opset]
        )
        self.onnx.helper.set_model_props(model, self.metadata)
        return model

    def _check(self) -> None:
        """Runs ONNX's checker and shape inference, with inputs in place of the weights."""
        model = self._model()
        model.graph.CopyFrom(self.graph)
        for name, array in self.weights.items():
            model.graph.input.append(self._info(name, array.shape, array.dtype))
        self.onnx.checker.check_model(model, full_check=True)

    def _tensor_header(self, name: str, array: np.ndarray) -> bytes:
        """A GraphProto's initializer up to its last part, the numbers."""
        kind = self.onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        proto = self.onnx.TensorProto(name=name, dims=array.shape, data_type=kind)
        content = proto.SerializeToString() + _key(9) + varint(array.nbytes)  # 9: raw_data
        return _key(5) + varint(len(content) + array.nbytes) + content  # 5: initializer


def _key(field: int) -> bytes:
    return bytes([field << 3 | 2])  # 2: a length follows, then as many bytes
