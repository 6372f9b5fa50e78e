"""What the leaderboards take: GLUE's zip of TSV files, SQuAD's JSON."""

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
)  # of every file in the zip, so that equal predictions are equal bytes


class File(NamedTuple):
    """A file of GLUE's submission.

    Attributes:
      name: in the zip.
      rows: of the official test set.
      values: what stands for each label of `bertjax.finetune.tasks`; {} for STS-B's numbers.
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

# By task and, for MNLI, by the split that is predicted. gluebenchmark.com/faq has names and values.
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

Predictions = Sequence[tuple[str, str | float]]  # of every test row: id, label or number


def tsv(key: str, predictions: Predictions) -> str:
    """One file: `index`, `prediction` and a line for every row, in the test file's order.

    STS-B's numbers are clipped to 0..5 and have 3 decimals.

    Args:
      key: of `GLUE`.

    Raises:
      DataError: an id occurs twice, a label is none of the task's, a number is not finite.
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
                f"{file.name}: index {index}: {predicted!r} is no label; it takes {allowed}"
            )
        return file.values[str(predicted)]
    number = float(predicted)
    if not math.isfinite(number):
        raise DataError(f"{file.name}: index {index}: {number} is no number from 0 to 5")
    # In this order -0.0 becomes 0.0.
    return f"{min(max(0.0, number), 5.0):.3f}"


def write_glue(path: Path, predictions: Mapping[str, Predictions]) -> list[str]:
    """Writes the zip for gluebenchmark.com, with a file for each task that was predicted.

    Args:
      predictions: by a key of `GLUE`; every row of the test file, in its order.

    Returns:
      Notes: files whose number of rows is not the official one, and files that are missing, which
      the leaderboard asks for.

    Raises:
      DataError: as `tsv`.
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
        notes.append(f"not in the zip, and the leaderboard wants all: {', '.join(missing)}")
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
    """Writes what the official evaluation scripts of SQuAD read.

    `predictions.json`: the text of each answer by its id; with `differences` (2.0), "" for a
    question whose difference is above the threshold. With them also `null_odds.json`, the
    differences, and `best_answers.json`, the answers with none held back: from these two
    `evaluate-v2.0.py DATA best_answers.json --na-prob-file null_odds.json` tunes the threshold.

    Args:
      answers: the best answers that are not empty.
      differences: score of no answer - score of the best answer, in logits.

    Returns:
      The files.

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
