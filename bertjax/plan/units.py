"""Formats figures in units that suit their size, for small and large models."""

import math

_PREFIXES = ("", "K", "M", "G", "T", "P", "E")
_TIMES = (("days", 86_400), ("hours", 3600), ("minutes", 60), ("s", 1), ("ms", 1e-3))


def scaled(number: float | None, unit: str = "") -> str:
    """Three digits and a prefix: 1.31 M tokens; "" for None."""
    return "" if number is None else _scaled(number, 1000, "", unit)


def memory(number: float | None) -> str:
    """Three digits of bytes in powers of 1,024: 15.8 GiB; "" for None."""
    return "" if number is None else _scaled(number, 1024, "i", "B")


def _scaled(number: float, step: int, mark: str, unit: str) -> str:
    power = 0
    while abs(number) >= 999.5 and power < len(_PREFIXES) - 1:
        number, power = number / step, power + 1
    prefix = _PREFIXES[power] + (mark if power else "")
    joined = f"{prefix}{unit}" if len(unit) < 2 else f"{prefix} {unit}".strip()
    return f"{_digits(number)} {joined}".strip()


def _digits(number: float) -> str:
    """Three digits; whole numbers as they are."""
    if number == int(number):
        return f"{number:.0f}"
    places = 2 - math.floor(math.log10(abs(float(f"{number:.2e}"))))
    return f"{number:.{max(0, places)}f}"


def duration(seconds: float | None) -> str:
    """A time in the largest unit that it has at least two of: 107.7 ms, 90.0 s, 3.2 days."""
    if seconds is None:
        return "unknown for these devices"
    for unit, size in _TIMES:
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{1e6 * seconds:.1f} µs"
