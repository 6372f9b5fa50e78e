"""Reads an untrusted folder: its files are checked, and no file outside it is opened."""

import json
import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from bertjax.errors import DataError, one_line

# Configs and indices take kilobytes, while a megabyte of empty lists takes 25 MB once parsed.
MAX_JSON_BYTES = 1 << 20


class Folder:
    """Files of one directory, by plain names.

    Raises:
      DataError: `root` is not a directory.
    """

    def __init__(self, root: Path | str):
        self.root = Path(root)
        if not self.root.is_dir():
            unpack = "; unpack it first" if self.root.is_file() else ""
            raise DataError(f"{self.root}: not a directory{unpack}")
        real = self.root.resolve()
        # In the Hub's cache, files of snapshots/COMMIT are links into the `blobs` beside
        # `snapshots`. Large files there are links into the `blobs` that all cached models share.
        cached = real.parent.name == "snapshots"
        blobs = [parent / "blobs" for parent in real.parents[1:3]] if cached else []
        self._inside = [real, *blobs]

    def has(self, name: str) -> bool:
        return (self.root / name).exists()

    def names(self) -> list[str]:
        """The names of all entries, sorted."""
        return sorted(path.name for path in self.root.iterdir())

    def unread(self, known: tuple[str, ...]) -> list[str]:
        """A note that lists the entries that match no pattern in `known`; [] if all match."""
        left = [n for n in self.names() if not any(fnmatchcase(n, pattern) for pattern in known)]
        return [f"not read: {listed(left)}"] if left else []

    def file(self, name: str) -> Path:
        """The path of a regular file in this directory.

        Raises:
          DataError: `name` contains a directory, is a link that leads out of the folder, is
            missing, or is not a regular file (opening a pipe would block forever).
        """
        path = self._inner(name)
        if not path.is_file():
            raise DataError(f"{path}: not a regular file")
        return path

    def folder(self, name: str) -> "Folder":
        """A subdirectory, whose links must stay inside this folder too.

        Raises:
          DataError: as `file`; or `name` is not a directory.
        """
        inner = Folder(self._inner(name))
        inner._inside = self._inside
        return inner

    def _inner(self, name: str) -> Path:
        if not isinstance(name, str) or not re.fullmatch(r"[\w.\-]+", name) or name in (".", ".."):
            raise DataError(f"{self.root}: {name!r} is not the plain name of a file in this folder")
        path = self.root / name
        try:
            real = path.resolve(strict=True)
        except (OSError, RuntimeError):
            raise DataError(f"{path}: missing, or a link to nothing") from None
        if not any(real.is_relative_to(inside) for inside in self._inside):
            raise DataError(
                f"{path}: a link that leads out of the folder; put the file itself there"
            )
        return path

    def json(self, name: str, kind: type = dict) -> Any:
        """The object (or with `kind=list` the array) that a .json file holds.

        Raises:
          DataError: as `file`; or the file is too large, is not JSON, or holds another kind.
        """
        return read_json(self.file(name), kind)


def read_json(path: Path, kind: type = dict) -> Any:
    """The object (or array) that a small .json file holds; raises DataError if there is none."""
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise DataError(f"{path}: {size:,} bytes; expected at most {MAX_JSON_BYTES:,}")
        tree = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({one_line(error, longest=200)})") from None
    if not isinstance(tree, kind):
        raise DataError(f"{path}: expected a JSON {'object' if kind is dict else 'array'}")
    return tree


def listed(names: list[str], most: int = 5) -> str:
    """The first names of an untrusted list, printable on one line, and how many more there are."""
    shown = ["".join(c if c.isprintable() else "?" for c in name) for name in names[:most]]
    first = ", ".join(name if len(name) <= 80 else f"{name[:80]}..." for name in shown)
    return first + (f" and {len(names) - most} more" if len(names) > most else "")
