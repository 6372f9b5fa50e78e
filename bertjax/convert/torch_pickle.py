"""Inspects the pickles inside files of `torch.save`, without running them."""

import pickletools
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from bertjax.errors import DataError

MAX_PICKLE_BYTES = 1 << 20  # a model of 400 tensors has 60 KB
# Bytes of an element, by the class that names its type.
ITEM_SIZES = {
    "torch DoubleStorage": 8,
    "torch FloatStorage": 4,
    "torch HalfStorage": 2,
    "torch BFloat16Storage": 2,
    "torch LongStorage": 8,
    "torch IntStorage": 4,
    "torch ShortStorage": 2,
    "torch CharStorage": 1,
    "torch ByteStorage": 1,
    "torch BoolStorage": 1,
}
_GLOBALS = {
    "collections OrderedDict",
    "argparse Namespace",  # fairseq keeps its command line in one
    "torch Size",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    *ITEM_SIZES,
}
# Instructions that `torch.save` writes: containers, numbers, strings, and calls of _GLOBALS.
# fmt: off
_OPCODES = {
    "PROTO", "STOP", "MARK", "GLOBAL", "REDUCE", "BUILD", "NEWOBJ", "BINPERSID", "BINPUT",
    "LONG_BINPUT", "BINGET", "LONG_BINGET", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1",
    "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "EMPTY_DICT", "SETITEM", "SETITEMS", "EMPTY_LIST",
    "APPEND", "APPENDS", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3",
}
# fmt: on
_CONSTANTS = {"NONE", "BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE", "GLOBAL"}
_UNKNOWN = object()


def instructions(file: BinaryIO, path: Path) -> Iterator[tuple[str, object]]:
    """Yields name and argument of every instruction of the pickle that begins here.

    The instructions are trusted only after the last one was yielded without an error. `file` then
    stands behind the pickle.

    Raises:
      DataError: the pickle is damaged, or has an instruction or a global that weights do not need.
    """
    strings = deque(maxlen=2)
    foreign = None
    try:
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name in ("GLOBAL", "STACK_GLOBAL"):  # the second takes its name from strings
                name = argument or " ".join(strings)
                if name not in _GLOBALS:
                    name = name.replace(" ", ".")[:100]
                    raise DataError(f"{path}: its pickle calls {name!r}, which weights do not need")
            elif isinstance(argument, str):
                strings.append(argument)
            if opcode.name not in _OPCODES:
                foreign = foreign or opcode.name
            yield opcode.name, argument
    except ValueError as error:
        raise DataError(f"{path}: its pickle is damaged ({str(error)[:200]})") from None
    if foreign:
        raise DataError(
            f"{path}: its pickle has the instruction {foreign}, which torch.save never writes"
        )


def storages(program: Iterator[tuple[str, object]], path: Path) -> dict[str, tuple[str, int]]:
    """Type and number of elements of each storage by key, in the order of their use.

    `torch.save` before 1.6 names a storage ("storage", type, key, device, count, None). The tuple
    is known without running the pickle only if it is made of constants and used at once. Only an
    attacker would write any other.

    Raises:
      DataError: as `instructions`; or a storage is asked for in another way.
    """
    found: dict[str, tuple[str, int]] = {}
    memo: dict[int, object] = {}
    top: object = _UNKNOWN  # the value on top of the stack
    items: list | None = None  # the values since the last mark, while all are constants
    for name, argument in program:
        if name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = top
            continue
        if name == "MARK":
            top, items = _UNKNOWN, []
        elif name in _CONSTANTS or name in ("BINGET", "LONG_BINGET"):
            top = argument if name in _CONSTANTS else memo.get(argument, _UNKNOWN)
            if items is not None:
                items.append(top)
        elif name == "TUPLE" and items is not None:
            top, items = tuple(items), None
        else:
            if name == "BINPERSID":
                key, storage = _storage(top, path)
                if found.setdefault(key, storage) != storage:
                    raise DataError(f"{path}: its pickle has two storages {key[:40]!r}")
            top, items = _UNKNOWN, None
    return found


def _storage(value: Any, path: Path) -> tuple[str, tuple[str, int]]:
    match value:
        case ("storage", str(kind), str(key), str(), int(count), None):
            if kind in ITEM_SIZES and count >= 0:
                return key, (kind, count)
    raise DataError(f"{path}: its pickle names a storage in a form that torch.save does not write")
