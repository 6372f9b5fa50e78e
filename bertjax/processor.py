"""The processor of this machine, as Linux describes it."""

import re
from pathlib import Path


def cpuinfo() -> str:
    """The text of /proc/cpuinfo; "" where there is none."""
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


def flags(text: str) -> set[str]:
    """The instruction sets of the first processor of a cpuinfo."""
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.M)
    return set(found[1].split()) if found else set()
