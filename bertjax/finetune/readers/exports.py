"""A task of the papers with one or two texts from Hugging Face's parquet export, or from TFDS.

Both have the columns of the export (`Task.exported`), `label`, and GLUE's have `idx`; a label of
-1 is none.
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
    """The shards of each split in a folder: train-00000-of-00001.parquet, or train.parquet."""
    found: dict[str, list[str]] = {}
    for path in files.inside(folder, ".parquet"):
        split = SPLITS.get(files.base(path).removesuffix(".parquet").partition("-")[0])
        if split:
            found.setdefault(split, []).append(path)
    return found


def read(task: Task, tables: dict[str, list[Table]]) -> Dataset:
    """The examples of each split's tables; an id is `idx`, or else the row's number in the split.

    The labels of GLUE's test sets are not read, as those of its TSV files.

    Raises:
      DataError: a missing column, other classes than the task's, or a row without a label.
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
    """The names of the label's numbers: the file's own, or else in the order of the task's."""
    names = table.classes.get("label") or task.labels
    if sorted(names) != sorted(task.labels):
        raise DataError(
            f"{table.name}: its labels are {', '.join(names)}, and those of {task.title} are "
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
