"""The table of tasks: what is in their files, how they are scored and handed in."""

import dataclasses
from typing import NamedTuple

from bertjax.finetune import examples


class Kind(NamedTuple):
    """What one sort of task asks of the model.

    Attributes:
      head: of `config.model.head`.
      example: the class of its examples.
      metrics: of a user's own data; the first one decides which run is best.
    """

    head: str
    example: type
    metrics: tuple[str, ...]


KINDS = {
    "single": Kind("classification", examples.Text, ("accuracy", "macro_f1")),
    "pair": Kind("classification", examples.Text, ("accuracy", "macro_f1")),
    "regression": Kind("classification", examples.Text, ("spearman", "pearson")),
    "multiple_choice": Kind("multiple_choice", examples.Choices, ("accuracy",)),
    "span": Kind("span", examples.Question, ("f1", "exact")),
    "token": Kind("token", examples.Words, ("f1", "precision", "recall", "strict_f1")),
}


@dataclasses.dataclass(frozen=True)
class Task:
    """A task of the papers.

    Attributes:
      name: as in `--config=configs/finetune.py:NAME`.
      title: as the papers' tables head it.
      kind: of `KINDS`.
      labels: the names of the logits in their order, which is that of the numbers in Hugging
        Face's parquet export.
      metrics: the first one decides which run is best; the papers' table shows those of
        `shown`.
      shown: the metrics in the papers' table, in their order.
      folder: the task's folder in a GLUE directory.
      columns: of the texts in the official TSV files.
      label_column: of the label there.
      words: what stands there for each of `labels`, in their order; () for the names themselves.
      exported: columns of the texts in Hugging Face's parquet export and in TFDS, where the
        label's is `label`; () for `columns`.
    """

    name: str
    title: str
    kind: str
    labels: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ("accuracy",)
    shown: tuple[str, ...] = ("accuracy",)
    folder: str = ""
    columns: tuple[str, ...] = ()
    label_column: str = "label"
    words: tuple[str, ...] = ()
    exported: tuple[str, ...] = ()


_ENTAILMENT = ("entailment", "not_entailment")
_F1 = ("f1", "accuracy")
_SENTENCES = ("sentence1", "sentence2")
_BINARY = ("0", "1")

TASKS = {
    task.name: task
    for task in (
        Task(
            "cola",
            "CoLA",
            "single",
            ("unacceptable", "acceptable"),
            ("matthews", "accuracy"),
            ("matthews",),
            "CoLA",
            ("sentence",),
            words=_BINARY,
        ),
        Task(
            "sst2",
            "SST-2",
            "single",
            ("negative", "positive"),
            folder="SST-2",
            columns=("sentence",),
            words=_BINARY,
        ),
        Task(
            "mrpc",
            "MRPC",
            "pair",
            ("not_equivalent", "equivalent"),
            _F1,
            _F1,
            "MRPC",
            ("#1 String", "#2 String"),
            "Quality",
            _BINARY,
            _SENTENCES,
        ),
        Task(
            "stsb",
            "STS-B",
            "regression",
            metrics=("spearman", "pearson"),
            shown=("pearson", "spearman"),
            folder="STS-B",
            columns=_SENTENCES,
            label_column="score",
        ),
        Task(
            "qqp",
            "QQP",
            "pair",
            ("not_duplicate", "duplicate"),
            _F1,
            _F1,
            "QQP",
            ("question1", "question2"),
            "is_duplicate",
            _BINARY,
        ),
        Task(
            "mnli",
            "MNLI",
            "pair",
            ("entailment", "neutral", "contradiction"),
            ("accuracy", "mismatched_accuracy"),
            ("accuracy", "mismatched_accuracy"),
            "MNLI",
            _SENTENCES,
            "gold_label",
            exported=("premise", "hypothesis"),
        ),
        Task("qnli", "QNLI", "pair", _ENTAILMENT, folder="QNLI", columns=("question", "sentence")),
        Task("rte", "RTE", "pair", _ENTAILMENT, folder="RTE", columns=_SENTENCES),
        Task(
            "wnli",
            "WNLI",
            "pair",
            ("not_entailment", "entailment"),
            folder="WNLI",
            columns=_SENTENCES,
            words=_BINARY,
        ),
        Task("squad", "SQuAD 1.1", "span", metrics=("f1", "exact"), shown=("exact", "f1")),
        Task("squad2", "SQuAD 2.0", "span", metrics=("f1", "exact"), shown=("exact", "f1")),
        Task("swag", "SWAG", "multiple_choice"),
        Task("race", "RACE", "multiple_choice"),
        Task("imdb", "IMDb", "single", ("neg", "pos"), exported=("text",)),
    )
}
