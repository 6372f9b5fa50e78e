"""What a reader gives: one labelled example of each kind of task, as text."""

import dataclasses
from typing import NamedTuple


class Text(NamedTuple):
    """Of `single`, `pair` and `regression`: one or two texts and what they are labelled with.

    Attributes:
      id: as the task's files and its submission name it.
      label: a name of the task's labels, a number for regression, None where the file has none.
    """

    id: str
    texts: tuple[str, ...]
    label: str | float | None


class Choices(NamedTuple):
    """Of `multiple_choice`: a context, and options of which one is right.

    Attributes:
      context: the passage or the beginning; only this is cut where a row is too long.
      question: what precedes each option ("" where nothing does).
      label: the right option, from 0; None where the file has none.
    """

    id: str
    context: str
    question: str
    options: tuple[str, ...]
    label: int | None


class Answer(NamedTuple):
    text: str
    start: int  # character of the context


class Question(NamedTuple):
    """Of `span`: a question about a context, answered by parts of it.

    Attributes:
      answers: all gold answers; () where there are none to the question, or the file has none.
      answerable: whether it has an answer in the context; None where the file does not say.
    """

    id: str
    question: str
    context: str
    answers: tuple[Answer, ...]
    answerable: bool | None


class Words(NamedTuple):
    """Of `token`: words with a tag for each.

    Attributes:
      tags: as the file has them (B-person, O); None where the file has none.
    """

    id: str
    words: tuple[str, ...]
    tags: tuple[str, ...] | None


Example = Text | Choices | Question | Words


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The labelled examples of a task.

    Attributes:
      splits: by name. `train` and `dev`, where there are any; `test`; MNLI has `dev_mismatched`,
        `test_mismatched` and `ax` too. Order is the file's.
      labels: the names of the logits, in their order; () for regression, spans and choices.
      notes: a line for all that a reader decided, counted or dropped.
    """

    splits: dict[str, list]
    labels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
