"""The fields of a config that say what a model is fine-tuned on, and how."""

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
        "a task of the papers; unset for data of one's own",
        TASKS,
    )
    kind: str | None = field(
        None,
        "what data of one's own are: single (a text), pair, regression (text or pair to a number), "
        "multiple_choice, span (question answering) or token (CoNLL columns)",
        KINDS,
    )
    text_column: str = field("text", "column of the text, the first of a pair or the context")
    pair_column: str | None = field(None, "column of the second text, or of the question")
    label_column: str = field(
        "label", "column of the label; of token, the word's tag: a number, from 0 or (-1) the end"
    )
    id_column: str | None = field(None, "column of the id; unset numbers the rows from 0")
    option_columns: tuple[str, ...] = field((), "multiple_choice: columns of the options")
    stride: Positive = field(128, "span: tokens between the starts of two windows (BERT: 128)")
    question_length: Positive = field(64, "span: most tokens of a question")
    answer_length: Positive = field(30, "span: most tokens of an answer")
    n_best: Positive = field(20, "span: starts and ends that are combined, and answers kept")
    target_scale: PositiveFloat = field(
        1.0, "regression: what targets are divided by in training (fairseq, STS-B: 5)"
    )
    null_answers: bool | None = field(
        None, "span: a question may have no answer; unset: as squad2 does and squad does not"
    )
    span_loss: str = field(
        "published",
        "span: the softmax is over the whole row, padding too (published: google-research/bert; with "
        "finetune.buckets the padding is the bucket's), or over the row's own tokens (own)",
        ("published", "own"),
    )


@dataclasses.dataclass(frozen=True)
class Finetune:
    epochs: PositiveFloat = field(3.0, "passes over the training examples")
    warmup_fraction: Share = field(0.1, "share of the steps that warms up")
    evaluations_per_epoch: Positive = field(1, "evaluations, and checkpoints, in an epoch")
    select: str = field(
        "last",
        "the weights that count: those of the last step (last, as BERT), or of the evaluation with "
        "the best metric (best, as RoBERTa)",
        ("last", "best"),
    )
    metric: str | None = field(None, "the figure that select, patience and grids go by")
    patience: Count = field(0, "evaluations in a row without a better metric that end a run; 0: no")
    random_start: bool = field(
        False, "take only sizes and tokenizer of init_from, and draw the weights anew"
    )
    reinit_layers: Count = field(
        0, "top encoder blocks, and the pooler, drawn anew (Zhang et al. 2020)"
    )
    shuffle: bool = field(True, "draw a new order for every epoch; False keeps the file's")
    group_lengths: bool = field(
        True, "put rows of like length into a batch: a pool of 50 batches is sorted, then shuffled"
    )
    buckets: Count = field(
        4, "most lengths to which batches are padded, a compilation each; 0 pads to sequence_length"
    )


@dataclasses.dataclass(frozen=True)
class Grid:
    learning_rate: tuple[float, ...] = field((), "rates to try: (5e-5, 3e-5, 2e-5)")
    batch_size: tuple[int, ...] = field((), "batch sizes to try: (16, 32)")
    epochs: tuple[float, ...] = field((), "epochs to try: (2, 3, 4)")
