"""Loads `--config=FILE` or `--config=FILE:arg`: the tree that the file's `get_config` returns.

`--config=bertjax:NAME` loads a file that is installed with bertjax: `bertjax:bert_base`.
"""

import dataclasses
import difflib
import importlib.machinery
import importlib.util
import os
import re
import traceback
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

import bertjax
from bertjax.config.fields import Config
from bertjax.errors import BertjaxError, UsageError

CARRIED = "bertjax"  # in place of a file: a config of the package


def load(given: str) -> ConfigDict:
    """Runs a config file; an `arg` after a colon is passed to `get_config`.

    Raises:
      UsageError: there is no such file, or running it fails; the message names the line.
    """
    name, colon, arg = given.partition(":")
    if name == CARRIED:
        name, colon, arg = arg.partition(":")
        path = _carried() / f"{name}.py"
        if name not in carried_names():
            raise UsageError(f"--config={given}: bertjax has {', '.join(carried_names())}")
    else:
        path = Path(os.path.expanduser(name))
    if not path.is_file():
        raise UsageError(f"--config={given}: {_missing(path)}")
    loader = importlib.machinery.SourceFileLoader("config", str(path))
    spec: Any = importlib.util.spec_from_loader("config", loader)
    module = importlib.util.module_from_spec(spec)
    try:
        loader.exec_module(module)
        tree = module.get_config(*([arg] if colon else []))
    except BertjaxError:
        raise
    except Exception as error:
        raise UsageError(f"--config={given}: {_line(error, path)}{_text(error)}") from None
    if not isinstance(tree, ConfigDict):
        raise UsageError(
            f"--config={given}: get_config() returns {type(tree).__name__}, not a config; "
            "end it with `return config`"
        )
    return tree


def carried_names() -> list[str]:
    """The configs that are installed with bertjax, as `--config=bertjax:NAME` names them."""
    return sorted(file.stem for file in _carried().glob("*.py") if file.stem != "__init__")


def _carried() -> Path:
    """Of a wheel, `bertjax/configs`; of a source tree, `configs` beside `bertjax`."""
    package = Path(bertjax.__file__).parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def _missing(path: Path) -> str:
    if path.is_dir():
        return "a folder; name a config file in it"
    beside = [*path.parent.glob("*.py"), *Path("configs").glob("*.py")]
    names = {file.stem: str(file) for file in reversed(beside)}
    close = difflib.get_close_matches(path.stem, names, n=1, cutoff=0.7)
    return f"no such file; did you mean --config={names[close[0]]}?" if close else "no such file"


def _line(error: Exception, path: Path) -> str:
    """The config file's line in an error, as `line N: `; "" if the error has no line there."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    number = error.lineno if isinstance(error, SyntaxError) else frames and frames[-1].lineno
    return f"line {number}: " if number else ""


def _text(error: Exception) -> str:
    name = re.fullmatch(r"[\"']*(\w+)[\"']*", str(error))
    if isinstance(error, AttributeError) and name:  # a ConfigDict raises only the name
        groups = [f.name for f in dataclasses.fields(Config)]
        close = difflib.get_close_matches(name[1], groups, n=1)
        return f"no group {name[1]!r}" + (f"; did you mean {close[0]!r}?" if close else "")
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {' '.join(text.split())}"
