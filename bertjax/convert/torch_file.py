"""Reads files of `torch.save`: checks a file without running anything, then PyTorch opens it.

The weights are raw bytes, but their places are in a pickle, and a pickle is a program. PyTorch's
weights-only loader runs only a harmless part of the pickle language, but some versions had holes.
Therefore the loader's version is checked, and so is the pickle: it must hold nothing but harmless
instructions before PyTorch is even imported.
"""

import argparse
import io
import os
import re
import warnings
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import ml_dtypes  # noqa: F401  NumPy knows bfloat16 by it
import numpy as np

from bertjax.convert import torch_legacy
from bertjax.convert.names import Tensor
from bertjax.convert.pretrained import Hints
from bertjax.convert.torch_pickle import MAX_PICKLE_BYTES, instructions
from bertjax.errors import DataError, UsageError, one_line

OLDEST_TORCH = (2, 10)
MAX_DIRECTORY_BYTES = 1 << 20  # a model of 400 tensors has 30 KB
_MEMBER = re.compile(
    r"data\.pkl|data/\d+|version|byteorder|\.format_version|\.storage_alignment"
    r"|\.data/serialization_id"
)


def load_torch_file(path: Path, hints: Hints) -> dict:
    """The dict that `torch.save` wrote, with every tensor as a `Tensor` that is not read yet.

    Raises:
      DataError: as `check_torch_file`; or PyTorch's weights-only loader refuses the file, or a
        tensor reaches beyond the file.
      UsageError: pickles are not allowed, or PyTorch is missing or too old.
    """
    legacy = check_torch_file(path)
    if not hints.allow_pickle:
        raise UsageError(
            f"{path}: a Python pickle; --allow_pickle opens it, with PyTorch's weights-only loader"
        )
    torch = _import_torch(path)
    try:
        allowed = torch.serialization.safe_globals([argparse.Namespace])
        with allowed, warnings.catch_warnings(action="ignore"):
            if legacy:
                state = torch_legacy.load(legacy, torch)
            else:
                # On the meta device a tensor has a shape and a place in the file, but no memory.
                state = torch.load(path, map_location="meta", weights_only=True)
        state = _unread(state, path, torch, {})
    except Exception as error:  # a damaged file can raise any class
        reason = one_line(error, longest=200)
        raise DataError(f"{path}: PyTorch cannot load it ({reason})") from None
    if not isinstance(state, dict):
        raise DataError(f"{path}: expected a dict of tensors, got {type(state).__name__}")
    return state


def tensors(state: dict) -> dict[str, Tensor]:
    """The entries of a state dict that are tensors."""
    return {str(name): value for name, value in state.items() if isinstance(value, Tensor)}


def _import_torch(path: Path) -> ModuleType:
    try:
        import torch
    except ImportError:
        raise UsageError(f"{path}: needs PyTorch; pip install 'bertjax[torch]'") from None
    version = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if version < OLDEST_TORCH:
        raise UsageError(
            f"PyTorch {torch.__version__}: its weights-only loader has known holes before 2.10; "
            "pip install -U 'bertjax[torch]'"
        )
    return torch


def _unread(value: Any, path: Path, torch: ModuleType, seen: dict) -> Any:
    """Nested dicts, with a `Tensor` in place of each PyTorch tensor.

    Args:
      seen: results by identity of a dict. Without them, 50 dicts that each hold the next one twice
        would take forever.
    """
    if isinstance(value, dict):
        if id(value) not in seen:
            seen[id(value)] = {
                name: _unread(inner, path, torch, seen) for name, inner in value.items()
            }
        return seen[id(value)]
    if not isinstance(value, torch.Tensor):
        return value
    dtype = np.dtype(str(value.dtype).removeprefix("torch."))
    shape, strides = tuple(value.shape), value.stride()
    # Elements of the storage from the first to the last that the view uses.
    count = 1 + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if not value.numel():
        return Tensor(shape, lambda: np.zeros(shape, dtype))
    if value.numel() > count:
        raise ValueError("a tensor repeats its elements")
    start = value.untyped_storage()._checkpoint_offset + value.storage_offset() * dtype.itemsize
    if start + count * dtype.itemsize > path.stat().st_size:
        raise ValueError("a tensor ends beyond the file")

    def read() -> np.ndarray:
        values = np.fromfile(path, dtype, count, offset=start)
        steps = [step * dtype.itemsize for step in strides]
        return np.lib.stride_tricks.as_strided(values, shape, steps, writeable=False)

    return Tensor(shape, read)


def check_torch_file(path: Path) -> torch_legacy.Layout | None:
    """Raises DataError unless a file holds only what `torch.save` writes for weights.

    Nothing is executed and PyTorch is not imported. The members of the zip file must be
    uncompressed and have `torch.save`'s names; the pickle must hold only instructions and globals
    that weights need.

    Returns:
      The layout of a file from before PyTorch 1.6; None for a zip file, which has a directory.
    """
    try:
        if path.exists() and not path.is_file():
            raise DataError(f"{path}: not a regular file")
        with open(path, "rb") as file:
            start = file.read(262)
        if start.startswith(torch_legacy.MAGIC):
            return torch_legacy.check(path)
        if not start.startswith(b"PK\x03\x04"):
            packed = start.startswith(b"\x1f\x8b") or start[257:] == b"ustar"
            unpack = "; unpack it first" if packed else ""
            raise DataError(f"{path}: not a file of torch.save{unpack}")
        for _ in instructions(io.BytesIO(_read_pickle(path)), path):
            pass
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    return None


def _read_pickle(path: Path) -> bytes:
    """The pickle in the zip file, after all members have been checked."""
    with _Bounded(path) as file:
        try:
            archive = zipfile.ZipFile(file)
            members = archive.infolist()
            roots = {info.filename.partition("/")[0] for info in members}
            for info in members:
                _check_member(info, path)
            if len(roots) != 1 or len({info.filename for info in members}) < len(members):
                raise DataError(f"{path}: expected one directory of members, each named once")
            if sum(info.file_size for info in members) > os.path.getsize(path):
                raise DataError(f"{path}: its members overlap: together longer than the file")
            root = roots.pop()
            order = f"{root}/byteorder"
            if order in archive.NameToInfo and _contents(archive, order, path) != b"little":
                raise DataError(f"{path}: its numbers are big-endian; re-save it")
            return _contents(archive, f"{root}/data.pkl", path)
        except (
            zipfile.BadZipFile,
            KeyError,
            EOFError,
            ValueError,
            ArithmeticError,
            RuntimeError,
        ) as error:
            raise DataError(f"{path}: not a file of torch.save ({str(error)[:200]})") from None


def _contents(archive: zipfile.ZipFile, name: str, path: Path) -> bytes:
    size = archive.getinfo(name).file_size
    if size > MAX_PICKLE_BYTES:
        raise DataError(f"{path}: a member {name!r} of {size:,} bytes; weights need less")
    return archive.read(name)


class _Bounded(io.FileIO):
    """A file that refuses to read a zip directory longer than MAX_DIRECTORY_BYTES."""

    def read(self, size: int = -1) -> bytes:
        if size > MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile(f"a zip directory of {size:,} bytes")
        return super().read(size)


def _check_member(info: zipfile.ZipInfo, path: Path) -> None:
    name = info.filename
    root, _, rest = name.partition("/")
    if root in ("", ".", "..") or "\\" in root or not _MEMBER.fullmatch(rest):
        raise DataError(f"{path}: member {name[:100]!r} has no place in a file of torch.save")
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise DataError(f"{path}: member {name[:100]!r} is compressed; torch.save compresses none")
