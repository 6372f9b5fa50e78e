"""The same ids for every program: exactly so many tokens, no padding."""

import numpy as np
import pytest
from finetune_examples import TOKENIZER

from bertjax.device import texts
from bertjax.errors import DataError


def ids_of(text):
    return TOKENIZER.encode([text])[0]


def test_lines_follow_each_other_and_no_more_is_taken_than_asked(tmp_path):
    (tmp_path / "t.txt").write_text("a b c\n\nd e\n")
    ids, notes = texts.tokens(str(tmp_path / "t.txt"), TOKENIZER, 4)
    assert ids.tolist() == ids_of("a b c d")
    assert not notes


def test_short_texts_are_repeated_and_that_is_said(tmp_path):
    (tmp_path / "t.txt").write_text("a b c\n")
    ids, notes = texts.tokens(str(tmp_path / "t.txt"), TOKENIZER, 7)
    assert ids.tolist() == ids_of("a b c a b c a")
    assert notes == [f"{tmp_path}/t.txt: 3 tokens, repeated to make the 7 that all batches take"]


def test_a_batch_has_rows_of_exactly_that_length():
    ids = np.arange(10, 20)
    batch = texts.batch(ids, TOKENIZER, 3, 6)
    begin, end = TOKENIZER.cls_id, TOKENIZER.sep_id
    rows = [[10, 11, 12, 13], [14, 15, 16, 17], [18, 19, 10, 11]]
    assert batch["input_ids"].tolist() == [[begin, *row, end] for row in rows]
    assert batch["attention_mask"].tolist() == [[1] * 6] * 3
    assert batch["token_type_ids"].tolist() == [[0] * 6] * 3
    assert {array.dtype for array in batch.values()} == {np.dtype(np.int64)}


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (None, "No such file"),
        (b"", "an empty file"),
        (b"a\n\xff\xfe\n", "t.txt:2: not UTF-8"),
        (b" \n", "no token"),
    ],
)
def test_bad_texts(tmp_path, contents, message):
    if contents is not None:
        (tmp_path / "t.txt").write_bytes(contents)
    with pytest.raises(DataError, match=message):
        texts.tokens(str(tmp_path / "t.txt"), TOKENIZER, 5)
