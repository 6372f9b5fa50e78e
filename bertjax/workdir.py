"""The single files in a run's directory W: the resolved config, and the results of fine-tuning."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from bertjax import config as config_lib
from bertjax import storage
from bertjax.errors import DataError, StorageError, UsageError
from bertjax.processes import lock

SCORES, RESULTS = "scores.json", "results.json"  # for a fine-tuned run; for all runs of a grid
PROGRAMS = "compilation_cache"


def programs(config: config_lib.Config, workdir: Path) -> Path | None:
    """The directory of a run's compiled programs; None with `compilation_cache=off`."""
    asked = config.compilation_cache
    if asked == "off":
        return None
    return storage.path(workdir) / PROGRAMS if asked is None else storage.path(asked)


def read_config(workdir: Path) -> config_lib.Config:
    """The resolved config of a run, from `W/config.json`.

    Raises:
      DataError: the file is missing or cannot be read.
    """
    path = storage.path(workdir) / "config.json"
    try:
        return config_lib.from_config_dict(_renamed(json.loads(storage.read(path))))
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{path}: missing; is {workdir} the --workdir of a bertjax run?") from None
    except (ValueError, RecursionError, UsageError) as error:
        raise DataError(f"{path}: not a config of this version ({error})") from None


def _renamed(tree: Any) -> Any:
    """A stored config with this version's names: the TPU kernel `flash` was called `splash`."""
    match tree:
        case {"model": {"attention": "splash"}}:
            return tree | {"model": tree["model"] | {"attention": "flash"}}
    return tree


def best_run(workdir: Path) -> Path:
    """The directory of the best run of a grid; for a single run, `workdir` itself.

    Raises:
      DataError: W holds an unfinished grid, or no run of the grid was evaluated.
    """
    place = storage.path(workdir)
    if storage.is_directory(place / "checkpoints") or not storage.is_directory(place / "runs"):
        return place
    if not storage.exists(place / RESULTS):
        raise DataError(
            f"{place}: holds an unfinished grid; run the same bertjax finetune again, or name one "
            f"run: {place}/runs/NAME"
        )
    best = _object(place / RESULTS, "best")
    if best is None:
        raise DataError(f"{place}: no run was evaluated; name one: {place}/runs/NAME")
    return place / "runs" / str(best)


def selected(workdir: Path) -> tuple[int, str] | None:
    """The step whose weights count in a finished fine-tuning, and the metric that decided.

    None for any other run.
    """
    path = storage.path(workdir) / SCORES
    if not storage.exists(path):
        return None
    return int(_object(path, "step")), str(_object(path, "metric"))


def _object(path: Path, name: str) -> Any:
    """A field of a JSON object."""
    try:
        return json.loads(storage.read(path))[name]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DataError(
            f"{path}: damaged: no {name!r}; remove it and run the same bertjax finetune again"
        ) from None


def resumed(config: config_lib.Config, workdir: Path) -> config_lib.Config:
    """The config of a run that resumes from its checkpoints, with `init_from` from W/config.json.

    Raises:
      UsageError: `init_from` names other weights, which the run would ignore.
    """
    if not storage.exists(storage.path(workdir) / "config.json"):
        return config
    started = read_config(workdir).init_from
    if config.init_from not in (None, started):
        raise UsageError(
            f"config.init_from={config.init_from!r}: {workdir}/checkpoints holds weights already, "
            f"which started from {started or 'random weights'}; unset it to go on with them, or "
            "take another --workdir"
        )
    return dataclasses.replace(config, init_from=started)


def write_config(config: config_lib.Config, workdir: Path) -> list[str]:
    """Writes `W/config.json`; returns a line for each field that differs from the previous file."""
    path = storage.path(workdir) / "config.json"
    lock.require(path)
    changes = _changes(read_config(workdir), config) if storage.exists(path) else []
    try:
        storage.write(path, (json.dumps(config_lib.to_dict(config), indent=2) + "\n").encode())
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from None
    return changes


def _changes(old: config_lib.Config, new: config_lib.Config) -> list[str]:
    before, after = config_lib.leaves(old), config_lib.leaves(new)
    return [
        f"{field}: {before.get(field)!r} -> {after.get(field)!r}"
        for field in sorted(before.keys() | after.keys())
        if before.get(field) != after.get(field)
    ]
