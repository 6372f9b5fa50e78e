"""The table of tasks: the columns of their files, their metrics and their labels."""

import dataclasses
from typing import NamedTuple

from bertjax.finetune import examples


class Kind(NamedTuple):
    """A kind of task: its head, its examples, its metrics.

    Attributes:
      head: the value of `config.model.head`.
      example: the class of its examples.
      metrics: the metrics for a user's own data; the first metric decides which run is best.
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
      name: the NAME in `--config=configs/finetune.py:NAME`.
      title: the heading in the papers' tables.
      kind: a key of `KINDS`.
      labels: the label names in the order of the logits and of the numbers in Hugging Face's
        parquet export.
      metrics: all metrics; the first metric decides which run is best.
      shown: the metrics in the papers' table, in the table's order.
      folder: the task's folder in a GLUE directory.
      columns: the text columns of the official TSV files.
      label_column: the label column of the TSV files.
      words: how the TSV files write each of `labels`, in the same order; () for the label names.
      exported: the text columns in Hugging Face's parquet export and in TFDS; () for `columns`.
        The label column there is `label`.
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
