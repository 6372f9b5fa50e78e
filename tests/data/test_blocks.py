"""FULL-SENTENCES and DOC-SENTENCES: literal cases, and laws on realistic documents."""

import itertools

import numpy as np
import pytest
from test_examples import build, make_store, realistic_store


def parts(index):
    """Examples as lists of `(start, length)`."""
    ranges = list(zip(index.part_start.tolist(), index.part_length.tolist(), strict=True))
    return [ranges[i:j] for i, j in itertools.pairwise(index.first_part.tolist())]


def doc_sentences(documents, sequence_length):
    return parts(build(make_store(documents), sequence_length, builder="doc_sentences"))


def test_doc_sentences_take_as_many_whole_sentences_as_fit():
    # 8 tokens: [CLS] and [SEP] leave 6.
    assert doc_sentences([[3, 3, 1], [2, 3], [4, 3]], 8) == [
        [(0, 6)],
        [(6, 1)],
        [(7, 5)],
        [(12, 4)],
        [(16, 3)],
    ]


def test_sentences_longer_than_an_example_are_cut_and_go_on():
    assert doc_sentences([[15, 2], [1]], 8) == [[(0, 6)], [(6, 6)], [(12, 5)], [(17, 1)]]
    # 12 tokens fill two examples to the last place; the next sentence opens a third.
    assert doc_sentences([[12, 2]], 8) == [[(0, 6)], [(6, 6)], [(12, 2)]]
    # Sentences before a long sentence are not joined with a part of it.
    assert doc_sentences([[2, 7]], 8) == [[(0, 2)], [(2, 6)], [(8, 1)]]


def full_sentences(documents, sequence_length, seed=0):
    index = build(make_store(documents), sequence_length, seed=seed, builder="full_sentences")
    return parts(index)


def test_full_sentences_go_on_with_the_next_document_behind_a_separator():
    # Both orders of two documents; 10 tokens: [CLS] and two [SEP] leave 7 of two documents.
    a, b, c = (0, 3), (3, 2), (5, 3)
    outcomes = {str(full_sentences([[3, 2], [3, 4]], 10, seed)) for seed in range(20)}
    assert outcomes == {
        str([[(0, 5)], [(5, 7)]]),  # 5 + 1 + 3 + 2 would be 11
        str([[(5, 7)], [(0, 5)]]),
    }
    outcomes = {str(full_sentences([[3, 2], [3, 4]], 11, seed)) for seed in range(20)}
    assert outcomes == {
        str([[(a[0], a[1] + b[1]), c], [(8, 4)]]),
        str([[(5, 7)], [(0, 5)]]),
    }
    outcomes = {str(full_sentences([[3, 2], [3, 4]], 13, seed)) for seed in range(20)}
    assert outcomes == {
        str([[(0, 5), (5, 3)], [(8, 4)]]),
        str([[(5, 7), a], [b]]),
    }


def test_full_sentences_hold_several_documents():
    assert sorted(full_sentences([[1], [1], [1]], 16)[0]) == [(0, 1), (1, 1), (2, 1)]
    # [CLS] and three times 1 + [SEP] are 7 places.
    assert [len(e) for e in full_sentences([[1]] * 7, 7)] == [3, 3, 1]
    assert [len(e) for e in full_sentences([[1]] * 7, 8)] == [3, 3, 1]
    assert [len(e) for e in full_sentences([[1]] * 7, 9)] == [4, 3]


@pytest.mark.parametrize("builder", ["full_sentences", "doc_sentences"])
@pytest.mark.parametrize("sequence_length", [16, 128, 512])
def test_blocks_tile_the_corpus_with_whole_sentences(builder, sequence_length):
    store = realistic_store()
    index = build(store, sequence_length, builder=builder)
    starts, lengths = index.part_start, index.part_length.astype(int)
    order = np.argsort(starts)
    ends = (starts + lengths)[order]
    assert starts[order][0] == 0
    np.testing.assert_array_equal(starts[order][1:], ends[:-1])
    assert ends[-1] == store.sentences[-1]
    # A part starts and ends with a sentence, unless the sentence is longer than an example.
    long = np.diff(store.sentences) > sequence_length - 2
    bounds = np.concatenate([store.sentences[:-1][~long], store.sentences[1:][~long]])
    cut = np.isin(starts, bounds) | long[np.searchsorted(store.sentences, starts, "right") - 1]
    assert cut.all()
    assert index.is_random is None
    lengths = index.lengths()
    assert lengths.max() == sequence_length
    # No part reaches into a second document.
    documents = store.sentences[store.documents]
    first = np.searchsorted(documents, starts, "right")
    np.testing.assert_array_equal(
        first, np.searchsorted(documents, ends[np.argsort(order)], "left")
    )
    per_example = np.diff(index.first_part)
    assert (per_example == 1).all() if builder == "doc_sentences" else per_example.max() > 1


def test_no_example_could_have_taken_the_next_sentence():
    store = realistic_store()
    index = build(store, 128, builder="full_sentences")
    sizes = dict(zip(store.sentences[:-1].tolist(), np.diff(store.sentences).tolist(), strict=True))
    examples, lengths = parts(index), index.lengths().tolist()
    documents = set(store.sentences[store.documents].tolist())
    for (example, following), length in zip(itertools.pairwise(examples), lengths, strict=False):
        start = following[0][0]
        if start not in sizes:  # the rest of a cut sentence
            continue
        separator = start in documents
        same = sum(example[-1]) == start and not separator
        assert length + sizes[start] + (not same) > 128


def test_full_sentences_mix_documents_anew_in_every_epoch():
    store = realistic_store(100)
    epochs = [parts(build(store, 512, seed=s, builder="full_sentences")) for s in range(2)]
    joined = [{tuple(e) for e in epoch if len(e) > 1} for epoch in epochs]
    assert min(map(len, joined)) > 10
    assert len(joined[0] & joined[1]) < 0.2 * len(joined[0])
    same = [parts(build(store, 512, seed=s, builder="doc_sentences")) for s in range(2)]
    assert same[0] == same[1]
