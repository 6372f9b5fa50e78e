"""The files that one pattern of `config.data.files` names: matches of a glob, or a whole folder."""

import glob
import json
import os
import re
from collections.abc import Iterable

from bertjax import storage
from bertjax.errors import DataError, UsageError, one_line

# What programs and people put beside data: .cache/, _SUCCESS, README.md, LICENSE.
_BESIDE = re.compile("/[._]|/(?:README|LICENSE)[^/]*$")


def patterns(files: str | None) -> list[str]:
    """The patterns of a field such as `config.data.files`."""
    return [pattern for pattern in map(str.strip, (files or "").split(",")) if pattern]


def unique(paths: Iterable[str]) -> list[str]:
    """The paths in their order, the first one of those that lead to one file."""
    first: dict[str, str] = {}
    for path in paths:
        first.setdefault(real(path), path)
    return list(first.values())


def real(path: str) -> str:
    """The place of a file, whatever links lead to it."""
    return path if storage.is_remote(path) else os.path.realpath(path)


def find(pattern: str) -> list[str]:
    """The files of a glob, sorted, or of a folder.

    A folder of `datasets`' `save_to_disk` has its data files, in the order of its `state.json`.
    Any other one has all files in it and below it, sorted, without those of `_BESIDE`.

    Raises:
      UsageError: a folder of several splits, of which one is to be named.
      DataError: a saved dataset that says something else than its data files do.
    """
    found = storage.find(pattern)
    folder = os.path.expanduser(pattern).rstrip("/")
    if found or not storage.is_directory(folder):
        return found
    splits = _splits(folder)
    if len(splits) > 1:
        names = ", ".join(splits)
        raise UsageError(
            f"config.data.files={pattern!r}: a dataset with the splits {names}; name the folder "
            f"of one, as {folder}/{splits[0]}"
        )
    if splits:
        return find(f"{folder}/{splits[0]}")
    state = _read(f"{folder}/state.json")
    return _saved(folder, state) if "_data_files" in state else _below(folder)[0]


def passed_over(pattern: str) -> list[str]:
    """The files of a folder that `find` leaves out."""
    folder = os.path.expanduser(pattern).rstrip("/")
    is_plain = storage.is_directory(folder) and not storage.is_file(f"{folder}/state.json")
    return _below(folder)[1] if is_plain else []


def _below(folder: str) -> tuple[list[str], list[str]]:
    """The files in a folder and below it: those that are taken, and the others."""
    escaped = folder if storage.is_remote(folder) else glob.escape(folder)
    found = storage.find(f"{escaped}/**")
    beside = [path for path in found if _BESIDE.search(path.removeprefix(folder))]
    return sorted(set(found) - set(beside)), beside


def _saved(folder: str, state: dict) -> list[str]:
    if state.get("_indices_data_files"):
        raise DataError(
            f"{folder}: a dataset saved with a choice of its rows beside them "
            "(_indices_data_files), which is not read; load it, flatten_indices() and save again"
        )
    place = f"{folder}/state.json"
    try:
        paths = [f"{folder}/{file['filename']}" for file in state["_data_files"]]
    except (TypeError, KeyError):
        raise DataError(f"{place}: its _data_files are no list of filenames") from None
    if not paths:
        raise DataError(f"{place}: names no data files; save the dataset again")
    if lost := [path for path in paths if not storage.is_file(path)]:
        raise DataError(f"{lost[0]}: not there, and {place} names it")
    return paths


def _read(path: str) -> dict:
    """A JSON object of `datasets`, {} where it is not there."""
    if not storage.is_file(path):
        return {}
    try:
        found = json.loads(storage.read(path))
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {one_line(error)}") from None
    return found if isinstance(found, dict) else {}


def _splits(folder: str) -> list[str]:
    """The splits of a saved `DatasetDict`; none of any other folder."""
    path = f"{folder}/dataset_dict.json"
    found = _read(path).get("splits", [])
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise DataError(f"{path}: its splits are no list of names")
    return found
