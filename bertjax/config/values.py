"""The value that a text of the command line stands for: `1e4` for a number, `None` for nothing."""

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
_MOST_DIGITS = 30  # of a whole number: more are a typing error, and 1e999999999 takes a gigabyte


def read(hint: Any, text: str, name: str) -> Any:
    """The value of `name`, a field or flag of the type `hint`, that `text` stands for.

    A whole number may be written `10000`, `10_000` or `1e4`. `None` (or `null`) unsets a field
    that may be unset.

    Args:
      hint: bool, int, float, str, one of them `| None`, or a tuple of any number of one of them.

    Raises:
      UsageError: `text` is no value of this type.
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
    """A tuple, as Python or JSON writes one; numbers also without parentheses."""
    try:
        return tree.items(kind, ast.literal_eval(text.strip()), name)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return tree.items(kind, text, name)


def is_bool(text: str) -> bool:
    """Whether a text is one that a bool may be written as."""
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
