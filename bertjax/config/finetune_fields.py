"""The config fields for fine-tuning: the task, the training and the grid."""

import dataclasses

from bertjax.config.rules import Count, Positive, PositiveFloat, Share
from bertjax.config.tree import field

TASKS = (
    *("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"),
    *("squad", "squad2", "swag", "race", "imdb"),
)
KINDS = ("single", "pair", "regression", "multiple_choice", "span", "token")


@dataclasses.dataclass(frozen=True)
class Task:
    name: str | None = field(
        None,
        "a task of the papers; unset for your own data",
        TASKS,
    )
    kind: str | None = field(
        None,
        "kind of your own data: single (a text), pair, regression (text or pair to a number), "
        "multiple_choice, span (question answering) or token (CoNLL columns)",
        KINDS,
    )
    text_column: str = field("text", "column of the text, of a pair's first text or of the context")
    pair_column: str | None = field(None, "column of the second text, or of the question")
    label_column: str = field(
        "label",
        "column of the label; token: number of the tag's column, from 0, or -1 for the last",
    )
    id_column: str | None = field(None, "column of the id; unset numbers the rows from 0")
    option_columns: tuple[str, ...] = field((), "multiple_choice: columns of the options")
    stride: Positive = field(128, "span: tokens between the starts of two windows (BERT: 128)")
    question_length: Positive = field(64, "span: most tokens of a question")
    answer_length: Positive = field(30, "span: most tokens of an answer")
    n_best: Positive = field(20, "span: best starts and ends to combine, and answers to keep")
    target_scale: PositiveFloat = field(
        1.0, "regression: divisor of the targets in training (fairseq, STS-B: 5)"
    )
    null_answers: bool | None = field(
        None, "span: a question may have no answer; unset: only for squad2"
    )
    span_loss: str = field(
        "published",
        "span: softmax over the whole row with padding (published: google-research/bert; with "
        "finetune.buckets, rows are padded to a bucket), or over the row's own tokens (own)",
        ("published", "own"),
    )


@dataclasses.dataclass(frozen=True)
class Finetune:
    epochs: PositiveFloat = field(3.0, "passes over the training examples")
    warmup_fraction: Share = field(0.1, "share of the steps for warm-up")
    evaluations_per_epoch: Positive = field(1, "evaluations and checkpoints in an epoch")
    select: str = field(
        "last",
        "the weights that count: of the last step (last, as in BERT), or of the evaluation with "
        "the best metric (best, as in RoBERTa)",
        ("last", "best"),
    )
    metric: str | None = field(None, "figure for select, patience and grids; unset: the task's")
    patience: Count = field(
        0, "evaluations in a row without a better metric after which a run ends; 0: never"
    )
    random_start: bool = field(
        False, "take only sizes and tokenizer of init_from, and start from random weights"
    )
    reinit_layers: Count = field(
        0, "number of top encoder blocks to reinitialize, with the pooler (Zhang et al. 2020)"
    )
    shuffle: bool = field(True, "draw a new order for every epoch; False keeps the file's order")
    group_lengths: bool = field(
        True, "batch rows of similar length: a pool of 50 batches is sorted, then shuffled"
    )
    buckets: Count = field(
        4, "most padded lengths of batches, each one compilation; 0 pads to sequence_length"
    )


@dataclasses.dataclass(frozen=True)
class Grid:
    learning_rate: tuple[float, ...] = field((), "rates to try: (5e-5, 3e-5, 2e-5)")
    batch_size: tuple[int, ...] = field((), "batch sizes to try: (16, 32)")
    epochs: tuple[float, ...] = field((), "epochs to try: (2, 3, 4)")
