"""Converts frozen dataclasses to and from the mutable trees that the command line changes."""

import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from ml_collections import ConfigDict, config_dict

from bertjax.config import aliases, rules
from bertjax.errors import UsageError

T = TypeVar("T")


def field(default: Any, help: str, choices: tuple[str, ...] | None = None) -> Any:
    """A dataclass field with its text for --help and, if limited, its allowed values."""
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices})


def to_config_dict(node: Any) -> ConfigDict:
    """The mutable tree of a dataclass; fields that are None become placeholders of their type.

    `build` later checks the values that a config file sets, with full field names in messages.
    """
    result = ConfigDict(type_safe=False)
    hints = typing.get_type_hints(type(node))
    for f in dataclasses.fields(node):
        value = getattr(node, f.name)
        if dataclasses.is_dataclass(value):
            value = to_config_dict(value)
        elif isinstance(value, dict):
            value = ConfigDict({k: to_config_dict(v) for k, v in value.items()})
        elif value is None:
            value = config_dict.placeholder(_unwrap_optional(hints[f.name]))
        result[f.name] = value
    return result


def _unwrap_optional(hint: Any) -> Any:
    if isinstance(hint, types.UnionType):
        return next(t for t in typing.get_args(hint) if t is not type(None))
    return hint


def takes_auto(hint: Any) -> bool:
    """Whether a field of this type is a whole number or `auto`."""
    return typing.get_args(hint) == (int, str)


def build(cls: type[T], raw: Any, path: str) -> T:
    """A dataclass from plain values; `path` is its name in messages.

    Raises:
      UsageError: a field is unknown, or a value has another type.
    """
    return _build(cls, raw, path, functools.partial(paths, cls, path))


def _build(cls: Any, raw: Any, path: str, known: Callable[[], Iterable[str]]) -> Any:
    if not isinstance(raw, dict):
        raise UsageError(f"{path}={raw!r}: expected a group of fields ({cls.__name__})")
    names = [f.name for f in dataclasses.fields(cls)]
    for key in raw:
        if key not in names:
            hint = aliases.meant(f"{path}.{key}", list(known()))
            raise UsageError(f"{path}.{key}: no such field; {hint}")
    hints = typing.get_type_hints(cls)
    values = {}
    for f in dataclasses.fields(cls):
        if f.name not in raw:
            continue
        values[f.name] = _coerce(hints[f.name], raw[f.name], f"{path}.{f.name}", known)
    return cls(**values)


def _coerce(hint: Any, value: Any, path: str, known: Callable[[], Iterable[str]]) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, path, known)
    if typing.get_origin(hint) is dict:
        item = typing.get_args(hint)[1]
        return {k: _build(item, value[k], f"{path}.{k}", known) for k in sorted(value)}
    if value is None and types.NoneType in typing.get_args(hint):
        return None
    if typing.get_origin(hint) is tuple:
        return items(typing.get_args(hint)[0], value, path)
    if value == rules.AUTO and takes_auto(hint):
        return value
    wanted = _unwrap_optional(hint)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if wanted is int and isinstance(value, float) and value.is_integer():  # 1e4
        return int(value)
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        expected = f"{wanted.__name__} or {rules.AUTO}" if takes_auto(hint) else wanted.__name__
        raise UsageError(f"{path}={value!r}: expected {expected}, got {type(value).__name__}")
    return value


_SEVERAL = {str: "strings, for example ('yes', 'no')", int: "whole numbers, for example (16, 32)"}


def items(kind: type, value: Any, path: str) -> tuple:
    """A tuple of strings or numbers, from a tuple, a list (JSON) or a single number."""
    several = value if isinstance(value, list | tuple) else (value,)
    if kind is not str and not any(isinstance(item, bool) for item in several):
        wanted = int | float if kind is float else int
        if all(isinstance(item, wanted) for item in several):
            return tuple(kind(item) for item in several)
    elif several is value and all(isinstance(item, str) for item in value):
        return tuple(value)
    expected = _SEVERAL.get(kind, "numbers, for example (5e-5, 3e-5)")
    raise UsageError(f"{path}={value!r}: expected {expected}")


def override(tree: ConfigDict, flag: str, value: Any) -> None:
    """Sets the field of `--config.FIELD`; raises UsageError if the tree lacks the field's group."""
    *groups, name = flag.removeprefix("--config.").split(".")
    node = tree
    for depth, group in enumerate(groups):
        if not isinstance(node, ConfigDict) or group not in node:
            where = ".".join(["config", *groups[:depth]])
            raise UsageError(
                f"{flag}: {group!r}: no such group in this config; its file may add one; "
                f"{where} has {', '.join(node) or 'none'}"
            )
        node = node[group]
    with tree.unlocked(), node.ignore_type():
        node[name] = value


def paths(cls: Any, path: str = "config") -> dict:
    """`{path: type}` of every field; NAME stands for names that a config file may choose."""
    result = {}
    for name, hint in typing.get_type_hints(cls).items():
        if dataclasses.is_dataclass(hint):
            result |= paths(hint, f"{path}.{name}")
        elif typing.get_origin(hint) is dict:
            result |= paths(typing.get_args(hint)[1], f"{path}.{name}.NAME")
        else:
            result[f"{path}.{name}"] = hint
    return result


def walk(node: Any, path: str = "config") -> Iterator[tuple[str, dataclasses.Field, Any]]:
    """Yields `(path, field, value)` for every leaf."""
    for f in dataclasses.fields(node):
        value = getattr(node, f.name)
        if dataclasses.is_dataclass(value):
            yield from walk(value, f"{path}.{f.name}")
        elif isinstance(value, dict):
            for k, v in value.items():
                yield from walk(v, f"{path}.{f.name}.{k}")
        else:
            yield f"{path}.{f.name}", f, value
