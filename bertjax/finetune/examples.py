"""The examples that readers return, as text: one class for each form of task."""

import dataclasses
from typing import NamedTuple


class Text(NamedTuple):
    """An example of `single`, `pair` and `regression`: one or two texts and their label.

    Attributes:
      id: the example's name in the task's files and in its submission.
      label: the name of a label, a number for regression, or None if the file has no label.
    """

    id: str
    texts: tuple[str, ...]
    label: str | float | None


class Choices(NamedTuple):
    """An example of `multiple_choice`: a context and options, one of them right.

    Attributes:
      context: the passage or the beginning of a story; the part that is cut if a row is too long.
      question: the text before each option, or "".
      label: the number of the right option, from 0; None if the file has no label.
    """

    id: str
    context: str
    question: str
    options: tuple[str, ...]
    label: int | None


class Answer(NamedTuple):
    text: str
    start: int  # the first character, counted in the context


class Question(NamedTuple):
    """An example of `span`: a question whose answers are parts of its context.

    Attributes:
      answers: all gold answers; () if the question has no answer or the file gives none.
      answerable: whether the context has an answer; None if the file does not say.
    """

    id: str
    question: str
    context: str
    answers: tuple[Answer, ...]
    answerable: bool | None


class Words(NamedTuple):
    """An example of `token`: words with a tag for each.

    Attributes:
      tags: the file's own tags (B-person, O); None if the file has no tags.
    """

    id: str
    words: tuple[str, ...]
    tags: tuple[str, ...] | None


Example = Text | Choices | Question | Words


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The labelled examples of a task.

    Attributes:
      splits: the examples by split name, in the file's order. The names are `train`, `dev` and
        `test`, as far as there are files for them; MNLI also has `dev_mismatched`,
        `test_mismatched` and `ax`.
      labels: the label names in the order of the logits; () for regression, spans and choices.
      notes: a line for everything that a reader decided, counted or dropped.
    """

    splits: dict[str, list]
    labels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
