"""Reads GLUE from its official TSV files (Wang et al. 2018, gluebenchmark.com/tasks) or parquet.

Quotes are literal. CoLA's train.tsv and dev.tsv have no header. QQP's train.tsv has a few broken
rows. MRPC comes without a train.tsv, so its rows are read from Microsoft's files. The labels of
test files are not read, because GLUE does not publish them.
"""

import re
from typing import NamedTuple

from bertjax import storage
from bertjax.config import Config
from bertjax.errors import DataError, UsageError
from bertjax.finetune.examples import Dataset, Text
from bertjax.finetune.readers import exports, files, labels, records, splits
from bertjax.finetune.readers.lines import Row
from bertjax.finetune.tasks import Task

_STEMS = {
    "train": "train",
    "dev": "dev",
    "dev_matched": "dev",
    "dev_mismatched": "dev_mismatched",
    "test": "test",
    "test_matched": "test",
    "test_mismatched": "test_mismatched",
}
COLA = ("source", "label", "mark", "sentence")
_UNLABELED = ("test", "test_mismatched", "ax")  # GLUE does not publish their labels
_MOST_BROKEN = 0.01  # the largest share of broken QQP training rows; the official file has 0.01%
_MSR_TRAIN, _MSR_TEST, _DEV_IDS = (
    "msr_paraphrase_train.txt",
    "msr_paraphrase_test.txt",
    "dev_ids.tsv",
)


class _Rows(NamedTuple):
    """The examples of one file, and notes on rows that were left out."""

    examples: list[Text]
    notes: list[str]


def read(config: Config, task: Task) -> Dataset:
    """The splits of a GLUE task; `config.data.files` is its folder, GLUE's folder, or files.

    The splits are train, dev and test. MNLI also has dev_mismatched, test_mismatched and ax, the
    diagnostic set: diagnostic.tsv in MNLI's folder, or a folder AX or diagnostic beside that.

    Raises:
      UsageError: a file's name tells no split, or its suffix is wrong.
      DataError: a file does not hold the task's rows; the message names the line.
    """
    found, home = _layout(files.named(config.data), task)
    if any(path.endswith(".parquet") for paths in found.values() for path in paths):
        tables = {split: [records.read(p) for p in paths] for split, paths in found.items()}
        return exports.read(task, tables)
    parts: dict[str, list] = {}
    notes: list[str] = []
    for split, paths in found.items():
        for path in paths:
            rows = _read_tsv(path, split, task)
            parts.setdefault(split, []).extend(rows.examples)
            notes += rows.notes
    if task.name == "mrpc" and home and "train" not in parts:
        notes += _add_msr(parts, home, task)
    return Dataset(parts, task.labels, tuple(notes))


def _layout(paths: list[str], task: Task) -> tuple[dict[str, list[str]], str]:
    """The files of each split, and the task's folder ("" if the config names files)."""
    folders = [path for path in paths if storage.is_directory(path)]
    if not folders:
        return _by_name(paths, task), ""
    if len(paths) > 1:
        raise UsageError(f"config.data.files: name one folder of {task.title}, or files only")
    inner = [files.join(folders[0], name) for name in (task.folder, task.name)]
    home = next((folder for folder in inner if storage.is_directory(folder)), folders[0])
    found = {}
    for path in files.inside(home, ".tsv"):
        if split := _STEMS.get(files.base(path).removesuffix(".tsv")):
            found[split] = [path]
    if not found:
        found = exports.find(home)
    if not found and not storage.exists(files.join(home, _MSR_TRAIN)):
        raise DataError(
            f"config.data.files: neither {task.title}'s train.tsv, dev.tsv or test.tsv nor "
            f"train-*.parquet, validation-*.parquet or test-*.parquet in {home}"
        )
    diagnostic = _diagnostic(home, found) if task.name == "mnli" else None
    return ({**found, "ax": [diagnostic]} if diagnostic else found), home


def _by_name(paths: list[str], task: Task) -> dict[str, list[str]]:
    """The splits of files that the config names one by one."""
    if any(files.base(path) == _DEV_IDS for path in paths):
        raise UsageError(
            f"config.data.files: {_DEV_IDS} is read from MRPC's folder; name the folder"
        )
    ax = [p for p in paths if {"ax", "diagnostic"} & set(_words(p))] if task.name == "mnli" else []
    rest = [path for path in paths if path not in ax]
    found, _ = splits.assign(rest, (".tsv", ".txt", ".parquet")) if rest else ({}, [])
    result: dict[str, list[str]] = {"ax": ax} if ax else {}
    for split, members in found.items():
        for path in members:
            suffix = "_mismatched" if "mismatched" in _words(path) and split != "train" else ""
            result.setdefault(split + suffix, []).append(path)
    if len({path.endswith(".parquet") for path in paths}) > 1:
        raise UsageError("config.data.files: name TSV files or parquet files, not both")
    return result


