"""What a model is to predict: examples of any file that people have, one by one, in its order."""

import dataclasses
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

from bertjax import storage
from bertjax.config.finetune_fields import Task as Settings
from bertjax.errors import DataError, UsageError
from bertjax.finetune import label_order
from bertjax.finetune.examples import Choices, Example, Question, Text, Words
from bertjax.finetune.readers import choices, conll, files, labels, lines, squad
from bertjax.finetune.readers.glue import COLA
from bertjax.finetune.readers.lines import Bad
from bertjax.finetune.readers.records import Row
from bertjax.finetune.tasks import TASKS, Task

_IDS = ("id", "index", "idx")
_CONTEXTS = (("context", "question"), ("article", "question"))
_PAIRS = (("text", "text_pair"), ("text_a", "text_b"))
_SINGLE = (("text",), ("sentence",))


@dataclasses.dataclass(frozen=True)
class Reading:
    """How the rows of a file become examples.

    Attributes:
      kind: of `tasks.KINDS`; `classification` takes one text or two, as the first row has.
      columns: the fields of `config.task`.
      task: of the table, where the model is of one.
      labels: the names of the model's logits.
      null_answers: a question may have no answer.
    """

    kind: str
    columns: Settings = dataclasses.field(default_factory=Settings)
    task: Task | None = None
    labels: tuple[str, ...] = ()
    null_answers: bool = False


def read(path: str, how: Reading) -> Iterator[Example | Bad]:
    """The examples of a file, or of "-", standard input; a row that is damaged is a `Bad`.

    By the file's suffix: .txt, a text a line, a tab between two (of `token`, words with blanks
    between them; of RACE, a passage); .jsonl, .csv, .tsv, .parquet, rows with the columns of
    `config.task`, of the task's own files or of its export; .json, SQuAD's, RACE's or a list of
    rows; others of `token` are CoNLL columns. A label is kept where there is one, and one that the
    model has not is kept as it is written.

    Raises:
      DataError: the file is missing, empty, or lacks a column.
      UsageError: a folder, or a suffix that says nothing.
    """
    if path != lines.STDIN and storage.is_directory(path):
        raise UsageError(f"--input={path}: is a folder; name a file of it")
    expected = {"single": 1, "pair": 2}.get(how.kind, 0)
    for example in _examples(path, how):
        if isinstance(example, Text | Choices):
            is_text = isinstance(example, Text)
            count = len(example.texts if is_text else example.options)
            expected = expected or count
            if count != expected:
                what = f"{count} {'texts' if is_text else 'options'}, expected {expected}"
                yield Bad(example.id, f"{path}, row {example.id}: {what}")
                continue
        yield example


def _examples(path: str, how: Reading) -> Iterator[Example | Bad]:
    suffix = lines.suffix(path)
    if suffix == ".parquet":
        yield from _of_rows(lines.parquet(path), how)
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
    elif suffix == ".tsv":
        headless = how.task is not None and how.task.name == "cola" and text.count("\t") == 3
        headless = headless and "sentence" not in text.split("\t")
        yield from _of_rows(lines.tsv(found, COLA if headless else ()), how)
    elif suffix == ".txt" and how.kind == "multiple_choice" and begins == "{":
        yield from choices.passage(path, "test")
    elif suffix in ("", ".txt"):
        yield from _of_texts(found, how)
    else:
        raise UsageError(f"--input={path}: of .txt, .jsonl, .tsv, .csv, .parquet, .json it is none")


def _of_json(path: str, how: Reading) -> Iterator[Example | Bad]:
    if how.kind == "span":
        yield from squad.read_file(path, "test")
    elif how.kind == "multiple_choice":
        yield from choices.passage(path, "test")
    else:
        raise UsageError(f"--input={path}: write a line for each row, as .jsonl")


