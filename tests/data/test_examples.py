import gzip
import itertools
import json
import os
import random
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import reference_examples as reference

from bertjax.config import Examples
from bertjax.data import examples, pairs
from bertjax.errors import DataError, UsageError


def make_store(documents):
    """A store of `documents`, given as lists of sentence lengths; token t has id t."""
    lengths = [n for document in documents for n in document]
    sentences = np.cumsum([0, *lengths])
    return SimpleNamespace(
        tokens=np.arange(sentences[-1]),
        sentences=sentences,
        documents=np.cumsum([0, *map(len, documents)]),
    )


def realistic_store(num_documents=400, seed=0):
    rng = np.random.default_rng(seed)
    sizes = rng.geometric(1 / 25, num_documents)
    return make_store([np.ceil(rng.lognormal(3, 0.7, n)).astype(int).tolist() for n in sizes])


def build(store, sequence_length=128, short_seq_prob=0.1, seed=0, builder="segment_pair_nsp"):
    config = Examples(builder=builder, short_seq_prob=short_seq_prob)
    return examples.build_index(
        store, config, sequence_length=sequence_length, rng=np.random.default_rng(seed)
    )


def columns(index):
    """The columns `(a_start, a_length, b_start, b_length, is_random)` of pairs, each [N]."""
    assert (np.diff(index.first_part) == 2).all()
    starts, lengths = index.part_start, index.part_length.astype(int)
    return starts[::2], lengths[::2], starts[1::2], lengths[1::2], index.is_random


def rows(index):
    """Pairs as `(a_start, a_length, b_start, b_length, is_random)`."""
    return list(zip(*(column.tolist() for column in columns(index)), strict=True))


def test_the_index_says_which_document_each_part_is_of():
    store = realistic_store()
    index = build(store)
    first, second = index.documents(store).reshape(-1, 2).T
    np.testing.assert_array_equal(first != second, index.is_random)
    ends = store.sentences[store.documents[1:]]
    parts_end = index.part_start + index.part_length
    assert (parts_end <= ends[index.documents(store)]).all()
    assert set(first) == set(range(400))


# ---- corner cases with one possible outcome, or few


def test_documents_of_one_sentence_always_take_a_random_b():
    assert rows(build(make_store([[3], [2]]))) == [(0, 3, 3, 2, True), (3, 2, 0, 3, True)]


def test_one_document_never_takes_a_random_b():
    outcomes = {tuple(rows(build(make_store([[3, 4, 5]]), seed=s))) for s in range(50)}
    assert outcomes == {((0, 3, 3, 9, False),), ((0, 7, 7, 5, False),)}


def test_one_sentence_in_the_corpus_leaves_b_empty():
    assert rows(build(make_store([[7]]))) == [(0, 7, 7, 0, False)]


def test_document_shorter_than_target_puts_unused_sentences_back():
    store = make_store([[3, 4], [5]])
    followed = ((0, 3, 3, 4, False), (7, 5))
    outcomes = [rows(build(store, seed=s)) for s in range(400)]
    true_b = [o for o in outcomes if not o[0][-1]]
    random_b = [o for o in outcomes if o[0][-1]]
    assert all(o[0] == followed[0] and len(o) == 2 for o in true_b)
    assert all(o[:2] == [(0, 3, 7, 5, True), (3, 4, 7, 5, True)] for o in random_b)
    assert abs(len(random_b) - 200) < 4 * 10  # p = 1/2, deviation 10


def test_last_chunk_of_one_sentence_takes_a_random_b():
    store = make_store([[4, 4, 2], [9]])
    outcomes = [rows(build(store, 11, short_seq_prob=0, seed=s)) for s in range(50)]
    true_b = [o for o in outcomes if not o[0][-1]]
    assert true_b
    # A has 2 tokens. B has 6 of the 9 tokens of the other document, which loses 3 at its ends.
    for o in true_b:
        assert o[0] == (0, 4, 4, 4, False)
        a_start, a_length, b_start, b_length, is_random = o[1]
        assert (a_start, a_length, b_length, is_random) == (8, 2, 6, True)
        assert 10 <= b_start <= 13


@pytest.mark.parametrize(
    ("first", "other", "kept"), [(20, 5, (4, 4)), (20, 3, (5, 3)), (20, 1, (7, 1))]
)
def test_first_sentence_longer_than_target_still_takes_one_sentence_of_b(first, other, kept):
    store = make_store([[first], [other, other]])
    for seed in range(20):
        a_start, a_length, b_start, b_length, is_random = rows(build(store, 11, 0, seed))[0]
        assert (a_length, b_length, is_random) == (*kept, True)
        assert 0 <= a_start <= first - a_length
        # B is one sentence, never a range over two.
        assert (b_start - first) // other == (b_start + b_length - 1 - first) // other


