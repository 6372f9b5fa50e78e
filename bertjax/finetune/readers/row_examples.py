"""Rows -> examples: recognizes the common column names of each kind of task."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bertjax.config.finetune_fields import Task as Settings
from bertjax.errors import DataError
from bertjax.finetune import label_order
from bertjax.finetune.examples import Choices, Example, Question, Text, Words
from bertjax.finetune.readers import choices, files, labels, squad
from bertjax.finetune.readers.lines import Bad, Row
from bertjax.finetune.tasks import TASKS, Task

_IDS = ("id", "index", "idx")
_CONTEXTS = (("context", "question"), ("article", "question"))
_PAIRS = (("text", "text_pair"), ("text_a", "text_b"))
_SINGLE = (("text",), ("sentence",))
_MNLI = "gold_label"  # the label column of MNLI's and HANS' files


class NoColumn(DataError):
    """A row lacks the columns of its kind of task."""


@dataclasses.dataclass(frozen=True)
class Reading:
    """How the rows of a file become examples.

    Attributes:
      kind: a key of `tasks.KINDS`, or `classification` for one text or two, as in the first row.
      columns: the fields of `config.task`.
      task: the task in `tasks.TASKS` that the model was fine-tuned on, if there is one.
      labels: the label names in the order of the model's logits.
      null_answers: whether a question may have no answer.
      classes: the class names of each column that stores class numbers, if the file has names.
    """

    kind: str
    columns: Settings = dataclasses.field(default_factory=Settings)
    task: Task | None = None
    labels: tuple[str, ...] = ()
    null_answers: bool = False
    classes: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)


def of_texts(where: str, name: str, texts: Sequence[str], how: Reading) -> Example | Bad:
    """An example from texts without column names.

    Args:
      texts: one or two texts; question and context for `span`; context and options for
        `multiple_choice`.
    """
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


def of(row: Row, how: Reading) -> Example:
    """The example of a row.

    Raises:
      NoColumn: a column is missing.
      DataError: a column has an unexpected value.
    """
    return _MAKERS.get(how.kind, _text)(row, how)


def _id(row: Row, how: Reading) -> str:
    names = (how.columns.id_column,) if how.columns.id_column else _IDS
    found = next((row.values[name] for name in names if name in row.values), None)
    return str(row.number if found is None else found)


def _named(row: Row, sets: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The first set of columns that a row has.

    Raises:
      NoColumn: the row has no complete set.
    """
    for names in sets:
        if all(name in row.values for name in names):
            return names
    known = " or ".join(dict.fromkeys(", ".join(names) for names in sets[:3]))
    raise NoColumn(
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
    """The label of a row, by the model's name for it; unchanged if the model has no such label.

    For regression, a number; unchanged if the value is not a number.
    """
    names = [_MNLI, how.columns.label_column, "label"]
    names += [how.task.label_column] if how.task else []
    column = next((name for name in reversed(names) if name in row.values), "")
    value = row.values.get(column)
    text = labels.written(_class(value, column, how))
    if text is None or (text in ("-", "-1") and text not in how.labels):
        return None
    if how.kind != "regression":
        return label_of(text, how)
    try:
        return labels.number(value, row.where)
    except DataError:
        return text


def _class(value: Any, column: str, how: Reading) -> Any:
    """The file's own name for a class number; other values stay unchanged."""
    names = how.classes.get(column, ())
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else value


def label_of(text: str, how: Reading) -> str:
    """The model's own name for a file's label.

    The label may be written as the model's name, as GLUE writes it, or as its number. An unknown
    label stays unchanged.
    """
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
    texts = {name: files.as_text(row.values[name], row.where, name) for name in (question, context)}
    return Question(_id(row, how), texts[question], texts[context], answers, answerable)


def _choices(row: Row, how: Reading) -> Choices:
    """A multiple-choice row: the columns of `config.task`, SWAG's, or context and `options`."""
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
        raise DataError(f"{row.where}: {len(texts) - begin} options, expected at least two")
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
        raise DataError(f"{row.where}: {name!r} is not a list of words")
    column = "tags" if "tags" in row.values else "ner_tags"
    tags = row.values.get(column)
    if tags is not None:
        if not isinstance(tags, list) or len(tags) != len(words):
            raise DataError(f"{row.where}: expected {len(words)} tags, one for each word")
        tags = tuple(_class(tag, column, how) for tag in tags)
        nameless = [tag for tag in tags if not isinstance(tag, str)]
        if nameless:
            raise DataError(
                f"{row.where}: {column!r} has {nameless[0]!r}, which the file does not name; write "
                "the tags by name (B-person, O), or leave them out"
            )
    return Words(_id(row, how), tuple(files.as_text(w, row.where, name) for w in words), tags)


_MAKERS: dict[str, Callable[[Row, Reading], Example]] = {
    "span": _question,
    "multiple_choice": _choices,
    "token": _words,
}
