"""Reads multiple choice: SWAG's CSV (Zellers et al. 2018), RACE's JSON files (Lai et al. 2017)."""

from collections.abc import Iterable
from typing import Any

from bertjax import storage
from bertjax.config import Config
from bertjax.errors import DataError
from bertjax.finetune.examples import Choices, Dataset
from bertjax.finetune.readers import files, labels, records, splits

OPTIONS = 4  # options per question, in SWAG and RACE
_ENDINGS = tuple(f"ending{number}" for number in range(OPTIONS))
_LEVELS = ("high", "middle")
_LETTERS = "ABCD"


def read_swag(config: Config) -> Dataset:
    """SWAG's train.csv, val.csv (dev) and test.csv from a folder, or files with their columns.

    The context is `sent1`. Each option is `sent2` and one of `ending0` to `ending3`. An id is the
    row's number in its split, from 0.

    Raises:
      DataError: a column is missing, an ending is empty, or a label is not 0 to 3.
    """
    paths = files.named(config.data)
    if len(paths) == 1 and storage.is_directory(paths[0]):
        # The official folder also has train_full.csv and val_full.csv, with other columns.
        official = [files.join(paths[0], f"{name}.csv") for name in ("train", "val", "test")]
        paths = [path for path in official if storage.exists(path)] or paths
    found, notes = splits.assign(paths, (".csv", ".parquet"))
    tables = {split: [records.read(path) for path in paths] for split, paths in found.items()}
    return Dataset(
        {split: swag_rows(members, split) for split, members in tables.items()}, (), tuple(notes)
    )


def swag_rows(tables: Iterable[records.Table], split: str) -> list[Choices]:
    """The examples of a split's tables, which must have the columns of SWAG's CSV."""
    examples: list[Choices] = []
    for table in tables:
        for row in table.rows:
            options = tuple(row.text(column) for column in _ENDINGS)
            name = str(len(examples))
            context, question = row.text("sent1"), row.text("sent2")
            value = row.values.get("label") if split == "test" else row.get("label")
            label = None if labels.written(value) in (None, "-1") else str(value)
            examples.append(_choices(name, context, question, options, label, split, row.where))
    return examples


def _choices(
    name: str,
    context: str,
    question: str,
    options: tuple[str, ...],
    label: str | None,
    split: str,
    where: str,
) -> Choices:
    """An example with four options; `label` is the number of the right option."""
    if len(options) != OPTIONS or not all(option.strip() for option in options):
        full = sum(bool(option.strip()) for option in options)
        raise DataError(f"{where}: {full} options with text of {len(options)}, expected {OPTIONS}")
    if label is None and split == "test":
        return Choices(name, context, question, options, None)
    known = tuple(str(number) for number in range(OPTIONS))
    if label not in known:
        raise labels.unknown(label, known, where)
    return Choices(name, context, question, options, int(label))


def read_race(config: Config) -> Dataset:
    """RACE from its folder: train, dev and test, each with `high` and `middle`; one passage a file.

    The context is the article, with spaces for line breaks. An id is the file's id and the number
    of the question, from 0: high1.txt-0. The order is by level, then by file name.

    Raises:
      DataError: the folder is missing, a file is not JSON, or a question does not have four options
        and an answer letter.
    """
    paths = files.named(config.data)
    inner = files.join(paths[0], "RACE")
    home = inner if storage.is_directory(inner) else paths[0]
    parts: dict[str, list] = {}
    for split in ("train", "dev", "test"):
        for level in _LEVELS:
            folder = files.join(home, split, level)
            if storage.is_directory(folder):
                passages = files.inside(folder, ".txt")
                if not passages:
                    raise DataError(f"{folder}: no .txt files")
                examples = parts.setdefault(split, [])
                for path in passages:
                    examples += passage(path, split)
    if len(paths) > 1 or not parts:
        raise DataError(
            f"config.data.files={config.data.files!r}: name the folder RACE, which holds "
            "train/high, train/middle, dev/high..."
        )
    return Dataset(parts)


def passage(path: str, split: str) -> list[Choices]:
    """The questions of one RACE file; only in `test` may the answers be missing."""
    found = files.parse_json(files.read_text(path), path)
    article = _flat(found.get("article"), path, "article")
    questions: Any = found.get("questions")
    options: Any = found.get("options")
    answers: Any = found.get("answers")
    if answers is None and split == "test" and isinstance(questions, list):
        answers = [None] * len(questions)
    if not all(isinstance(part, list) for part in (questions, options, answers)):
        raise DataError(f"{path}: 'questions', 'options' and 'answers' are not all lists")
    if not len(questions) == len(options) == len(answers):
        raise DataError(
            f"{path}: {len(questions)} questions, {len(options)} lists of options and "
            f"{len(answers)} answers"
        )
    name, result = str(found.get("id", files.base(path))), []
    for number, (question, texts, answer) in enumerate(
        zip(questions, options, answers, strict=True)
    ):
        where = f"{path}, question {number}"
        if answer not in (*_LETTERS, *([None] if split == "test" else [])):
            raise labels.unknown(answer, _LETTERS, where)
        label = None if answer is None else str(_LETTERS.index(answer))
        if not isinstance(texts, list):
            raise DataError(f"{where}: the options are {type(texts).__name__}, expected a list")
        flat = tuple(_flat(text, where, "options") for text in texts)
        text = _flat(question, where, "questions")
        result.append(_choices(f"{name}-{number}", article, text, flat, label, split, where))
    return result


def _flat(value: Any, where: str, name: str) -> str:
    """A text with spaces for line breaks."""
    return " ".join(files.as_text(value, where, name).splitlines())