def test_random_b_is_uniform_over_other_documents_and_their_sentences():
    store = make_store([[1], [2, 2], [3], [4, 4, 4]])
    starts = [rows(build(store, 4 + 3, 0, seed))[0][2] for seed in range(3000)]
    counts = {start: starts.count(start) / 3000 for start in set(starts)}
    # B needs 3 tokens: the four taken lose one, at either end with equal probability.
    expected = {1: 1 / 12, 2: 1 / 12, 3: 1 / 6, 5: 1 / 3}
    expected |= dict.fromkeys((8, 9, 12, 13, 16, 17), 1 / 18)
    assert set(counts) == set(expected)
    for start, p in expected.items():
        assert abs(counts[start] - p) < 4 * (p * (1 - p) / 3000) ** 0.5


# ---- laws


@pytest.mark.parametrize("sequence_length", [16, 128, 512])
def test_sentences_are_conserved(sequence_length):
    """Every sentence is in exactly one A or true B: in order, these tile the corpus."""
    documents = [[1] * n for n in np.random.default_rng(0).geometric(1 / 60, 300)]
    index = build(make_store(documents), sequence_length)
    ranges = []
    for a, a_length, b, b_length, is_random in rows(index):
        ranges.append((a, a + a_length))
        if not is_random:
            ranges.append((b, b + b_length))
    assert ranges[0][0] == 0
    assert all(end == start for (_, end), (start, _) in itertools.pairwise(ranges))
    assert ranges[-1][1] == sum(map(sum, documents))


@pytest.mark.parametrize("sequence_length", [16, 128, 512])
def test_pairs_are_well_formed(sequence_length):
    store = realistic_store()
    index = build(store, sequence_length)
    most = sequence_length - 3
    a_start, a_length, b_start, b_length, is_random = columns(index)
    total = a_length + b_length
    np.testing.assert_array_equal(index.lengths(), total + 3)
    assert total.max() == most
    assert a_length.min() >= 1
    assert b_length.min() >= 1
    bounds = store.sentences[store.documents]

    def document(token):
        return np.searchsorted(bounds, token, "right") - 1

    a_end, b_end = a_start + a_length - 1, b_start + b_length - 1
    assert (document(a_start) == document(a_end)).all()
    assert (document(b_start) == document(b_end)).all()
    assert ((document(a_start) != document(b_start)) == is_random).all()
    # B starts behind A; the tokens between them were cut off at their ends.
    assert (b_start > a_end)[~is_random].all()
    whole = total < most
    for edge in (a_start, a_end + 1, b_start, b_end + 1):
        assert np.isin(edge[whole], store.sentences).all()


def test_truncation_keeps_what_popping_one_by_one_keeps():
    rng = np.random.default_rng(0)
    for most in (5, 6, 13):
        for a in range(1, 20):
            for b in range(1, 20):
                popped = list(range(a)), list(range(100, 100 + b))
                reference.truncate(*popped, most, random.Random(0))
                a_start, a_kept, b_start, b_kept = pairs.truncate(0, a, 100, b, most, rng)
                assert (a_kept, b_kept) == tuple(map(len, popped))
                assert 0 <= a_start <= a - a_kept
                assert 100 <= b_start <= 100 + b - b_kept


def test_same_generator_state_same_index():
    store = realistic_store(50)
    assert rows(build(store, seed=3)) == rows(build(store, seed=3))
    assert rows(build(store, seed=3)) != rows(build(store, seed=4))


def test_index_is_compact():
    index = build(realistic_store(50))
    sizes = {name: column.nbytes for name, column in vars(index).items()}
    assert sum(sizes.values()) == 29 * len(index) + 8
    assert all(column.base is None for column in vars(index).values())


@pytest.mark.parametrize("damage", [(3, 10**12), (3, -1), (0, 1), (-1, 7)])
@pytest.mark.parametrize("name", ["sentences", "documents"])
def test_damaged_offsets_are_refused(name, damage):
    store = realistic_store(20)
    place, value = damage
    getattr(store, name)[place] = value
    with pytest.raises(DataError, match=f"offsets of {name}"):
        build(store)


def test_sequence_beyond_16_bits_is_refused():
    with pytest.raises(UsageError, match="sequence_length=70000"):
        build(make_store([[3], [2]]), 70_000)


# ---- pairs of sentences


def sentence_pairs(documents, seed=0, sequence_length=128):
    return rows(
        build(make_store(documents), sequence_length, seed=seed, builder="sentence_pair_nsp")
    )


def test_sentence_pairs_follow_each_other_or_come_from_two_documents():
    """Every outcome of two documents, and its probability."""
    a, b = (0, 3), (3, 4)  # the first document; the second is one sentence at 7
    outcomes = {
        ((*a, *b, False), (7, 5, *a, True)): 1 / 4,
        ((*a, *b, False), (7, 5, *b, True)): 1 / 4,
        ((*a, 7, 5, True), (*b, 7, 5, True), (7, 5, *a, True)): 1 / 4,
        ((*a, 7, 5, True), (*b, 7, 5, True), (7, 5, *b, True)): 1 / 4,
    }
    seen = [tuple(sentence_pairs([[3, 4], [5]], seed)) for seed in range(800)]
    assert set(seen) == set(outcomes)
    for outcome, p in outcomes.items():
        assert abs(seen.count(outcome) - 800 * p) < 4 * (800 * p * (1 - p)) ** 0.5


