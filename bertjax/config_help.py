"""What the command line says of config fields: `--help`, and the field that somebody meant."""

import difflib
import re

from bertjax import config_tree
from bertjax.config import Config, leaves
from bertjax.errors import UsageError


def check_field(path: str):
    """Raises UsageError where `path` (`config.a.b`) names no field; phases may have any name."""
    known = [re.sub(r"phases\.\w+\.", "phases.phase1.", name) for name in leaves(Config())]
    if re.sub(r"phases\.\w+\.", "phases.phase1.", path) not in known:
        close = difflib.get_close_matches(path, known, n=1)
        hint = f"did you mean --{close[0]}?" if close else "--help lists the fields"
        raise UsageError(f"--{path}: no such field; {hint}")


def describe() -> list[tuple[str, str, str]]:
    """`(field, default, meaning)` of every field, in the order of `config.py`, for `--help`."""
    rows = []
    for path, f, value in config_tree.walk(Config()):
        choices = f.metadata.get("choices")
        text = f.metadata["help"] + (f" [{' | '.join(choices)}]" if choices else "")
        rows.append((path, "unset" if value is None else str(value), text))
    return rows
