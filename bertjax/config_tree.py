"""Frozen dataclasses to and from the mutable trees that the command line changes."""

import dataclasses
import difflib
import types
import typing

from ml_collections import ConfigDict, config_dict

from bertjax.errors import UsageError


def field(default, help: str, choices=None):
    """A dataclass field with what --help says of it and, where not every value will do, those
    that will."""
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices})


def to_config_dict(node) -> ConfigDict:
    """The mutable tree of a dataclass; fields that are None become placeholders of their type."""
    result = ConfigDict()
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


def _unwrap_optional(hint):
    if isinstance(hint, types.UnionType):
        return next(t for t in typing.get_args(hint) if t is not type(None))
    return hint


def build(cls, raw, path: str):
    """A dataclass from plain values; `path` is its name in messages.

    Raises:
      UsageError: an unknown field, or a value of another type.
    """
    if not isinstance(raw, dict):
        raise UsageError(f"{path}={raw!r}: expected a group of fields ({cls.__name__})")
    names = [f.name for f in dataclasses.fields(cls)]
    for key in raw:
        if key not in names:
            close = difflib.get_close_matches(key, names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"
            raise UsageError(f"{path}.{key}: no such field; {hint}")
    hints = typing.get_type_hints(cls)
    values = {}
    for f in dataclasses.fields(cls):
        if f.name not in raw:
            continue
        values[f.name] = _coerce(hints[f.name], raw[f.name], f"{path}.{f.name}")
    return cls(**values)


def _coerce(hint, value, path):
    if dataclasses.is_dataclass(hint):
        return build(hint, value, path)
    if typing.get_origin(hint) is dict:
        item = typing.get_args(hint)[1]
        return {k: build(item, value[k], f"{path}.{k}") for k in sorted(value)}
    if value is None and isinstance(hint, types.UnionType):
        return None
    if typing.get_origin(hint) is tuple:
        return _strings(value, path)
    wanted = _unwrap_optional(hint)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        raise UsageError(
            f"{path}={value!r}: expected {wanted.__name__}, got {type(value).__name__}"
        )
    return value


def _strings(value, path) -> tuple[str, ...]:
    """A tuple of strings, which JSON keeps as a list."""
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise UsageError(f"{path}={value!r}: expected strings, for example ('yes', 'no')")
    return tuple(value)


def walk(node, path="config"):
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
