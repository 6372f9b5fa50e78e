"""Labels by name: a value in a file becomes the name of a label, never its position."""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from bertjax.errors import DataError


def written(value: Any) -> str | None:
    """A file's label as text: 1 and 1.0 become "1"; None for an empty value or NaN."""
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value)


def of_number(value: Any, names: Sequence[str], where: str) -> str | None:
    """The name of a class number; None for -1. A text must be one of `names` already.

    Raises:
      DataError: the number has no name, or the text is not in `names`.
    """
    text = written(value)
    if text is None or value == -1:
        return None
    known = names if isinstance(value, str) else [str(number) for number in range(len(names))]
    if text not in known:
        raise unknown(value, names, where)
    return names[known.index(text)]


def unknown(
    label: Any, known: Sequence[str], where: str, fix: str = "correct the file"
) -> DataError:
    """The error for an unknown label."""
    return DataError(
        f"{where}: unknown label {label!r}, known are {', '.join(map(repr, known))}; {fix}"
    )


def number(value: Any, where: str, low: float = -math.inf, high: float = math.inf) -> float:
    """A regression target.

    Raises:
      DataError: the value is not a finite number from `low` to `high`.
    """
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise DataError(f"{where}: the label {value!r} is not a finite number")
    if not low <= found <= high:
        raise DataError(f"{where}: the score {value!r} is not between {low:g} and {high:g}")
    return found


def ordered(names: Iterable[str]) -> tuple[str, ...]:
    """The distinct names, sorted; by value if all names are whole numbers."""
    found = set(names)
    if all(re.fullmatch(r"-?\d+", name, re.ASCII) for name in found):
        return tuple(sorted(found, key=lambda name: (int(name), name)))
    return tuple(sorted(found))


def require_trained(labels: Sequence[str], found: Iterable[Any], fix: str) -> None:
    """Refuses a label without a training example.

    Args:
      labels: all labels of the task.
      found: the labels of the training examples.
      fix: what the user should do, for the message.

    Raises:
      DataError: a label of `labels` is not in `found`.
    """
    trained = set(found)
    missing = [label for label in labels if label not in trained]
    if missing:
        raise DataError(
            f"no training example has the label {', '.join(map(repr, missing))} (the labels: "
            f"{', '.join(labels)}); {fix}"
        )
