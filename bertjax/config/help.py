"""Config fields on the command line: their types, and the lines of `--help`."""

import dataclasses
from typing import Any

from bertjax.config import aliases, tree
from bertjax.config.data_fields import Component
from bertjax.config.fields import Config
from bertjax.errors import UsageError

# One example entry stands for the groups that users name: phases and mixture components.
_EXAMPLE = dataclasses.replace(Config(), mixture={"NAME": Component()})


def type_of(path: str) -> Any:
    """The type of the field `path` (`config.a.b`), which decides how its text is read.

    Phases and the components of a mixture may have any name.

    Raises:
      UsageError: there is no such field, or `path` is a group of fields.
    """
    known = tree.paths(Config)
    group = next((field for field in known if field.startswith(f"{path}.")), None)
    if group:
        raise UsageError(
            f"--{path}: a group of fields, not one; for example "
            f"--{group.replace('.NAME.', '.phase1.')}"
        )
    if aliases.usual(path) not in known:
        hint = aliases.meant(path, list(known)).replace("mean config.", "mean --config.")
        raise UsageError(f"--{path}: no such field; {hint}")
    return known[aliases.usual(path)]


def describe() -> list[tuple[str, str, str]]:
    """`(field, default, meaning)` of every field, in the order of `fields`, for `--help`."""
    rows = []
    for path, f, value in tree.walk(_EXAMPLE):
        choices = f.metadata.get("choices")
        text = f.metadata["help"] + (f" [{' | '.join(choices)}]" if choices else "")
        rows.append((path, str(value), text))
    return rows
