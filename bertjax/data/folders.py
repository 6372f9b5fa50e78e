"""The files that one pattern of `config.data.files` names: matches of a glob, or a whole folder."""

import json
import os

from bertjax import storage
from bertjax.errors import DataError, UsageError, one_line


def find(pattern: str) -> list[str]:
    """The files of a glob, sorted, or of a folder.

    A folder of `datasets`' `save_to_disk` has its data files, in the order of its `state.json`.
    Any other one has all files in it and below it, sorted, without those whose name, or the name
    of a folder on the way, starts with a dot or an underscore.

    Raises:
      UsageError: a folder of several splits, of which one is to be named.
      DataError: a saved dataset that says something else than its data files do.
    """
    found = storage.find(pattern)
    folder = os.path.expanduser(pattern).rstrip("/")
    if found or not storage.is_directory(folder):
        return found
    splits = _read(f"{folder}/dataset_dict.json").get("splits", [])
    if len(splits) > 1:
        names = ", ".join(splits)
        raise UsageError(
            f"config.data.files={pattern!r}: a dataset with the splits {names}; name the folder "
            f"of one, as {folder}/{splits[0]}"
        )
    if splits:
        return find(f"{folder}/{splits[0]}")
    state = _read(f"{folder}/state.json")
    if "_data_files" in state:
        return _saved(folder, state)
    return [
        path for path in storage.find(f"{folder}/**") if not _is_hidden(path.removeprefix(folder))
    ]


def _saved(folder: str, state: dict) -> list[str]:
    if state.get("_indices_data_files"):
        raise DataError(
            f"{folder}: a dataset saved with a choice of its rows beside them "
            "(_indices_data_files), which is not read; load it, flatten_indices() and save again"
        )
    paths = [f"{folder}/{file['filename']}" for file in state["_data_files"]]
    if lost := [path for path in paths if not storage.is_file(path)]:
        raise DataError(f"{lost[0]}: not there, and {folder}/state.json names it")
    return paths


def _is_hidden(path: str) -> bool:
    return any(part.startswith((".", "_")) for part in path.split("/"))


def _read(path: str) -> dict:
    """A JSON object of `datasets`, {} where it is not there."""
    if not storage.is_file(path):
        return {}
    try:
        found = json.loads(storage.read(path))
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {one_line(error)}") from None
    return found if isinstance(found, dict) else {}
