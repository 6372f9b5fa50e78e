"""Reads a user's own rows (TSV, CSV, JSONL, parquet, TFDS); `config.task` names the columns."""

from collections.abc import Iterator
from typing import Any

from bertjax.config import Config
from bertjax.config.finetune_fields import Task as Columns
from bertjax.errors import DataError, UsageError
from bertjax.finetune.examples import Answer, Choices, Dataset, Question, Text
from bertjax.finetune.readers import labels, squad
from bertjax.finetune.readers.lines import Row
from bertjax.finetune.readers.records import Table

_TEXT, _PAIR = "config.task.text_column", "config.task.pair_column"
_LABEL, _ID, _OPTIONS = (
    "config.task.label_column",
    "config.task.id_column",
    "config.task.option_columns",
)


def read(config: Config, kind: str, tables: dict[str, list[Table]]) -> Dataset:
    """The examples of each split's tables; an id is from `id_column`, or the row's number there.

    The labels of `single` and `pair` are `config.model.label_names` if set. Otherwise they are the
    distinct labels of the training rows: in the order of the file's own classes if it has them,
    else sorted (whole numbers by value). A row of `test` may have no label.

    Raises:
      UsageError: `config.task` does not name the columns that the kind needs.
      DataError: a column, a text or a label is missing, or training does not have the label; the
        message names file and line.
    """
    columns = config.task
    _require_columns(columns, kind)
    if kind in ("single", "pair"):
        return _classified(config, tables)
    make: Any = {"regression": _regression, "multiple_choice": _choices, "span": _question}[kind]
    parts: dict[str, list] = {
        split: [make(row, name, columns, split) for row, name, _ in _rows(members, columns)]
        for split, members in tables.items()
    }
    notes: list[str] = []
    if kind == "span":
        for split in parts:
            source = ", ".join(table.name for table in tables[split])
            squad.require_distinct(parts[split], source)
            parts[split], said = squad.align(parts[split], split, source)
            notes += said
    return Dataset(parts, (), tuple(notes))


def _require_columns(columns: Columns, kind: str) -> None:
    if kind in ("pair", "span") and not columns.pair_column:
        second = "the second text" if kind == "pair" else "the question"
        raise UsageError(f"{_PAIR} is unset; config.task.kind={kind} needs the column of {second}")
    if kind == "single" and columns.pair_column:
        raise UsageError(
            f"{_PAIR}={columns.pair_column!r}: config.task.kind=single reads one text; set "
            "config.task.kind=pair"
        )
    if kind == "multiple_choice" and len(columns.option_columns) < 2:
        raise UsageError(
            f"{_OPTIONS}={columns.option_columns!r}: config.task.kind=multiple_choice needs the "
            "columns of at least two options"
        )


def _rows(members: list[Table], columns: Columns) -> Iterator[tuple[Row, str, Table]]:
    """Each row with its id and its table."""
    number = 0
    for table in members:
        for row in table.rows:
            name = str(row.get(columns.id_column, _ID)) if columns.id_column else str(number)
            yield row, name, table
            number += 1


def _texts(row: Row, columns: Columns) -> tuple[str, ...]:
    first = row.text(columns.text_column, _TEXT)
    return (first, row.text(columns.pair_column, _PAIR)) if columns.pair_column else (first,)


def _value(row: Row, columns: Columns, split: str) -> Any:
    """The value in the label column; None for a row of `test` without a label.

    Raises:
      DataError: a row of another split has no label.
    """
    column = columns.label_column
    value = row.values.get(column) if split == "test" else row.get(column, _LABEL)
    if isinstance(value, dict | list):
        raise DataError(f"{row.where}: the label is a {type(value).__name__}, expected one value")
    if labels.written(value) is None:
        if split != "test":
            raise _no_label(row, columns)
        return None
    return value


def _no_label(row: Row, columns: Columns) -> DataError:
    return DataError(
        f"{row.where}: no label in {columns.label_column!r}; only a test split may have none"
    )


def _classified(config: Config, tables: dict[str, list[Table]]) -> Dataset:
    """Texts with label names. Reads training first, since other splits may only use its labels."""
    columns, known = config.task, config.model.label_names
    parts: dict[str, list] = {}
    for split in sorted(tables, key=lambda name: name != "train"):
        examples = parts.setdefault(split, [])
        order: tuple[str, ...] = ()
        for row, name, table in _rows(tables[split], columns):
            value, order = _value(row, columns, split), table.classes.get(columns.label_column, ())
            label = labels.of_number(value, order, row.where) if order else labels.written(value)
            if label is None and split != "test":
                raise _no_label(row, columns)
            if known and label is not None and label not in known:
                fix = "correct it, or name all labels in config.model.label_names"
                raise labels.unknown(label, known, row.where, fix)
            examples.append(Text(name, _texts(row, columns), label))
        if not known and split == "train":
            found = {example.label for example in examples if example.label is not None}
            known = tuple(n for n in order if n in found) or labels.ordered(found)
            _require_two(known, tables[split])
    if not known:
        known = labels.ordered(e.label for some in parts.values() for e in some if e.label)
    return Dataset({split: parts[split] for split in tables}, known)


def _require_two(known: tuple[str, ...], members: list[Table]) -> None:
    """Refuses a training split with a single label, which leaves nothing to learn."""
    if len(known) == 1:
        raise DataError(
            f"{', '.join(table.name for table in members)}: all labels are {known[0]!r}; "
            f"classification needs at least two ({_LABEL} names the column)"
        )


def _regression(row: Row, name: str, columns: Columns, split: str) -> Text:
    value = _value(row, columns, split)
    target = None if value is None else labels.number(value, row.where)
    return Text(name, _texts(row, columns), target)


def _choices(row: Row, name: str, columns: Columns, split: str) -> Choices:
    """A multiple-choice row; the label is an option's column name, number from 0, or letter."""
    context, *question = _texts(row, columns)
    options = tuple(row.text(column, _OPTIONS) for column in columns.option_columns)
    for column, option in zip(columns.option_columns, options, strict=True):
        if not option.strip():
            raise DataError(f"{row.where}: the option {column!r} is empty")
    value = labels.written(_value(row, columns, split))
    label = None if value is None else _option(value, columns.option_columns, row.where)
    return Choices(name, context, "".join(question), options, label)


def _option(value: str, columns: tuple[str, ...], where: str) -> int:
    numbers = [str(number) for number in range(len(columns))]
    letters = [chr(ord("A") + number) for number in range(len(columns))]
    for known in (columns, numbers, letters):
        if value in known:
            return known.index(value)
    raise labels.unknown(value, (*columns, *numbers, *letters), where)


def _question(row: Row, name: str, columns: Columns, split: str) -> Question:
    """A span row; the answers are in the column `answers`, or in `label_column` if that is set.

    `squad.parse_answers` reads the answers. Empty answers mean that the context has no answer. Rows
    of `test` may lack the column.
    """
    column = "answers" if columns.label_column == "label" else columns.label_column
    context, question = _texts(row, columns)
    value = row.values.get(column) if split == "test" else row.get(column, _LABEL)
    answers: tuple[Answer, ...] = ()
    if value is not None:
        answers = squad.parse_answers(value, row.where)
    answerable = True if answers else (None if split == "test" else False)
    return Question(name, question, context, answers, answerable)