def test_sentence_pairs_of_one_document_end_with_an_empty_b():
    assert sentence_pairs([[3, 4, 5]]) == [(0, 3, 3, 4, False), (7, 5, 12, 0, False)]


def test_sentence_pairs_are_cut_as_segments_are():
    for seed in range(20):
        ((a, a_length, b, b_length, is_random),) = sentence_pairs([[9, 4]], seed, 11)
        assert (a_length, b_length, b, is_random) == (4, 4, 9, False)
        assert 0 <= a <= 5


@pytest.mark.parametrize("builder", ["segment_pair_nsp", "sentence_pair_nsp"])
def test_a_little_over_half_of_the_pairs_are_random(builder):
    """One half of the pairs, and every A that ends its document alone."""
    index = build(make_store([[5] * 400] * 20), 20, 0.0, builder=builder)
    deviation = 0.5 / len(index) ** 0.5
    assert 0.5 - 4 * deviation < index.is_random.mean() < 0.5 + 20 / len(index) + 4 * deviation


def test_sentence_pairs_tile_the_corpus():
    documents = [[3] * n for n in np.random.default_rng(0).geometric(1 / 9, 300)]
    ends = []
    for a, a_length, b, b_length, is_random in sentence_pairs(documents):
        ends += [(a, a_length)] if is_random else [(a, a_length), (b, b_length)]
    assert ends == [(3 * i, 3) for i in range(sum(map(len, documents)))]


# ---- comparison with the plain loop on the same documents


@pytest.fixture(scope="module", params=["synthetic", "real"])
def corpus(request):
    """Sentence lengths: of real documents, in words, or drawn at random."""
    if request.param == "synthetic":
        return realistic_store(1200, seed=1)
    if not (data := os.environ.get("BERTJAX_TEST_DATA")):
        pytest.skip("BERTJAX_TEST_DATA is not set")
    with gzip.open(Path(data) / "pretrain" / "small.jsonl.gz", "rt", encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in itertools.islice(file, 1000)]
    ends = re.compile(r"(?<=[.!?])\s+|\n+")
    # One book must not outweigh the rest, because the test compares distributions over documents.
    return make_store(
        [
            [len(s.split()) for s in ends.split(text[:20_000]) if s.strip()]
            for text in texts
            if text.strip()
        ]
    )


def summary(store, a_start, a_length, b_start, b_length, is_random):
    """Quantities per example whose means must agree for both builders: {name: [N]}."""
    edges = {
        "A cut in front": a_start,
        "A cut behind": a_start + a_length,
        "B cut in front": b_start,
        "B cut behind": b_start + b_length,
    }
    result = {name: ~np.isin(edge, store.sentences) for name, edge in edges.items()}
    total = a_length + b_length
    result |= {"random": is_random, "A": a_length, "B": b_length, "A + B": total}
    result |= {"A squared": a_length**2, "B squared": b_length**2, "A times B": a_length * b_length}
    result |= {"A of random": a_length * is_random, "B of random": b_length * is_random}
    for name, length in (("A", a_length), ("B", b_length), ("A + B", total)):
        for edge in np.quantile(length, [0.05, 0.2, 0.4, 0.6, 0.8, 0.95]):
            result[f"{name} <= {edge}"] = length <= edge
    return {name: np.asarray(values, float) for name, values in result.items()}


@pytest.mark.parametrize("sequence_length", [64, 128, 512])
def test_same_law_as_the_plain_loop(corpus, sequence_length):
    """Shares, moments and histograms agree within the deviation between passes."""
    store, repeats = corpus, 8
    documents = reference.documents_of(store)
    ours, theirs = [], []
    for seed in range(repeats):
        index = build(store, sequence_length, seed=seed)
        ours.append([column.astype(int) for column in columns(index)])
        pairs = reference.pairs(documents, sequence_length, 0.1, random.Random(seed))
        fields = [(a[0], len(a), b[0], len(b), is_random) for a, b, is_random in pairs]
        theirs.append(np.array(fields).T)
    # Thresholds of the histograms must be the same for all.
    ours, theirs = compare_on(store, ours, theirs)
    for name in ours:
        x, y = ours[name], theirs[name]
        deviation = ((x.var(ddof=1) + y.var(ddof=1)) / repeats) ** 0.5
        # Few repetitions estimate a deviation poorly, so 5 deviations for 14 degrees of freedom.
        assert abs(x.mean() - y.mean()) <= 5 * deviation + 1e-12, name


def compare_on(store, ours, theirs):
    sizes = [part.shape[1] if hasattr(part, "shape") else len(part[0]) for part in ours + theirs]
    joined = [np.concatenate([part[i] for part in ours + theirs]) for i in range(5)]
    quantities = summary(store, *joined)
    bounds = np.cumsum([0, *sizes])
    means = {
        name: np.array([values[i:j].mean() for i, j in itertools.pairwise(bounds)])
        for name, values in quantities.items()
    } | {"count": np.array(sizes, float)}
    half = len(ours)
    return {n: v[:half] for n, v in means.items()}, {n: v[half:] for n, v in means.items()}
