"""What the command line says of config fields: `--help`, and the field that somebody meant."""

import dataclasses
import difflib
import re

from bertjax import config_tree
from bertjax.config import Component, Config, leaves
from bertjax.errors import UsageError

# Of the groups that a config file names itself, one stands for all.
_EXAMPLE = dataclasses.replace(Config(), mixture={"NAME": Component()})


def check_field(path: str):
    """Raises UsageError where `path` (`config.a.b`) names no field.

    Phases and the components of a mixture may have any name.
    """
    known = leaves(_EXAMPLE)
    usual = re.sub(r"^config\.phases\.\w+\.", "config.phases.phase1.", path)
    usual = re.sub(r"^config\.mixture\.\w+\.", "config.mixture.NAME.", usual)
    if usual not in known:
        close = difflib.get_close_matches(path, known, n=1)
        hint = f"did you mean --{close[0]}?" if close else "--help lists the fields"
        raise UsageError(f"--{path}: no such field; {hint}")


def describe() -> list[tuple[str, str, str]]:
    """`(field, default, meaning)` of every field, in the order of `config.py`, for `--help`."""
    rows = []
    for path, f, value in config_tree.walk(_EXAMPLE):
        choices = f.metadata.get("choices")
        text = f.metadata["help"] + (f" [{' | '.join(choices)}]" if choices else "")
        rows.append((path, "unset" if value is None else str(value), text))
    return rows