def _words(path: str) -> list[str]:
    return re.findall("[a-z]+", files.base(path).lower())


def _diagnostic(home: str, found: dict[str, list[str]]) -> str | None:
    """The file of the diagnostic set, in MNLI's folder or a folder beside it; None if missing."""
    above = home.rstrip("/").rpartition("/")[0] or "."
    if any(path.endswith(".parquet") for paths in found.values() for path in paths):
        return next(iter(files.inside(files.join(above, "ax"), ".parquet")), None)
    places = [files.join(home, "diagnostic.tsv")]
    for folder in ("AX", "diagnostic", "ax"):
        for name in ("diagnostic.tsv", "AX.tsv", "test.tsv"):
            places.append(files.join(above, folder, name))
    return next((place for place in places if storage.exists(place)), None)


def _read_tsv(path: str, split: str, task: Task) -> _Rows:
    """The examples of one file."""
    broken: list[str] | None = [] if (task.name, split) == ("qqp", "train") else None
    header: tuple[str, ...] = ()
    if task.name == "cola" and "sentence" not in files.read_lines(path)[0].split("\t"):
        header = COLA
    examples, undecided = [], 0
    for row in records.tsv(path, header, broken):
        if task.name == "mnli" and split not in _UNLABELED and row.get(task.label_column) == "-":
            undecided += 1  # the annotators did not agree (MultiNLI, section 2.2)
        else:
            examples.append(_example(row, split, task))
    if not examples:
        raise DataError(f"{path}: no rows")
    notes = []
    if undecided:
        notes.append(f"{path}: {undecided} pairs with the label '-' are left out")
    if broken:
        if len(broken) > _MOST_BROKEN * (len(examples) + len(broken)):
            raise DataError(
                f"{broken[0]}: a wrong number of columns, as in {len(broken)} of "
                f"{len(examples) + len(broken)} rows; the file is damaged"
            )
        notes.append(
            f"{path}: {len(broken)} rows with a wrong number of columns are left out of training, "
            f"the first is {broken[0]}"
        )
    return _Rows(examples, notes)


def _example(row: Row, split: str, task: Task) -> Text:
    name = "id" if task.name == "qqp" and split == "test" else "index"
    texts = tuple(row.text(column) for column in task.columns)
    label = None if split in _UNLABELED else _label(row, task)
    return Text(row.values.get(name, str(row.number)), texts, label)


def _label(row: Row, task: Task) -> str | float:
    value = row.get(task.label_column)
    if task.kind == "regression":
        return labels.number(value, row.where, *exports.STSB_RANGE)
    words = task.words or task.labels
    if value not in words:
        raise labels.unknown(value, words, row.where)
    return task.labels[words.index(value)]


def _add_msr(parts: dict[str, list], home: str, task: Task) -> list[str]:
    """Adds MRPC's missing splits from Microsoft's files; an id is the row's number in its file.

    GLUE's dev set is the pairs of `msr_paraphrase_train.txt` whose two ids are in `dev_ids.tsv`.
    """
    path = files.join(home, _MSR_TRAIN)
    if not storage.exists(path):
        return []
    listed = files.join(home, _DEV_IDS)
    pairs = set()
    if storage.exists(listed):
        pairs = {tuple(line.split("\t")) for line in files.read_lines(listed)}
    train: list[Text] = []
    dev: list[Text] = []
    for row in records.tsv(path):
        is_dev = (row.get("#1 ID"), row.get("#2 ID")) in pairs
        (dev if is_dev else train).append(_example(row, "train", task))
    if len(dev) != len(pairs):
        raise DataError(f"{listed}: {len(pairs)} pairs, of which {path} has {len(dev)}")
    parts["train"] = train
    if dev:
        parts.setdefault("dev", dev)
    test = files.join(home, _MSR_TEST)
    if "test" not in parts and storage.exists(test):
        parts["test"] = _read_tsv(test, "test", task).examples
    return [f"MRPC: made from {_MSR_TRAIN}: {len(train)} pairs to train, {len(dev)} in {_DEV_IDS}"]
