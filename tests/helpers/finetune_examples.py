"""For tests of fine-tuning: a tokenizer whose pieces are letters, and rows of given lengths."""

import string

import numpy as np

from bertjax.data import wordpiece
from bertjax.finetune.examples import Answer, Choices, Question, Text, Words
from bertjax.finetune.rows import Rows, Settings

TOKENIZER = wordpiece.WordPiece(
    [
        *wordpiece.SPECIALS,
        *string.ascii_lowercase,
        *("##" + letter for letter in string.ascii_lowercase),
        *"?.,'",
        *("is", "what", "the"),
    ],
    lowercase=True,
)
QUESTION = Question("q", "what is a ?", "a b c d", (Answer("b", 2),), True)
EXAMPLES = {
    "single": [Text("1", ("a b",), "x"), Text("2", ("c",), "y")],
    "pair": [Text("1", ("a b", "c"), "x")],
    "regression": [Text("1", ("a b",), 0.5)],
    "multiple_choice": [Choices("1", "a", "b", ("c", "d"), 1)],
    "span": [QUESTION],
    "token": [Words("1", ("a", "b"), ("x", "y"))],
}
SETTINGS = {kind: Settings(kind, 16, ("x", "y"), stride=4, question_length=4) for kind in EXAMPLES}


def rows_of_lengths(lengths, kind="single", choices=1, labels=None):
    """Rows with sequences of the given lengths [R * C]; a token is the number of its sequence."""
    lengths = np.asarray(lengths)
    count = len(lengths) // choices
    return Rows(
        kind,
        choices,
        np.repeat(np.arange(len(lengths)), lengths).astype(np.int32),
        np.zeros(lengths.sum(), np.uint8),
        np.concatenate([[0], np.cumsum(lengths)]),
        np.arange(count, dtype=np.int32),
        labels=np.arange(count, dtype=np.int32) if labels is None else labels,
    )