def _of_texts(found: Iterator[lines.Line], how: Reading) -> Iterator[Example | Bad]:
    """A line an example."""
    for number, line in enumerate(found):
        name = str(number)
        if line.text is None:
            yield lines.unreadable(number, line)
        elif not line.text.strip():
            yield Bad(name, f"{line.where}: an empty line")
        elif how.kind == "token":
            yield Words(name, tuple(line.text.split()), None)
        else:
            yield _parts(line.where, name, line.text.split("\t"), how)


def _parts(where: str, name: str, texts: Sequence[str], how: Reading) -> Example | Bad:
    """An example of texts without names: one or two; question, context; context, options."""
    most = {"single": 1, "multiple_choice": 99}.get(how.kind, 2)
    least = {"pair": 2, "span": 2, "multiple_choice": 3}.get(how.kind, 1)
    if not least <= len(texts) <= most:
        expected = f"{least}" if least == most else f"{least} to {most}"
        return Bad(name, f"{where}: {len(texts)} texts, expected {expected}")
    if how.kind == "span":
        return Question(name, texts[0], texts[1], (), None)
    if how.kind == "multiple_choice":
        return Choices(name, texts[0], "", tuple(texts[1:]), None)
    return Text(name, tuple(texts), None)


def _of_rows(found: Iterator[Any], how: Reading) -> Iterator[Example | Bad]:
    make = {"span": _question, "multiple_choice": _choices, "token": _words}.get(how.kind, _text)
    number = 0
    for row in found:
        if isinstance(row, Bad):
            yield row
        elif not isinstance(row, Row):
            where, number, texts = row
            yield _parts(where, str(number), texts, how)
        else:
            number = row.number
            try:
                yield make(row, how)
            except DataError as error:
                if number == 0:  # a column that is missing here is missing in all rows
                    raise
                yield Bad(str(number), str(error))


def _id(row: Row, how: Reading) -> str:
    names = (how.columns.id_column,) if how.columns.id_column else _IDS
    found = next((row.values[name] for name in names if name in row.values), None)
    return str(row.number if found is None else found)


