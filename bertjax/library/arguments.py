"""Errors in the words of a Python call: `workdir='W': in use`, where a command says --workdir=W.

Some 80 errors in 38 files below this folder name flags, as most of their readers typed a command. To
rewrite the finished message is one rule here instead of a field and a value in each of them, and it
finds flags without doubt, as only they begin with two dashes.
"""

import contextlib
import re
from collections.abc import Iterator

from bertjax.errors import BertjaxError

_RENAMED = {"do_lower_case": "lowercase"}
# A quoted text, or a flag and a value that ends before a space, or a colon or a comma with a space
# behind. Dashes within a path or a word are no flag.
_FLAG = re.compile(
    r"'[^']*'|(?<![\w/.-])--(?!help\b)([a-z]\w*)((?:\.\w+)*)(?:=('[^']*'|[^\s;,()]+?)(?=[:;,()]?(?:\s|$)|[;,()]))?"
)
_PLAIN = re.compile(
    r"'.*'|[-+]?[\d.]+(e[-+]?\d+)?|[A-Z]+"
)  # needs no quotes in Python, or has them


def _argument(flag: re.Match) -> str:
    name, fields, value = flag.groups()
    if name is None:
        return flag[0]
    name = _RENAMED.get(name, name) + fields
    if value is None:
        return name
    if value in ("true", "false"):
        return f"{name}={value.title()}"
    return f"{name}={value if _PLAIN.fullmatch(value) else repr(value)}"


def in_python(message: str) -> str:
    """A command's message with flags written as arguments."""
    return _FLAG.sub(_argument, message)


@contextlib.contextmanager
def named() -> Iterator[None]:
    """While entered, errors of bertjax that pass name arguments."""
    try:
        yield
    except BertjaxError as error:
        error.args = (in_python(str(error)),)
        raise
