"""`encode` makes the same rows from texts as the pipeline makes from a store of these texts."""

from types import SimpleNamespace

import numpy as np
import pytest

from bertjax.config import Config, Examples, Objective, Phase
from bertjax.data import pipeline
from bertjax.data.encode import encode

TOKENIZER = SimpleNamespace(pad_id=0, cls_id=1, sep_id=2, vocab_size=100)
STORE = SimpleNamespace(
    tokens=np.arange(10, 60, dtype=np.uint16),
    sentences=np.array([0, 3, 7, 9, 15, 16, 22, 30, 41, 50]),
    documents=np.array([0, 4, 6, 9]),
)


@pytest.mark.parametrize("builder", ["sentence_pair_nsp", "doc_sentences"])
def test_a_row_is_that_of_a_store(builder):
    config = Config(
        examples=Examples(builder),
        objective=Objective(nsp=float(builder == "sentence_pair_nsp")),
        phases={"phase1": Phase(steps=1, sequence_length=16, batch_size=8)},
    )
    batches = pipeline.Batches([STORE], TOKENIZER, config)
    batch, index = batches.batch(0), batches._corpora[0].index(0)
    for row, example in enumerate(batch["example_ids"]):
        parts = range(*index.first_part[example : example + 2])
        texts = tuple(
            STORE.tokens[index.part_start[k] :][: index.part_length[k]].tolist() for k in parts
        )
        found = encode([texts], TOKENIZER, longest=16, multiple=16)
        for name, values in found.items():
            np.testing.assert_array_equal(values[0], batch[name][row], err_msg=name)


def test_what_is_too_long_is_cut_and_rows_are_made_up_to_a_multiple():
    batch = encode([([5] * 9, [6] * 4), ([5],), ([5] * 20,)], TOKENIZER, longest=10, multiple=4)
    assert batch["input_ids"].tolist() == [
        [1, 5, 5, 5, 5, 2, 6, 6, 6, 2],
        [1, 5, 2, 0, 0, 0, 0, 0, 0, 0],
        [1, 5, 5, 5, 5, 5, 5, 5, 5, 2],
    ]
    assert batch["token_type_ids"].tolist() == [[0] * 6 + [1] * 4, [0] * 10, [0] * 10]
    assert batch["attention_mask"].sum(1).tolist() == [10, 3, 10]
    assert encode([([5],)], TOKENIZER, longest=10, multiple=4)["input_ids"].shape == (1, 4)
