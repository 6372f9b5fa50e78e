"""The argument of a config file: the part after the colon of `--config=FILE:arg`."""

import types
from typing import Any

from bertjax.config import values as config_values
from bertjax.errors import UsageError


def parse_arg(arg: str | None, **defaults: Any) -> types.SimpleNamespace:
    """The values of a config file's argument, for its `get_config(arg=None)`.

    `"builder=doc_sentences,nsp=False"` sets two values; a bool's name alone sets it to True. A
    value has the type of its default, which must be a bool, int, float or str.

        arg = config_lib.parse_arg(arg, builder="full_sentences", nsp=True, steps=3000)
        config.examples.builder = arg.builder

    Raises:
      UsageError: a name has no default or is given twice, or a value has another type.
    """
    values = {}
    for item in arg.split(",") if arg else ():
        name, equals, text = item.partition("=")
        if name not in defaults:
            known = ", ".join(f"{k}={v}" for k, v in defaults.items())
            raise UsageError(f"--config=FILE:{arg}: no {name!r} here; known: {known}")
        if name in values:
            raise UsageError(f"--config=FILE:{arg}: {name} is given twice")
        kind = type(defaults[name])
        text = text if equals or kind is not bool else "true"
        try:
            values[name] = config_values.read(kind, text, item)
        except UsageError:
            raise UsageError(
                f"--config=FILE:{arg}: {item}: expected {name}={kind.__name__}, "
                f"for example {name}={defaults[name]}"
            ) from None
    return types.SimpleNamespace(**defaults | values)
