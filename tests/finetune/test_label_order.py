"""Laws of bertjax.finetune.label_order: rows go by the names of labels."""

import pytest

from bertjax.finetune.label_order import reorder

MNLI = ("entailment", "neutral", "contradiction")


@pytest.mark.parametrize(
    ("source", "task", "rows"),
    [
        (MNLI, MNLI, [0, 1, 2]),
        (("CONTRADICTION", "NEUTRAL", "ENTAILMENT"), MNLI, [2, 1, 0]),  # roberta-large-mnli
        (("contradiction", "entailment", "neutral"), MNLI, [1, 2, 0]),
        (MNLI, ("entailment", "not_entailment"), [0, None]),
        (("Entailment", "Not-Entailment"), ("not_entailment", "entailment"), [1, 0]),
        (("NEGATIVE", "POSITIVE"), ("negative", "positive"), [0, 1]),
        (MNLI, ("not_equivalent", "equivalent"), [None, None]),
        (("LABEL_0", "LABEL_1"), ("negative", "positive"), [0, 1]),
        (("0", "1"), ("negative", "positive"), [0, 1]),
        (("1", "0"), ("0", "1"), [1, 0]),  # of data of one's own, whose labels are numbers
        (("0", "1"), ("0", "1"), [0, 1]),
        (("LABEL_0", "LABEL_1", "LABEL_2"), ("negative", "positive"), [None, None]),
        (("LABEL_0",), ("LABEL_0",), [0]),  # regression goes on
        (("a", "b"), ("LABEL_0",), [None]),
        (("A", "a"), ("a", "A"), [1, 0]),  # as written, before case is dropped
        (("A", "a"), ("ä", "B"), [None, None]),
        (("X", "x"), ("x ", "b"), [None, None]),  # which of the two?
    ],
)
def test_rows(source, task, rows):
    assert reorder(source, task)[0] == rows


def test_the_line_says_what_is_kept_and_what_is_drawn_anew():
    _, line = reorder(("CONTRADICTION", "NEUTRAL", "ENTAILMENT"), ("entailment", "not_entailment"))
    assert line == (
        "classifier: kept by name: entailment (row 2); reinitialized: not_entailment; "
        "not used: CONTRADICTION, NEUTRAL"
    )
    assert "by position: no, yes" in reorder(("LABEL_0", "LABEL_1"), ("no", "yes"))[1]
    assert "3 labels without names, the task 2" in reorder(("0", "1", "2"), ("no", "yes"))[1]
    assert "no row is kept" in reorder(MNLI, ("no", "yes"))[1]
    assert "no names" in reorder(MNLI, ("LABEL_0",))[1]
