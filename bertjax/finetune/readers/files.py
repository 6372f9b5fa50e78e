"""The files and folders that `config.data.files` of a fine-tuning names, and their text."""

import glob
import gzip
import json
import os
import zlib
from typing import Any

from bertjax import storage
from bertjax.config import Data
from bertjax.errors import DataError, UsageError


def named(data: Data) -> list[str]:
    """The folders and files that `data.files` names: its patterns in order, their matches sorted.

    Raises:
      UsageError: `data.files` is unset.
      DataError: a pattern matches nothing.
    """
    patterns = [p.strip() for p in (data.files or "").split(",") if p.strip()]
    if not patterns:
        raise UsageError(
            "config.data.files is unset: name the task's folder or its files, or set "
            "config.data.source=tfds"
        )
    paths = []
    for pattern in patterns:
        place = os.fspath(storage.path(pattern))
        found = [place] if storage.exists(place) else storage.find(pattern)
        if not found:
            raise DataError(f"config.data.files={pattern!r}: no file or folder matches")
        paths += [path for path in found if path not in paths]
    return paths


def inside(folder: str, *suffixes: str) -> list[str]:
    """The files in a folder whose names end in one of `suffixes`, sorted by name."""
    root = folder.rstrip("/")
    found = storage.find(f"{root if storage.is_remote(root) else glob.escape(root)}/*")
    return [path for path in found if path.endswith(suffixes)]


def join(folder: str, *names: str) -> str:
    """The path of what is called `names` in a folder, local or gs://."""
    return "/".join((folder.rstrip("/"), *names))


def base(path: str) -> str:
    """The name of a file or folder without the folders above it."""
    return path.rstrip("/").rpartition("/")[2]


def read_text(path: str) -> str:
    """The text of a UTF-8 file, without a byte-order mark; `.gz` is unpacked.

    Raises:
      DataError: a file that cannot be read, is not UTF-8 (the line is named), or a damaged gzip.
    """
    try:
        data = storage.read(path)
        return (gzip.decompress(data) if path.endswith(".gz") else data).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}:{line}: not UTF-8 at byte {error.start}; convert it: iconv -f ... -t UTF-8"
        ) from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: truncated or damaged gzip ({error})") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None


def read_lines(path: str, *, ends: bool = False) -> list[str]:
    """The lines of a text file, which end at LF or CRLF; blank ones at the end are left out.

    With `ends`, the CR of a CRLF stays. Other characters that Python takes for ends of lines (U+0085, U+2028) occur inside texts.

    Raises:
      DataError: as `read_text`, or a file without text.
    """
    lines = read_text(path).split("\n")
    if not ends:
        lines = [line.removesuffix("\r") for line in lines]
    while lines and lines[-1] in ("", "\r"):
        lines.pop()
    if not lines:
        raise DataError(f"{path}: an empty file")
    return lines


def parse_json(text: str, where: str) -> dict[str, Any]:
    """The object that a JSON text holds.

    Raises:
      DataError: no JSON, or none of an object; `where` names the file and line.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error})") from None
    if not isinstance(found, dict):
        raise DataError(f"{where}: a JSON {type(found).__name__}, expected an object")
    return found


def as_text(value: Any, where: str, name: str) -> str:
    """A text as it is; half of a surrogate pair, which no tokenizer can encode, becomes "?".

    Raises:
      DataError: `value` is no text.
    """
    if not isinstance(value, str):
        raise DataError(f"{where}: {name!r} is {type(value).__name__}, expected text")
    return value if value.isascii() else value.encode("utf-8", "replace").decode()
