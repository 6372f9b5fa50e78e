"""Token classification in CoNLL columns: one word and tag a line, a blank line after a sentence.

CoNLL-2003 (Tjong Kim Sang and De Meulder) and WNUT 2017 (Derczynski et al.) have this layout.
"""

import re
from typing import NamedTuple

from bertjax.config import Config
from bertjax.errors import DataError, UsageError
from bertjax.finetune.examples import Dataset, Words
from bertjax.finetune.readers import files, labels, splits

SUFFIXES = (".conll", ".conll.gz", ".txt", ".tsv", ".iob", ".iob2", ".bio")
SUFFIXES += (".train", ".dev", ".test", ".testa", ".testb")  # eng.train, eng.testa of CoNLL-2003
DOCUMENT = "-DOCSTART-"
OUTSIDE = "O"


class _Sentence(NamedTuple):
    line: int  # the line number of the first word
    words: tuple[str, ...]
    tags: tuple[str, ...] | None


def read(config: Config) -> Dataset:
    """The sentences of CoNLL files; the word is the first column.

    The tag is in the column with the number `config.task.label_column`, by default in the last one.
    A file of a test split may have words only. An id is the sentence's number in its split, from 0.
    Labels are the tags of training, `O` first and the others sorted. Tags that only other splits
    have come last: they are labels too, so that all gold entities count.

    Raises:
      UsageError: `config.task.label_column` is not a number.
      DataError: a line has another number of columns than the file's first line, or a tag is not in
        `config.model.label_names` (if set).
    """
    column = column_of(config.task.label_column)
    found, notes = splits.assign(files.named(config.data), SUFFIXES)
    parts: dict[str, list] = {}
    given = config.model.label_names
    for split, paths in found.items():
        examples = parts.setdefault(split, [])
        for path in paths:
            sentences, documents = _read_file(path, column, split == "test")
            if documents:
                notes.append(f"{path}: {documents} {DOCUMENT} lines are skipped")
            for sentence in sentences:
                if given:
                    _require_known(sentence, given, path)
                examples.append(Words(str(len(examples)), sentence.words, sentence.tags))
    if given:
        return Dataset(parts, given, tuple(notes))
    trained = _tags(parts.get("train", []))
    extra = _tags([e for split in parts for e in parts[split]]) - trained
    if extra and trained:
        notes.append(
            f"the tags {', '.join(sorted(extra))} are in no training example; they are labels too, "
            "so that evaluation counts them"
        )
    names = labels.ordered(trained - {OUTSIDE}) + labels.ordered(extra - {OUTSIDE})
    outside = (OUTSIDE,) if OUTSIDE in trained | extra else ()
    return Dataset(parts, outside + names, tuple(notes))


def column_of(name: str) -> int:
    """The number of the tag's column; -1 is the last."""
    if name == "label":  # the field's default, meant for files with a header
        return -1
    if not re.fullmatch(r"-?\d+", name):
        raise UsageError(
            f"config.task.label_column={name!r}: CoNLL columns have no names; give the number of "
            "the tag column, from 0, or -1 for the last"
        )
    return int(name)


def _read_file(path: str, column: int, is_test: bool) -> tuple[list[_Sentence], int]:
    """The sentences of a file and the number of its -DOCSTART- lines."""
    sentences: list[_Sentence] = []
    words: list[str] = []
    tags: list[str] = []
    documents = width = 0
    for number, line in enumerate([*files.read_lines(path), ""], 1):
        fields = fields_of(line)
        if not fields:
            if words:
                found = tuple(tags) if width > 1 else None
                sentences.append(_Sentence(number - len(words), tuple(words), found))
            words, tags = [], []
        elif fields[0] == DOCUMENT:
            documents += 1
        else:
            where = f"{path}:{number}"
            width = width or _width(fields, column, is_test, where)
            if len(fields) != width or not all(fields):
                raise DataError(
                    f"{where}: {line!r} has {sum(map(bool, fields))} columns, but the first line "
                    f"of the file has {width}"
                )
            words.append(files.as_text(fields[0], where, "word"))
            tags.append(fields[column] if width > 1 else "")
    if not sentences:
        raise DataError(f"{path}: no sentences")
    return sentences, documents


def fields_of(line: str) -> list[str]:
    """The columns of a line, [] for a blank line; between tabs, a word may hold spaces."""
    if not line.strip(" \t"):
        return []
    return line.split("\t") if "\t" in line else re.split(" +", line.strip(" "))


def _width(fields: list[str], column: int, is_test: bool, where: str) -> int:
    """The number of columns of a file's first line, which all other lines must have too."""
    width = len(fields)
    if width == 1 and is_test:
        return width
    if width < 2 or not -width < column < width or column % width == 0:
        raise DataError(
            f"{where}: {width} columns ({' '.join(fields)}): no tag in column {column} "
            "(config.task.label_column); the first column is the word"
        )
    return width


def _require_known(sentence: _Sentence, given: tuple[str, ...], path: str) -> None:
    for number, tag in enumerate(sentence.tags or ()):
        if tag not in given:
            fix = "add it to config.model.label_names"
            raise labels.unknown(tag, given, f"{path}:{sentence.line + number}", fix)


def _tags(examples: list[Words]) -> set[str]:
    return {tag for example in examples for tag in example.tags or ()}
