"""Reads the labeled examples that a config names, with the reader for their layout."""

import dataclasses

from bertjax.config import Config
from bertjax.errors import DataError, UsageError
from bertjax.finetune.examples import Dataset, Text
from bertjax.finetune.readers import (
    builtin,
    choices,
    columns,
    conll,
    exports,
    files,
    glue,
    imdb,
    labels,
    records,
    splits,
    squad,
)
from bertjax.finetune.tasks import KINDS, TASKS, Task


def kind_of(config: Config) -> str:
    """The kind (a key of `tasks.KINDS`) of the config's task.

    Raises:
      UsageError: the config names neither task nor kind, an unknown task, or another kind than the
        task's.
    """
    name, kind = config.task.name, config.task.kind
    if name is None and kind is None:
        raise UsageError(
            f"config.task.name is unset: name a task ({' '.join(TASKS)}), or set config.task.kind "
            f"({' '.join(KINDS)}) for data of your own"
        )
    if name is None:
        return str(kind)
    if name not in TASKS:
        raise UsageError(f"config.task.name={name!r}: there are {' '.join(TASKS)}")
    if kind not in (None, TASKS[name].kind):
        raise UsageError(
            f"config.task.kind={kind}: {name} is {TASKS[name].kind}; unset config.task.name for "
            "data of your own"
        )
    return TASKS[name].kind


def read(config: Config) -> Dataset:
    """All splits of the task `config.task`, read from the source `config.data`.

    Without a dev split, `config.data.heldout_fraction` of the training examples becomes `dev`.

    Raises:
      UsageError: task, files and columns do not fit together.
      DataError: a file has unexpected content; the message names file and line.
    """
    kind = kind_of(config)
    task = TASKS[config.task.name] if config.task.name else None
    if config.data.source == "tfds":
        dataset = _read_tfds(config, kind, task)
    elif config.data.source == "files":
        dataset = _read_files(config, kind, task)
    elif kind == "single" and task is None:
        dataset = builtin.read()
    else:
        raise UsageError(
            "config.data.source=sample: has text for config.task.kind=single; "
            f"{config.task.name or kind} needs config.data.source=files and config.data.files"
        )
    for split, examples in dataset.splits.items():
        if not examples:
            raise DataError(f"config.data: the split {split} is empty")
    _require_labels(dataset, "add examples, or leave it out of config.model.label_names")
    dataset = splits.hold_out(dataset, config.data.heldout_fraction)
    _require_labels(
        dataset,
        "all its examples are held out: change config.data.heldout_fraction, or name a dev file",
    )
    return dataset


def _require_labels(dataset: Dataset, fix: str) -> None:
    """Refuses text labels without a training example; tags may occur in other splits only."""
    train = dataset.splits.get("train", [])
    if train and isinstance(train[0], Text):
        labels.require_trained(dataset.labels, (example.label for example in train), fix)


def _read_files(config: Config, kind: str, task: Task | None) -> Dataset:
    if task and task.folder:
        return glue.read(config, task)
    if task and task.name == "imdb":
        return _read_imdb(config, task)
    if task and kind == "multiple_choice":
        return choices.read_swag(config) if task.name == "swag" else choices.read_race(config)
    if kind == "token":
        return conll.read(config)
    if kind == "span":
        paths = files.named(config.data)
        if _holds(paths, ".json") or (task and not _holds(paths, ".parquet")):
            return squad.read(config)
        config = _with_squad_columns(config) if task else config
    found, notes = splits.assign(files.named(config.data), records.SUFFIXES)
    tables = {split: [records.read(path) for path in paths] for split, paths in found.items()}
    dataset = columns.read(config, kind, tables)
    return dataclasses.replace(dataset, notes=(*notes, *dataset.notes))


def _holds(paths: list[str], suffix: str) -> bool:
    """Whether a path has the suffix, or is a folder that has a file with the suffix."""
    return any(path.endswith(suffix) or files.inside(path, suffix) for path in paths)


def _with_squad_columns(config: Config) -> Config:
    """The config with SQuAD's column names in Hugging Face's parquet export and in TFDS."""
    named = dataclasses.replace(
        config.task, text_column="context", pair_column="question", id_column="id"
    )
    return dataclasses.replace(config, task=named)


def _read_imdb(config: Config, task: Task) -> Dataset:
    """aclImdb's folders, or the parquet files of Hugging Face's export."""
    folder = files.named(config.data)[0]
    found = exports.find(folder)
    if not found:
        return imdb.read(config, task)
    tables = {split: [records.read(path) for path in paths] for split, paths in found.items()}
    return _exported_imdb(tables, task)


def _exported_imdb(tables: dict[str, list[records.Table]], task: Task) -> Dataset:
    dev = {"dev": tables["test"]} if "test" in tables else {}
    train = {"train": tables["train"]} if "train" in tables else {}
    return dataclasses.replace(exports.read(task, {**train, **dev}), notes=(imdb.NOTE,))


def _read_tfds(config: Config, kind: str, task: Task | None) -> Dataset:
    """A TFDS dataset; a task of the papers has known columns, else `config.task` names them."""
    if kind == "token" or config.task.name == "race":
        raise UsageError(
            f"config.data.source=tfds: {config.task.name or kind} is read from files only; set "
            "config.data.source=files and config.data.files"
        )
    tables: dict[str, list[records.Table]] = {}
    for name, rows in records.tfds(config.data).items():
        if name in exports.SPLITS:
            tables[exports.SPLITS[name]] = [rows]
    if task and task.name == "imdb":
        return _exported_imdb(tables, task)
    if task and kind in ("single", "pair", "regression"):
        return exports.read(task, tables)
    if task and task.name == "swag":
        return Dataset({split: choices.swag_rows(rows, split) for split, rows in tables.items()})
    if task and kind == "span":
        return columns.read(_with_squad_columns(config), kind, tables)
    return columns.read(config, kind, tables)
