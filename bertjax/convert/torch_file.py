"""Files of `torch.save`: looked through without running anything, then opened by PyTorch.

The weights are raw, but what says where they lie is a pickle, a program. PyTorch's weights-only
loader runs only a harmless part of that language; as it has had holes, its version is checked,
and what it gets to see was found to hold nothing else beforehand, before PyTorch is imported.
"""

import argparse
import io
import os
import pickletools
import re
import zipfile
from collections import deque
from pathlib import Path

import ml_dtypes  # noqa: F401  NumPy knows bfloat16 by it
import numpy as np

from bertjax.convert.names import Tensor
from bertjax.convert.pretrained import Hints
from bertjax.errors import DataError, UsageError

OLDEST_TORCH = (2, 10)
MAX_PICKLE_BYTES = 1 << 20  # a model of 400 tensors has 60 KB
MAX_DIRECTORY_BYTES = 1 << 20  # and 30 KB of zip directory
_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_MEMBER = re.compile(
    r"data\.pkl|data/\d+|version|byteorder|\.format_version|\.storage_alignment"
    r"|\.data/serialization_id"
)
_STORAGES = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
_GLOBALS = {
    "collections.OrderedDict",
    "argparse.Namespace",  # fairseq keeps its command line so
    "torch.Size",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    *(f"torch.{name}Storage" for name in _STORAGES),
}
# What `torch.save` writes: containers, numbers, strings, and the building of what _GLOBALS allow.
# fmt: off
_OPCODES = {
    "PROTO", "STOP", "MARK", "GLOBAL", "REDUCE", "BUILD", "NEWOBJ", "BINPERSID", "BINPUT",
    "LONG_BINPUT", "BINGET", "LONG_BINGET", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1",
    "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "EMPTY_DICT", "SETITEM", "SETITEMS", "EMPTY_LIST",
    "APPEND", "APPENDS", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3",
}
# fmt: on


def load_torch_file(path: Path, hints: Hints) -> dict:
    """What `torch.save` wrote, every tensor as a `Tensor` that is not read yet.

    Raises:
      DataError: as `check_torch_file`; or PyTorch's weights-only loader refuses the file, or its
        tensors ask for more than it holds.
      UsageError: pickles are not allowed, or PyTorch is missing or too old.
    """
    check_torch_file(path)
    if not hints.allow_pickle:
        raise UsageError(
            f"{path}: a Python pickle; --allow_pickle opens it, with PyTorch's weights-only loader"
        )
    torch = _import_torch(path)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            # On the meta device a tensor has a shape and a place in the file, and no memory.
            state = torch.load(path, map_location="meta", weights_only=True)
        state = _unread(state, path, torch)
    except Exception as error:  # a damaged file ends in any class at all
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{path}: PyTorch cannot load it ({reason})") from None
    if not isinstance(state, dict):
        raise DataError(f"{path}: expected a dict of tensors, got {type(state).__name__}")
    return state


def tensors(state: dict) -> dict[str, Tensor]:
    """Those entries of a state dict that are tensors."""
    return {str(name): value for name, value in state.items() if isinstance(value, Tensor)}


def _import_torch(path):
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


def _unread(value, path: Path, torch):
    """Nested dicts with a `Tensor` in place of each of PyTorch's."""
    if isinstance(value, dict):
        return {name: _unread(inner, path, torch) for name, inner in value.items()}
    if not isinstance(value, torch.Tensor):
        return value
    dtype = np.dtype(str(value.dtype).removeprefix("torch."))
    shape, strides = tuple(value.shape), value.stride()
    # From the first to the last element of a view of the storage.
    count = 1 + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    count = count if value.numel() else 0
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


def check_torch_file(path: Path):
    """Raises DataError unless a file holds what `torch.save` writes of weights, and only that.

    Nothing is executed and PyTorch is not imported: the members of the zip file must have their
    names, uncompressed, and the pickle only instructions and globals that weights need.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(len(_LEGACY_MAGIC))
        if start == _LEGACY_MAGIC:
            code = (
                "import argparse, torch; torch.serialization.add_safe_globals([argparse.Namespace])"
                f"; torch.save(torch.load({path.name!r}, 'cpu', weights_only=True), 'new.pt')"
            )
            raise DataError(f'{path}: written before PyTorch 1.6; re-save it: python -c "{code}"')
        if not start.startswith(b"PK\x03\x04"):
            unpack = "; unpack it first" if start.startswith(b"\x1f\x8b") else ""
            raise DataError(f"{path}: not a file of torch.save{unpack}")
        _check_pickle(_read_pickle(path), path)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None


def _read_pickle(path: Path) -> bytes:
    """The program in the zip file, whose members are all found to be in order."""
    with _Bounded(path) as file:
        try:
            archive = zipfile.ZipFile(file)
            members = archive.infolist()
            roots = {info.filename.partition("/")[0] for info in members}
            for info in members:
                _check_member(info, path)
            if len(roots) != 1 or len({info.filename for info in members}) < len(members):
                raise DataError(f"{path}: not one directory of members, each once")
            if sum(info.file_size for info in members) > os.path.getsize(path):
                raise DataError(f"{path}: its members overlap: together longer than the file")
            root = roots.pop()
            order = f"{root}/byteorder"
            if order in archive.NameToInfo and _contents(archive, order, path) != b"little":
                raise DataError(f"{path}: numbers with their highest byte first; re-save it")
            return _contents(archive, f"{root}/data.pkl", path)
        except (zipfile.BadZipFile, KeyError, EOFError, ValueError, ArithmeticError,
                RuntimeError) as error:  # fmt: skip
            raise DataError(f"{path}: not a file of torch.save ({str(error)[:200]})") from None


def _contents(archive, name, path):
    size = archive.getinfo(name).file_size
    if size > MAX_PICKLE_BYTES:
        raise DataError(f"{path}: a member {name!r} of {size:,} bytes; weights need less")
    return archive.read(name)


class _Bounded(io.FileIO):
    """A file whose zip directory cannot be longer than it should."""

    def read(self, size=-1):
        if size > MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile(f"a zip directory of {size:,} bytes")
        return super().read(size)


def _check_member(info: zipfile.ZipInfo, path: Path):
    name = info.filename
    root, _, rest = name.partition("/")
    if root in ("", ".", "..") or "\\" in root or not _MEMBER.fullmatch(rest):
        raise DataError(f"{path}: member {name[:100]!r} has no place in a file of torch.save")
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise DataError(f"{path}: member {name[:100]!r} is compressed; torch.save does not")


def _check_pickle(program: bytes, path: Path):
    strings = deque(maxlen=2)
    foreign = []
    try:
        for opcode, argument, _ in pickletools.genops(program):
            if opcode.name in ("GLOBAL", "STACK_GLOBAL"):  # the second takes its name from strings
                name = argument.replace(" ", ".") if argument else ".".join(strings)
                if name not in _GLOBALS:
                    raise DataError(
                        f"{path}: its pickle calls {name[:100]!r}; weights need no such"
                    )
            elif isinstance(argument, str):
                strings.append(argument)
            if opcode.name not in _OPCODES:
                foreign.append(opcode.name)
    except ValueError as error:
        raise DataError(f"{path}: its pickle is damaged ({str(error)[:200]})") from None
    if foreign:
        raise DataError(
            f"{path}: its pickle has the instruction {foreign[0]}; torch.save writes none"
        )
