"""Laws of bertjax.finetune.scoring.tag_scores: hand-made sentences, and the package it must agree with."""

import math
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertjax.finetune.scoring import tag_scores
from bertjax.finetune.scoring.tag_scores import Counts, Entity, entities, strict_entities


@pytest.mark.parametrize(
    ("tags", "lenient", "strict"),
    [
        ("B-x I-x O B-y", [("x", 0, 1), ("y", 3, 3)], [("x", 0, 1), ("y", 3, 3)]),
        ("O I-x I-x O", [("x", 1, 2)], []),  # IOB1, and illegal in IOB2
        ("B-x I-y", [("x", 0, 0), ("y", 1, 1)], [("x", 0, 0)]),
        ("B-x I-y I-x", [("x", 0, 0), ("y", 1, 1), ("x", 2, 2)], [("x", 0, 0)]),
        ("B-x B-x", [("x", 0, 0), ("x", 1, 1)], [("x", 0, 0), ("x", 1, 1)]),
        ("I-x B-x", [("x", 0, 0), ("x", 1, 1)], [("x", 1, 1)]),
        ("B I O I", [("_", 0, 1), ("_", 3, 3)], [("_", 0, 1)]),
        ("B-a-b I-a-b I-a", [("a-b", 0, 1), ("a", 2, 2)], [("a-b", 0, 1)]),
        ("S-x B-x I-x E-x", [("x", 0, 0), ("x", 1, 3)], None),
        ("B-x E-x I-x", [("x", 0, 1), ("x", 2, 2)], None),
    ],
)
def test_entities_by_hand(tags, lenient, strict):
    assert entities(tags.split()) == [Entity(*e) for e in lenient]
    if strict is not None:
        assert strict_entities(tags.split()) == [Entity(*e) for e in strict]


def test_figures_by_hand():
    gold = [["B-x", "I-x", "O"], ["B-y", "O"]]
    predicted = [["B-x", "O", "O"], ["B-y", "B-x"]]
    assert tag_scores.by_type(gold, predicted) == {"x": Counts(0, 2, 1), "y": Counts(1, 1, 1)}
    got = tag_scores.figures(gold, predicted)
    assert got["precision"] == pytest.approx(1 / 3)
    assert got["recall"] == pytest.approx(1 / 2)
    assert got["f1"] == pytest.approx(0.4)
    assert got["strict_f1"] == pytest.approx(0.4)
    assert got["support"] == 2
    assert got["accuracy"] == pytest.approx(3 / 5)


def test_the_two_readings_differ_where_an_entity_begins_with_i():
    got = tag_scores.figures([["B-x", "I-x"], ["B-y"]], [["I-x", "I-x"], ["B-y"]])
    assert got["f1"] == 1.0
    assert got["strict_f1"] == pytest.approx(2 / 3)


def test_nothing_found_is_zero_and_bioes_has_no_strict_iob2():
    assert tag_scores.figures([["O", "B-x"]], [["O", "O"]])["f1"] == 0.0
    assert tag_scores.figures([["O"]], [["O"]])["f1"] == 0.0
    got = tag_scores.figures([["S-x"]], [["S-x"]])
    assert got["f1"] == 1.0
    assert math.isnan(got["strict_f1"])


def test_an_entity_ends_with_its_sentence():
    assert tag_scores.by_type([["B-x"], ["I-x"]], [["B-x"], ["I-x"]])["x"] == Counts(2, 2, 2)


def test_a_sentence_with_a_tag_too_few_is_refused():
    with pytest.raises(ValueError, match="sentence 1: 2 words, 1 predicted"):
        tag_scores.by_type([["O"], ["O", "O"]], [["O"], ["O"]])


def tag(prefixes):
    kinds = st.sampled_from(["-x", "-y", "-x-y", "-x-", "", "-"])
    tags = st.tuples(st.sampled_from(prefixes), kinds).map("".join)
    return st.one_of(st.just("O"), tags)


def pairs(prefixes):
    sentence = st.lists(st.tuples(tag(prefixes), tag(prefixes)), min_size=1, max_size=9)
    return st.lists(sentence, min_size=1, max_size=5)


def apart(sentences):
    return [[t for t, _ in s] for s in sentences], [[t for _, t in s] for s in sentences]


def compare(gold, predicted, find, **mode):
    from seqeval.metrics.sequence_labeling import precision_recall_fscore_support
    from seqeval.metrics.v1 import precision_recall_fscore_support as of_scheme

    theirs_of = of_scheme if mode else precision_recall_fscore_support
    counts = tag_scores.by_type(gold, predicted, find)
    ours = [tuple(c.figures().values()) for c in counts.values()]
    theirs = theirs_of(gold, predicted, average=None, zero_division=0, **mode)
    assert ours == [pytest.approx(row) for row in zip(*theirs, strict=True)]
    of_all = theirs_of(gold, predicted, average="micro", zero_division=0, **mode)
    assert tuple(tag_scores.micro(counts).figures().values()) == pytest.approx(of_all)


@settings(deadline=None, max_examples=300)
@given(pairs("BIES"))
def test_the_lenient_reading_is_seqevals_default(sentences):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compare(*apart(sentences), entities)


# Other letters count as inside; without a type, seqeval lets them begin at the entity before.
OTHERS = st.sampled_from(["L-x", "U-x", "X-y", "L-x-y"])


@settings(deadline=None, max_examples=300)
@given(st.lists(st.one_of(tag("BIES"), OTHERS), max_size=12))
def test_entities_are_seqevals(tags):
    from seqeval.metrics.sequence_labeling import get_entities

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Behind an O, as every sentence but the first is in seqeval's own flat list.
        theirs = get_entities(["O", *tags])
    assert [(e.type, e.start + 1, e.end + 1) for e in entities(tags)] == theirs


@settings(deadline=None, max_examples=300)
@given(pairs("BI"))
def test_the_strict_reading_is_seqevals_strict_iob2(sentences):
    from seqeval.scheme import IOB2

    compare(*apart(sentences), strict_entities, scheme=IOB2)
