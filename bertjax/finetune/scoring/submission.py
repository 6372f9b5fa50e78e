"""Writes submissions: GLUE's zip of TSV files for the leaderboard, SQuAD's JSON files."""

import io
import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bertjax import storage
from bertjax.errors import DataError, StorageError
from bertjax.finetune.scoring import null_threshold

_EPOCH = (
    1980,
    1,
    1,
    0,
    0,
    0,
)  # one fixed date for every file in the zip, so that equal predictions give equal bytes


class File(NamedTuple):
    """A file of GLUE's submission.

    Attributes:
      name: the file name in the zip.
      rows: the number of rows of the official test set.
      values: the text for each label of `bertjax.finetune.tasks`; {} for STS-B's numbers.
    """

    name: str
    rows: int
    values: Mapping[str, str]


def _words(*labels: str) -> dict[str, str]:
    return {label: label for label in labels}


def _numbers(*labels: str) -> dict[str, str]:
    return {label: str(number) for number, label in enumerate(labels)}


_MNLI = _words("entailment", "neutral", "contradiction")
_ENTAILMENT = _words("entailment", "not_entailment")

# Keys: tasks and, for MNLI, the predicted splits. gluebenchmark.com/faq has the names and values.
GLUE = {
    "cola": File("CoLA.tsv", 1063, _numbers("unacceptable", "acceptable")),
    "sst2": File("SST-2.tsv", 1821, _numbers("negative", "positive")),
    "mrpc": File("MRPC.tsv", 1725, _numbers("not_equivalent", "equivalent")),
    "stsb": File("STS-B.tsv", 1379, {}),
    "qqp": File("QQP.tsv", 390965, _numbers("not_duplicate", "duplicate")),
    "mnli": File("MNLI-m.tsv", 9796, _MNLI),
    "mnli_mismatched": File("MNLI-mm.tsv", 9847, _MNLI),
    "qnli": File("QNLI.tsv", 5463, _ENTAILMENT),
    "rte": File("RTE.tsv", 3000, _ENTAILMENT),
    "wnli": File("WNLI.tsv", 146, _numbers("not_entailment", "entailment")),
    "ax": File("AX.tsv", 1104, _MNLI),
}

Predictions = Sequence[tuple[str, str | float]]  # (id, label or number) for every test row


def tsv(key: str, predictions: Predictions) -> str:
    """The text of one file: the header `index`, `prediction`, then a line for every row in order.

    STS-B's numbers are clipped to 0..5 and have 3 decimals.

    Args:
      key: a key of `GLUE`.

    Raises:
      DataError: an id occurs twice, a label is not one of the task's, or a number is not finite.
    """
    file, seen = GLUE[key], set()
    lines = ["index\tprediction"]
    for row, (index, predicted) in enumerate(predictions):
        if index in seen:
            raise DataError(f"{file.name}: row {row}: index {index} occurs twice")
        seen.add(index)
        lines.append(f"{index}\t{_value(file, index, predicted)}")
    return "\n".join(lines) + "\n"


def _value(file: File, index: str, predicted: str | float) -> str:
    if file.values:
        if predicted not in file.values:
            allowed = ", ".join(file.values)
            raise DataError(
                f"{file.name}: index {index}: {predicted!r} is not a label; take one of {allowed}"
            )
        return file.values[str(predicted)]
    number = float(predicted)
    if not math.isfinite(number):
        raise DataError(f"{file.name}: index {index}: {number} is not a finite number")
    # With max first, -0.0 becomes 0.0.
    return f"{min(max(0.0, number), 5.0):.3f}"


def write_glue(path: Path, predictions: Mapping[str, Predictions]) -> list[str]:
    """Writes the zip for gluebenchmark.com, with a file for each predicted task.

    Args:
      predictions: by keys of `GLUE`; every row of the test file, in order.

    Returns:
      Notes on files with an unofficial number of rows, and on missing files, which the leaderboard
      needs.

    Raises:
      DataError: see `tsv`.
      StorageError: the zip cannot be written.
    """
    notes, missing, data = [], [], io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, file in GLUE.items():
            if key not in predictions:
                missing.append(file.name)
                continue
            rows = predictions[key]
            archive.writestr(
                zipfile.ZipInfo(file.name, _EPOCH), tsv(key, rows), zipfile.ZIP_DEFLATED
            )
            if len(rows) != file.rows:
                notes.append(f"{file.name}: {len(rows)} rows; the official test has {file.rows}")
    if missing:
        notes.append(f"not in the zip; the leaderboard needs all files: {', '.join(missing)}")
    _write(path, data.getvalue())
    return notes


def _write(path: Path, content: bytes) -> None:
    try:
        storage.write(path, content)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from None


def write_squad(
    directory: Path,
    answers: Mapping[str, str],
    differences: Mapping[str, float] | None = None,
    threshold: float = 0.0,
) -> list[Path]:
    """Writes the files that the official evaluation scripts of SQuAD read.

    `predictions.json` has the answer text of each question id. With `differences` (SQuAD 2.0), a
    question whose difference is above the threshold gets "". Two more files are then written:
    `null_odds.json` with the differences, and `best_answers.json` with all answers. With both,
    `evaluate-v2.0.py DATA best_answers.json --na-prob-file null_odds.json` tunes the threshold.

    Args:
      answers: the best answer to each question that is not the null answer.
      differences: score of no answer - score of the best answer, in logits.

    Returns:
      The paths of the files.

    Raises:
      StorageError: a file cannot be written.
    """
    files: dict[str, Mapping] = {"predictions.json": answers}
    if differences is not None:
        held = null_threshold.apply(answers, differences, threshold)
        files = {"predictions.json": held, "best_answers.json": answers}
        files["null_odds.json"] = {q: differences[q] for q in answers}
    for name, content in files.items():
        text = json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False)
        _write(directory / name, (text + "\n").encode())
    return [directory / name for name in files]
