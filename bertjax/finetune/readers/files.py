"""The files and folders in a fine-tuning's `config.data.files`, and their text."""

import glob
import io
import json
import os
from typing import Any

from bertjax import storage
from bertjax.config import Data
from bertjax.data import compression
from bertjax.errors import DataError, UsageError


def named(data: Data) -> list[str]:
    """The files and folders that match the patterns in `data.files`: by pattern, then sorted.

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
    """The path `folder/names[0]/names[1]...`, local or gs://."""
    return "/".join((folder.rstrip("/"), *names))


def base(path: str) -> str:
    """The name of a file or folder without the folders above it."""
    return path.rstrip("/").rpartition("/")[2]


def read_text(path: str) -> str:
    """The text of a UTF-8 file, without a byte-order mark, decompressed where it is compressed.

    Raises:
      DataError: the file cannot be read, is not UTF-8 (the message names the line), or its
        compression is damaged.
    """
    try:
        file = compression.decompressed(io.BytesIO(storage.read(path)), path)
        return file.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}:{line}: not UTF-8 at byte {error.start}; convert it: iconv -f ... -t UTF-8"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None


def read_lines(path: str, *, ends: bool = False) -> list[str]:
    """The lines of a text file without blank lines at its end; a line ends at LF or CRLF.

    Python's other line ends (U+0085, U+2028) do not end a line here, because texts contain them.

    Args:
      ends: keep the CR of a CRLF.

    Raises:
      DataError: see `read_text`; or the file has no text.
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
    """The object in a JSON text.

    Args:
      where: file and line, for messages.

    Raises:
      DataError: the text is not JSON, or not an object.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error})") from None
    if not isinstance(found, dict):
        raise DataError(f"{where}: a JSON {type(found).__name__}, expected an object")
    return found


def as_text(value: Any, where: str, name: str) -> str:
    """The value, which must be text; lone surrogates, which no tokenizer can encode, become "?".

    Raises:
      DataError: `value` is not text.
    """
    if not isinstance(value, str):
        raise DataError(f"{where}: {name!r} is {type(value).__name__}, expected text")
    return value if value.isascii() else value.encode("utf-8", "replace").decode()
