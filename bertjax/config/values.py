"""Reads values from command-line text: `1e4` is a number, `None` unsets a field."""

import ast
import decimal
import types
import typing
from collections.abc import Callable
from typing import Any

from bertjax.config import rules, tree
from bertjax.errors import UsageError

_BOOLS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
_NOTHING = ("none", "null")
_MOST_DIGITS = 30  # more digits are a typing error, and 1e999999999 would take a gigabyte


def read(hint: Any, text: str, name: str) -> Any:
    """The value of `text` for `name`, a field or flag of the type `hint`.

    A whole number may be written `10000`, `10_000` or `1e4`. `None` (or `null`) unsets an optional
    field.

    Args:
      hint: bool, int, float or str, one of these `| None`, or a tuple of one of these.

    Raises:
      UsageError: `text` is not a value of this type.
    """
    if typing.get_origin(hint) is tuple:
        return _several(typing.get_args(hint)[0], text, name)
    kinds = [t for t in typing.get_args(hint) if t is not types.NoneType] or [hint]
    optional, kind = len(typing.get_args(hint)) > len(kinds), kinds[0]
    text = text.strip()
    if optional and text.lower() in _NOTHING:
        return None
    what = "; None unsets it" if optional else ""
    if not text:
        raise UsageError(f"{name}=: has no value; expected {_EXPECTED[kind]}{what}")
    if tree.takes_auto(hint):
        if text == rules.AUTO:
            return text
        what = f" or {rules.AUTO}"
    if kind is str and not optional and text in ("None", "null"):
        raise UsageError(f"{name}={text}: cannot be unset; leave it out for its default")
    try:
        return _READERS[kind](text)
    except (KeyError, ValueError, decimal.InvalidOperation):
        if text.lower() in _NOTHING:
            what = "; it cannot be unset: leave it out for its default"
        raise UsageError(f"{name}={text}: expected {_EXPECTED[kind]}{what}") from None


def _several(kind: type, text: str, name: str) -> tuple:
    """A tuple in Python's or JSON's notation; numbers also without parentheses."""
    try:
        return tree.items(kind, ast.literal_eval(text.strip()), name)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return tree.items(kind, text, name)


def is_bool(text: str) -> bool:
    """Whether a text is a way to write a bool."""
    return text.lower() in _BOOLS


def _whole(text: str) -> int:
    number = decimal.Decimal(text)
    if not number.is_finite() or number.adjusted() > _MOST_DIGITS or number != int(number):
        raise ValueError("not a whole number")
    return int(number)


_READERS: dict[type, Callable[[str], Any]] = {
    bool: lambda text: _BOOLS[text.lower()],
    int: _whole,
    float: float,
    str: str,
}
_EXPECTED = {
    bool: "true or false",
    int: "a whole number, for example 10000 or 1e4",
    float: "a number, for example 0.1 or 1e-4",
    str: "a text",
}
