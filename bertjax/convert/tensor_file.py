"""Reads and writes safetensors files, one tensor at a time; the safetensors library checks them.

The library maps the whole file into memory and does not support bfloat16 in NumPy. Here only the
requested tensor is read, so that a conversion holds one copy of the weights.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path

import ml_dtypes
import numpy as np
import safetensors

from bertjax.convert.names import Tensor
from bertjax.errors import DataError, one_line

# The format's names for the types of weights; float32 holds all of them exactly, except F64.
_DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F64": np.dtype(np.float64),
}


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file by name, not read yet.

    Raises:
      DataError: the file is not a safetensors file, or its header does not match its bytes.
    """
    try:
        with safetensors.safe_open(path, "np"):
            pass  # checks lengths, overlaps, and that the header covers the file
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
    except (safetensors.SafetensorError, ValueError, RecursionError) as error:
        reason = one_line(error, longest=200)
        raise DataError(f"{path}: not a safetensors file ({reason})") from None
    header.pop("__metadata__", None)
    return {name: _tensor(path, name, entry, 8 + length) for name, entry in header.items()}


def _tensor(path: Path, name: str, entry: dict, start: int) -> Tensor:
    shape = tuple(entry["shape"])

    def read() -> np.ndarray:
        if entry["dtype"] not in _DTYPES:
            raise DataError(f"{path}: {name} holds {entry['dtype']}; expected {', '.join(_DTYPES)}")
        dtype = _DTYPES[entry["dtype"]]
        count = (entry["data_offsets"][1] - entry["data_offsets"][0]) // dtype.itemsize
        values = np.fromfile(path, dtype, count, offset=start + entry["data_offsets"][0])
        return values.reshape(shape)

    return Tensor(shape, read)


def write(path: Path, tensors: Iterable[tuple[str, np.ndarray]], metadata: dict[str, str]) -> None:
    """Writes float32 arrays of any strides, one after the other."""
    tensors = list(tensors)
    header: dict = {"__metadata__": metadata}
    end = 0
    for name, array in tensors:
        begin, end = end, end + array.size * 4
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [begin, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)  # the data starts at a multiple of 8
    with open(path, "wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for _, array in tensors:
            np.ascontiguousarray(array, "<f4").tofile(file)
        file.flush()
        os.fsync(file.fileno())
