"""Reads tasks of the papers with one or two texts from Hugging Face's parquet export or TFDS.

Both have the columns `Task.exported` and `label`; GLUE's tasks also have `idx`. A label of -1 means
no label.
"""

from bertjax.errors import DataError
from bertjax.finetune.examples import Dataset, Text
from bertjax.finetune.readers import files, labels
from bertjax.finetune.readers.lines import Row
from bertjax.finetune.readers.records import Table
from bertjax.finetune.tasks import Task

STSB_RANGE = (0.0, 5.0)
SPLITS = {
    "train": "train",
    "validation": "dev",
    "validation_matched": "dev",
    "validation_mismatched": "dev_mismatched",
    "test": "test",
    "test_matched": "test",
    "test_mismatched": "test_mismatched",
}


def find(folder: str) -> dict[str, list[str]]:
    """The parquet files of each split in a folder: train.parquet, train-00000-of-00001.parquet."""
    found: dict[str, list[str]] = {}
    for path in files.inside(folder, ".parquet"):
        split = SPLITS.get(files.base(path).removesuffix(".parquet").partition("-")[0])
        if split:
            found.setdefault(split, []).append(path)
    return found


def read(task: Task, tables: dict[str, list[Table]]) -> Dataset:
    """The examples of each split's tables; an id is `idx`, or else the row's number in the split.

    The labels of GLUE's test sets are not read, as with its TSV files.

    Raises:
      DataError: a column is missing, the classes are not the task's, or a row has no label.
    """
    parts: dict[str, list] = {}
    for split, members in tables.items():
        labeled = not split.startswith(("test", "ax"))
        examples = parts.setdefault(split, [])
        for table in members:
            names = _names(task, table)
            for row in table.rows:
                texts = tuple(row.text(column) for column in task.exported or task.columns)
                label = _label(row, task, names) if labeled else None
                name = str(row.values.get("idx", len(examples)))
                examples.append(Text(name, texts, label))
    return Dataset(parts, task.labels)


def _names(task: Task, table: Table) -> tuple[str, ...]:
    """The label names by number: the file's own names, or else the task's."""
    names = table.classes.get("label") or task.labels
    if sorted(names) != sorted(task.labels):
        raise DataError(
            f"{table.name}: its labels are {', '.join(names)}, but {task.title} has "
            f"{', '.join(task.labels)}"
        )
    return names


def _label(row: Row, task: Task, names: tuple[str, ...]) -> str | float:
    value = row.get("label")
    if task.kind == "regression":
        return labels.number(value, row.where, *STSB_RANGE)
    label = labels.of_number(value, names, row.where)
    if label is None:
        raise DataError(f"{row.where}: no label ({value!r}); only a test split may have none")
    return label
