"""SQuAD 1.1 and 2.0: JSON of articles, paragraphs, and questions with answers.

Rajpurkar et al. 2016 and 2018. A text stays as it is: an answer's start counts its characters.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from bertjax.config import Config
from bertjax.errors import DataError
from bertjax.finetune.examples import Answer, Dataset, Question
from bertjax.finetune.readers import files, splits

MOST_WRONG = 0.01  # share of the answers of a split that may not stand where they say


def read(config: Config) -> Dataset:
    """The questions of SQuAD's JSON files; `splits.assign` tells which file is which split.

    Raises:
      DataError: no SQuAD JSON, no questions, an id twice in a split, or more than 1% of the
        answers of a split not in their contexts.
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
    """The questions of one of SQuAD's JSON files; in `test` they need no answers."""
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
    """The objects of a list that an object holds under a name."""
    items = node.get(name)
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise DataError(f"{where}: not SQuAD's JSON: {name!r} is no list of objects")
    yield from items


def _question(entry: dict, context: str, split: str, where: str) -> Question:
    """A question; a test file may leave out its answers, and an empty list of them says nothing."""
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
    """The answers of a list of objects, or of an object of lists (Hugging Face, TFDS).

    Raises:
      DataError: neither, or an answer without a text or a start.
    """
    if isinstance(value, dict):
        texts, starts = value.get("text"), value.get("answer_start")
        if not (isinstance(texts, list) and isinstance(starts, list) and len(texts) == len(starts)):
            raise DataError(f"{where}: 'text' and 'answer_start' are no lists of one length")
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
    """Refuses an id twice: predictions are scored by id.

    Raises:
      DataError: names the id.
    """
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise DataError(f"{source}: question {question.id} occurs twice")
        seen.add(question.id)


def align(
    questions: Sequence[Question], split: str, source: str
) -> tuple[list[Question], list[str]]:
    """The questions with answers that stand in their contexts where they say, and notes.

    An answer that stands elsewhere, and only once, moves there. One that does not is dropped
    from training, and with it a question that has no other; in other splits it stays, since its
    text alone is scored.

    Raises:
      DataError: more than `MOST_WRONG` of the answers stand elsewhere or nowhere.
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
            f"{source}: {wrong} of {total} answers are not in their contexts where they say "
            f"(over 1%); the first is {first}; answer_start counts characters"
        )
    notes = []
    if wrong:
        rest = f"{wrong - moved} {'dropped' if split == 'train' else 'kept to score their text'}"
        notes.append(
            f"{split}: {wrong} of {total} answers are not in their contexts where they say: "
            f"{moved} moved to the one place where they are, {rest}, {lost} questions left out; "
            f"the first is {first}"
        )
    without = sum(question.answerable is False for question in result)
    if without:
        notes.append(f"{split}: {without} of {len(result)} questions have no answer")
    return result, notes
