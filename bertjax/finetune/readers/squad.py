"""Reads SQuAD 1.1 and 2.0 (Rajpurkar et al. 2016, 2018): JSON of articles, paragraphs, questions.

Contexts stay unchanged, because `answer_start` counts their characters.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from bertjax.config import Config
from bertjax.errors import DataError
from bertjax.finetune.examples import Answer, Dataset, Question
from bertjax.finetune.readers import files, splits

MOST_WRONG = 0.01  # the largest share of a split's answers that may not be at their answer_start


def read(config: Config) -> Dataset:
    """The questions of SQuAD's JSON files; `splits.assign` assigns the files to splits.

    Raises:
      DataError: a file is not SQuAD's JSON or has no questions, an id occurs twice in a split, or
        more than 1% of a split's answers are not at their `answer_start`.
    """
    found, notes = splits.assign(files.named(config.data), (".json",))
    parts = {}
    for split, paths in found.items():
        questions = [question for path in paths for question in read_file(path, split)]
        require_distinct(questions, ", ".join(paths))
        parts[split], said = align(questions, split, ", ".join(paths))
        notes += said
    return Dataset(parts, (), tuple(notes))


def read_file(path: str, split: str) -> list[Question]:
    """The questions of one SQuAD JSON file; only in `test` may the answers be missing."""
    found = files.parse_json(files.read_text(path), path)
    questions: list[Question] = []
    for article in _items(found, "data", path):
        for paragraph in _items(article, "paragraphs", path):
            where = f"{path}, after {len(questions)} questions"
            context = files.as_text(paragraph.get("context"), where, "context")
            for entry in _items(paragraph, "qas", where):
                where = f"{path}, question {entry.get('id', len(questions))}"
                questions.append(_question(entry, context, split, where))
    if not questions:
        raise DataError(f"{path}: no questions")
    return questions


def _items(node: Any, name: str, where: str) -> Iterator[dict]:
    """The objects in the list `node[name]`."""
    items = node.get(name)
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise DataError(f"{where}: not SQuAD's JSON: {name!r} is not a list of objects")
    yield from items


def _question(entry: dict, context: str, split: str, where: str) -> Question:
    """A question. In a test file, missing or empty answers say nothing about answerability."""
    if "id" not in entry:
        raise DataError(f"{where}: no 'id'")
    impossible = entry.get("is_impossible")
    if split != "test" and "answers" not in entry and not impossible:
        raise DataError(f"{where}: no 'answers'; only a test file may leave them out")
    answers = () if impossible else parse_answers(entry.get("answers", []), where)
    if split != "test" and impossible is False and not answers:
        raise DataError(f"{where}: is_impossible is false and 'answers' is empty")
    answerable: bool | None = bool(answers)
    if split == "test" and not answers:
        answerable = None if impossible is None else not impossible
    text = files.as_text(entry.get("question"), where, "question")
    return Question(str(entry["id"]), text, context, answers, answerable)


def parse_answers(value: Any, where: str) -> tuple[Answer, ...]:
    """The answers in a list of objects, or in an object of lists (Hugging Face, TFDS).

    Raises:
      DataError: the value is neither, or an answer lacks its text or start.
    """
    if isinstance(value, dict):
        texts, starts = value.get("text"), value.get("answer_start")
        if not (isinstance(texts, list) and isinstance(starts, list) and len(texts) == len(starts)):
            raise DataError(f"{where}: 'text' and 'answer_start' are not lists of the same length")
        value = [{"text": t, "answer_start": s} for t, s in zip(texts, starts, strict=True)]
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise DataError(f"{where}: the answers are {type(value).__name__}, expected a list")
    answers = []
    for item in value:
        text = files.as_text(item.get("text"), where, "text")
        start = item.get("answer_start")
        if not isinstance(start, int) or not text:
            raise DataError(f"{where}: answer {text!r} starts at {start!r}: no text or no number")
        answers.append(Answer(text, start))
    return tuple(answers)


def require_distinct(questions: Sequence[Question], source: str) -> None:
    """Refuses duplicate ids, because predictions are scored by id.

    Raises:
      DataError: an id occurs twice; the message names the id.
    """
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise DataError(f"{source}: question {question.id} occurs twice")
        seen.add(question.id)


def align(
    questions: Sequence[Question], split: str, source: str
) -> tuple[list[Question], list[str]]:
    """The questions with every answer at its `answer_start` in the context, and notes.

    If an answer is not at its start but occurs exactly once elsewhere in the context, its start is
    corrected. Otherwise, training drops the answer, and the question if no other answer is left.
    Other splits keep the answer, because only its text is scored.

    Raises:
      DataError: more than `MOST_WRONG` of the answers are not at their start.
    """
    result, wrong, moved, lost, first, total = [], 0, 0, 0, "", 0
    for question in questions:
        kept = []
        for answer in question.answers:
            total += 1
            start, text = answer.start, answer.text
            if start >= 0 and question.context.startswith(text, start):
                kept.append(answer)
                continue
            wrong += 1
            found = question.context[max(start, 0) : max(start, 0) + len(text)]
            first = first or f"question {question.id}: {text!r} is not at {start}, {found!r} is"
            if -1 < (place := question.context.find(text)) == question.context.rfind(text):
                moved += 1
                kept.append(Answer(text, place))
            elif split != "train":
                kept.append(answer)
        if question.answers and not kept:
            lost += 1
        else:
            result.append(question._replace(answers=tuple(kept)))
    if wrong > MOST_WRONG * total:
        raise DataError(
            f"{source}: {wrong} of {total} answers are not at their answer_start (over 1%); the "
            f"first is {first}; answer_start counts characters"
        )
    notes = []
    if wrong:
        rest = f"{wrong - moved} {'dropped' if split == 'train' else 'kept to score their text'}"
        notes.append(
            f"{split}: {wrong} of {total} answers are not at their answer_start: {moved} moved to "
            f"the only place of their text, {rest}, {lost} questions left out; the first is {first}"
        )
    without = sum(question.answerable is False for question in result)
    if without:
        notes.append(f"{split}: {without} of {len(result)} questions have no answer")
    return result, notes