def _named(row: Row, sets: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The first set of columns that a row has.

    Raises:
      DataError: it has none whole.
    """
    for names in sets:
        if all(name in row.values for name in names):
            return names
    known = " or ".join(dict.fromkeys(", ".join(names) for names in sets[:3]))
    raise DataError(
        f"{row.where}: no column {known}; it has {', '.join(map(str, row.values))}; rename them"
    )


def _own(how: Reading) -> tuple[str, ...]:
    columns = how.columns
    return (columns.text_column, *((columns.pair_column,) if columns.pair_column else ()))


def _text(row: Row, how: Reading) -> Text:
    sets: list[tuple[str, ...]] = [_own(how)]
    if how.task is not None:
        sets = [how.task.columns, how.task.exported, *sets]
    elif how.columns.kind is None:
        sets = []
    if how.task is not None or how.columns.kind is None:
        others = [names for t in TASKS.values() for names in (t.columns, t.exported)]
        sets += [*_PAIRS, *sorted(others, key=len, reverse=True), *_SINGLE]
    count = {"single": 1, "pair": 2}.get(how.kind)
    names = _named(row, [s for s in sets if s and count in (None, len(s))])
    texts = tuple(files.as_text(row.values[name], row.where, name) for name in names)
    return Text(_id(row, how), texts, _gold(row, how))


def _gold(row: Row, how: Reading) -> str | float | None:
    """The label of a row by the model's name for it; as it stands there if it has no such."""
    names = [how.columns.label_column, "label", *([how.task.label_column] if how.task else [])]
    value = next((row.values[name] for name in reversed(names) if name in row.values), None)
    text = labels.written(value)
    if text is None or text in ("-", "-1") and text not in how.labels:
        return None
    if how.kind == "regression":
        return labels.number(value, row.where)
    return label_of(text, how)


def label_of(text: str, how: Reading) -> str:
    """The model's own name for a label of a file: by its name, or what GLUE writes for it."""
    found = label_order.find(how.labels, text)
    if found is None and how.task is not None:
        numbers = [str(number) for number in range(len(how.task.labels))]
        for written in (how.task.words, numbers):
            if found is None and text in written:
                found = label_order.find(how.labels, how.task.labels[written.index(text)])
    if found is None and f"LABEL_{text}" in how.labels:
        found = how.labels.index(f"LABEL_{text}")
    return text if found is None else how.labels[found]


def _question(row: Row, how: Reading) -> Question:
    context, question = _named(row, [_own(how), *_CONTEXTS] if len(_own(how)) > 1 else _CONTEXTS)
    value, answers = row.values.get("answers"), ()
    if value is not None:
        answers = squad.parse_answers(value, row.where)
    answerable = True if answers else (False if value is not None and how.null_answers else None)
    texts = [files.as_text(row.values[name], row.where, name) for name in (question, context)]
    return Question(_id(row, how), *texts, answers, answerable)


def _choices(row: Row, how: Reading) -> Choices:
    """Of the columns of `config.task`, of SWAG's, or of a context with a list of options."""
    own = how.columns.option_columns
    swag = ("sent1", "sent2", *(f"ending{i}" for i in range(choices.OPTIONS)))
    listed = [(*names, "options") for names in (*_CONTEXTS, ("context",))]
    names = _named(row, [(*_own(how), *own) if own else swag, swag, *listed])
    values = [row.values[name] for name in names]
    begin = len(names) - (len(own) if own and names[-1] == own[-1] else choices.OPTIONS)
    if names[-1] == "options":
        begin = len(names) - 1
        values = [*values[:-1], *(values[-1] if isinstance(values[-1], list) else [])]
    texts = [files.as_text(value, row.where, "options") for value in values]
    if len(texts) - begin < 2:
        raise DataError(f"{row.where}: {len(texts) - begin} options, expected two at least")
    label = labels.written(row.values.get(how.columns.label_column, row.values.get("label")))
    known = [str(number) for number in range(len(texts) - begin)]
    letters = [chr(ord("A") + number) for number in range(len(known))]
    at = next((s.index(label) for s in (known, letters, list(own)) if label in s), None)
    context, *question = texts[:begin]
    return Choices(_id(row, how), context, "".join(question), tuple(texts[begin:]), at)


def _words(row: Row, how: Reading) -> Words:
    (name,) = _named(row, [("words",), ("tokens",), (how.columns.text_column,)])
    words = row.values[name]
    words = words.split() if isinstance(words, str) else words
    if not (isinstance(words, list) and words and all(isinstance(w, str) and w for w in words)):
        raise DataError(f"{row.where}: {name!r} is no list of words")
    tags = row.values.get("tags", row.values.get("ner_tags"))
    if tags is not None:
        if not isinstance(tags, list) or len(tags) != len(words):
            raise DataError(f"{row.where}: not one tag for each of {len(words)} words")
        tags = tuple(how.labels[t] if isinstance(t, int) else str(t) for t in tags)
    return Words(_id(row, how), tuple(files.as_text(w, row.where, name) for w in words), tags)


def _is_conll(first: str, how: Reading) -> bool:
    """Whether a line is a word and its tag, not a sentence."""
    fields = re.split(r"[ \t]+", first.strip())
    return len(fields) > 1 and fields[-1] in how.labels


def _conll(found: Iterator[lines.Line], how: Reading) -> Iterator[Example | Bad]:
    """Sentences of CoNLL columns; the tag is in the column of `config.task.label_column`."""
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
                wrong = f"{line.where}: {len(fields)} columns, and the first line has {width}"
            sentence.append(fields)
            continue
        if sentence:
            tags = None
            if width > 1 and not wrong:
                tags = tuple(fields[column] for fields in sentence)
            words = tuple(fields[0] for fields in sentence)
            yield Bad(str(number), wrong) if wrong else Words(str(number), words, tags)
            number += 1
        sentence, wrong = [], ""
