"""Questions ask for whole words of held-out sentences, and depend only on the store."""

import numpy as np
import pytest
from corpora import VOCAB

from bertjax.data import cloze, store, tokenizer
from bertjax.errors import DataError

SENTENCES = [
    ["the old clock on the wall was slow ."] * 2,
    ["the clock was slow .", "nobody ever wound it up again of this small house ."],
    ["0 1 2 3 4 5 6 7 8 9 .", "the 12 was the 345 of the 678 ."],
]


@pytest.fixture
def encoder(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    return tokenizer.load(tmp_path / "vocab.txt", lowercase=True)


def heldout(directory, encoder, documents):
    with store.Writer(directory, encoder.vocab_size) as writer:
        for texts in documents:
            ids = encoder.encode(texts)
            lengths = [len(part) for part in ids]
            writer.append("heldout", np.concatenate(ids), lengths, [len(lengths)])
        writer.finish()
    return store.open_store(directory, "heldout")


def test_each_answer_is_one_whole_word(tmp_path, encoder):
    opened = heldout(tmp_path / "s", encoder, SENTENCES)
    found = cloze.questions(opened, encoder, 10)
    for question in found:
        masked = question.masked(encoder.mask_id)
        assert masked.count(encoder.mask_id) == 1
        answer = encoder.decode([question.answer])
        assert answer.isalpha()
        # A whole word of the sentence is missing, never a piece of a longer word.
        words = encoder.decode(masked).replace("[MASK]", answer).replace(" ", "")
        assert words in [text.replace(" ", "") for document in SENTENCES for text in document]
    # Sentences that are too short, or without a word of one token, give no question.
    assert len(found) == 4


def test_documents_take_turns_and_a_shorter_list_is_its_beginning(tmp_path, encoder):
    opened = heldout(tmp_path / "s", encoder, SENTENCES)
    found = cloze.questions(opened, encoder, 10)
    firsts = [encoder.decode(q.ids).split()[0] for q in found]
    assert firsts == ["the", "nobody", "the", "the"]
    assert found[0] == found[3]  # the same sentence gives the same missing word
    assert cloze.questions(opened, encoder, 2) == found[:2]


def test_the_order_of_a_documents_sentences_does_not_matter(tmp_path, encoder):
    sentences = [f"the old {word} on the wall was slow ." for word in ("clock", "house", "wall")]
    one = heldout(tmp_path / "one", encoder, [sentences])
    other = heldout(tmp_path / "other", encoder, [sentences[::-1]])
    assert cloze.questions(one, encoder, 2) == cloze.questions(other, encoder, 2)


def test_a_split_without_words_is_refused(tmp_path, encoder):
    opened = heldout(tmp_path / "s", encoder, [["0 1 2 3 4 5 6 7 8 9 ."]])
    with pytest.raises(DataError, match="no held-out sentence of 8 to 40 tokens"):
        cloze.questions(opened, encoder, 10)
