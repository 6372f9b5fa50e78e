"""The ranges of config fields, as types: for example `Positive`.

A rule here is about a single field. Rules between fields are in `checks`, and call `require`.
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any

from bertjax.errors import UsageError

AUTO = "auto"  # the value of a field that the devices decide


@dataclasses.dataclass(frozen=True)
class Rule:
    """A range of numbers, and its text for messages."""

    holds: Callable[[Any], bool]
    text: str


_POSITIVE = Rule(lambda x: x > 0, "must be positive")
_NOT_NEGATIVE = Rule(lambda x: x >= 0, "must be 0 or positive")

Positive = Annotated[int, _POSITIVE]
Count = Annotated[int, _NOT_NEGATIVE]
Seed = Annotated[int, Rule(lambda x: 0 <= x < 1 << 32, "must lie between 0 and 2**32 - 1")]
MeshAxis = Annotated[
    int, Rule(lambda x: x == -1 or x > 0, "must be positive, or -1 for the devices that are left")
]
PositiveFloat = Annotated[float, _POSITIVE]
NotNegative = Annotated[float, _NOT_NEGATIVE]
Share = Annotated[float, Rule(lambda x: 0 <= x <= 1, "must lie in [0, 1]")]
CountOrAuto = Annotated[
    int | str,
    Rule(lambda x: x == AUTO or (not isinstance(x, str) and x >= 0), "must be auto, 0 or positive"),
]
BelowOne = Annotated[float, Rule(lambda x: 0 <= x < 1, "must lie in [0, 1)")]
InsideOne = Annotated[float, Rule(lambda x: 0 < x < 1, "must lie between 0 and 1")]


def require(ok: object, field: str, value: object, fix: str) -> None:
    """Raises UsageError about config.`field` if not `ok`; the message names value and fix."""
    if not ok:
        raise UsageError(f"config.{field}={value!r}: {fix}")
