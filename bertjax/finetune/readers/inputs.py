"""Reads the input of `predict`: the examples of a file in any common layout, one by one."""

import dataclasses
import itertools
import re
from collections.abc import Iterator
from typing import Any

from bertjax import storage
from bertjax.errors import DataError, UsageError
from bertjax.finetune.examples import Choices, Example, Text, Words
from bertjax.finetune.readers import choices, conll, lines, records, row_examples, squad
from bertjax.finetune.readers.glue import COLA
from bertjax.finetune.readers.lines import Bad, Row
from bertjax.finetune.readers.row_examples import NoColumn, Reading

# Columns that identify HANS' heuristics_evaluation_set.txt (McCoy et al. 2019), a TSV file.
_HANS = {"gold_label", "sentence1", "sentence2"}


def read(path: str, how: Reading) -> Iterator[Example | Bad]:
    """The examples of a file, or of standard input ("-"); a damaged row becomes a `Bad`.

    The file's suffix decides the layout:

    - .txt: one text a line, or two texts with a tab between them. For `token`, words separated by
      blanks. RACE's .txt files are passages, HANS' is a TSV file.
    - .jsonl, .csv, .tsv, .parquet: rows with the columns of `config.task`, of the task's own files
      or of its export.
    - .json: SQuAD's JSON or a passage of RACE.
    - Any other suffix, for `token`: CoNLL columns.

    Labels are kept; a label that the model does not have is kept as written.

    Raises:
      DataError: the file is missing, empty, or lacks a column.
      UsageError: the path is a folder, or the suffix is unknown.
    """
    if path != lines.STDIN and storage.is_directory(path):
        raise UsageError(f"--input={path}: is a folder; name a file in it")
    expected = {"single": 1, "pair": 2}.get(how.kind, 0)
    for example in _examples(path, how):
        parts: tuple[str, ...] = ()
        if isinstance(example, Text):
            parts = example.texts
        elif isinstance(example, Choices):
            parts = example.options
        expected = expected or len(parts)
        if parts and len(parts) != expected:
            what = f"{len(parts)} {'texts' if isinstance(example, Text) else 'options'}"
            yield Bad(example.id, f"{path}, row {example.id}: {what}, expected {expected}")
        else:
            yield example


def _examples(path: str, how: Reading) -> Iterator[Example | Bad]:
    suffix = lines.suffix(path)
    if suffix == ".parquet":
        table = records.read(path)
        yield from _of_rows(table.rows, dataclasses.replace(how, classes=table.classes))
        return
    if suffix == ".json":
        yield from _of_json(path, how)
        return
    first, found = lines.peeked(lines.lines(path))
    text = first.text or ""
    begins = text.lstrip()[:1]
    if suffix == ".jsonl" or (path == lines.STDIN and begins in ("{", "[", '"')):
        yield from _of_rows(lines.jsonl(found), how)
    elif how.kind == "token" and (suffix not in ("", ".txt", ".csv") or _is_conll(text, how)):
        yield from _conll(found, how)
    elif suffix == ".csv":
        yield from _of_rows(lines.csv_rows(found), how)
    elif suffix == ".tsv" or set(text.split("\t")) >= _HANS:
        headless = how.task is not None and how.task.name == "cola" and text.count("\t") == 3
        headless = headless and "sentence" not in text.split("\t")
        yield from _of_rows(lines.tsv(found, COLA if headless else ()), how)
    elif suffix == ".txt" and how.kind == "multiple_choice" and begins == "{":
        yield from choices.passage(path, "test")
    elif suffix in ("", ".txt"):
        yield from _of_texts(found, how)
    else:
        known = ".txt, .jsonl, .tsv, .csv, .parquet, .json"
        raise UsageError(f"--input={path}: the suffix is none of {known}")


def _of_json(path: str, how: Reading) -> Iterator[Example | Bad]:
    if how.kind == "span":
        yield from squad.read_file(path, "test")
    elif how.kind == "multiple_choice":
        yield from choices.passage(path, "test")
    else:
        raise UsageError(f"--input={path}: write a line for each row, as .jsonl")


def _of_texts(found: Iterator[lines.Line], how: Reading) -> Iterator[Example | Bad]:
    """One example a line."""
    for number, line in enumerate(found):
        name = str(number)
        if line.text is None:
            yield lines.unreadable(number, line)
        elif not line.text.strip():
            yield Bad(name, f"{line.where}: an empty line")
        elif how.kind == "token":
            yield Words(name, tuple(line.text.split()), None)
        else:
            yield row_examples.of_texts(line.where, name, line.text.split("\t"), how)


def _of_rows(found: Iterator[Any], how: Reading) -> Iterator[Example | Bad]:
    number = 0
    for row in found:
        if isinstance(row, Bad):
            yield row
        elif not isinstance(row, Row):
            where, number, texts = row
            yield row_examples.of_texts(where, str(number), texts, how)
        else:
            number = row.number
            try:
                yield row_examples.of(row, how)
            except DataError as error:
                if number == 0 and isinstance(error, NoColumn):  # other rows lack the column too
                    raise
                yield Bad(str(number), str(error))


def _is_conll(first: str, how: Reading) -> bool:
    """Whether a line is a word and its tag, not a sentence: its last field is a label."""
    fields = re.split(r"[ \t]+", first.strip())
    return len(fields) > 1 and fields[-1] in how.labels


def _conll(found: Iterator[lines.Line], how: Reading) -> Iterator[Example | Bad]:
    """The sentences of CoNLL columns; `config.task.label_column` numbers the tag column."""
    column = conll.column_of(how.columns.label_column)
    sentence: list[list[str]] = []
    number, width, wrong = 0, 0, ""
    for line in itertools.chain(found, [lines.Line("", "")]):
        fields = conll.fields_of(line.text) if line.text is not None else [""]
        if fields and fields[0] == conll.DOCUMENT:
            continue
        if fields:
            width = width or len(fields)
            if not wrong and (len(fields) != width or not all(fields)):
                wrong = f"{line.where}: {len(fields)} columns, but the first line has {width}"
            sentence.append(fields)
            continue
        if sentence:
            tags = None
            if width > 1 and not wrong and -width <= column < width:
                tags = tuple(fields[column] for fields in sentence)
            words = tuple(fields[0] for fields in sentence)
            if wrong:
                yield Bad(str(number), wrong)
            else:
                yield Words(str(number), words, tags)
            number += 1
        sentence, wrong = [], ""
