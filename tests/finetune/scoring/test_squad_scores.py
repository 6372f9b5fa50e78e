"""Laws of bertjax.finetune.scoring.squad_scores: the official rules by hand."""

import math

import pytest

from bertjax.errors import DataError
from bertjax.finetune.examples import Answer, Question
from bertjax.finetune.scoring import squad_scores


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("The  Norman\tConquest.", "norman conquest"),
        ("an apple a day", "apple day"),
        ("theatre, another, banana", "theatre another banana"),  # articles are whole words
        ("the-end", "theend"),  # punctuation goes first, so no article is left
        ("(a)", ""),
        ("A.", ""),
        ("U.S.", "us"),
        ("10,000", "10000"),
        ("“quoted”…", "“quoted”…"),  # only ASCII punctuation goes
        ("ÉCOLE the Straße", "école straße"),
        ("\u00a0the\u2003end\r\n", "end"),  # white space of Unicode
        ("l'a été", "la été"),
        ("cafe\u0301 a", "cafe\u0301"),  # a combining mark stays apart
        ("東京 the", "東京"),
        ("the_end", "theend"),
        ("", ""),
    ],
)
def test_normalization(text, normalized):
    assert squad_scores.normalize_answer(text) == normalized


def test_exact_and_f1_by_hand():
    assert squad_scores.exact("The Beatles!", "beatles") == 1.0
    assert squad_scores.exact("Beatles", "the fab four") == 0.0
    # 2 of 3 words found, 2 of 2 right.
    assert squad_scores.f1("new york city", "New York", False) == pytest.approx(0.8)
    assert squad_scores.f1("x x y", "x x x", False) == pytest.approx(2 / 3)  # x counts twice
    assert squad_scores.f1("x", "y", False) == 0.0


def test_answers_without_words():
    for gold, answer, old, new in [
        ("", "", 0, 1),
        ("the", "", 0, 1),
        ("x", "", 0, 0),
        ("", "x", 0, 0),
    ]:
        assert squad_scores.f1(gold, answer, False) == old
        assert squad_scores.f1(gold, answer, True) == new
    assert squad_scores.exact("the", "") == 1.0


GOLDS = {"q1": ["Denver Broncos", "The Broncos"], "q2": ["1066"], "q3": ["x"]}


def test_the_gold_answer_that_fits_best_counts():
    got = squad_scores.score(GOLDS, {"q1": "broncos", "q2": "in 1066", "q3": "y"}, False)
    assert got.exact == {"q1": 1.0, "q2": 0.0, "q3": 0.0}
    assert got.f1 == {"q1": 1.0, "q2": pytest.approx(2 / 3), "q3": 0.0}
    assert got.notes == ()
    figures = squad_scores.figures(got, GOLDS, False)
    assert figures == {"exact": pytest.approx(1 / 3), "f1": pytest.approx(5 / 9), "total": 3}


def test_a_missing_id_counts_zero_in_1_1_and_is_left_out_in_2_0():
    answers = {"q1": "broncos", "q9": "what?"}
    old = squad_scores.score(GOLDS, answers, False)
    assert squad_scores.figures(old, GOLDS, False)["total"] == 3
    assert squad_scores.figures(old, GOLDS, False)["f1"] == pytest.approx(1 / 3)
    assert old.notes == (
        "2 questions without an answer, counted 0: q2, q3",
        "1 answers to no scored question, not used: q9",
    )
    new = squad_scores.score(GOLDS, answers, True)
    figures = squad_scores.figures(new, GOLDS, True)
    assert (figures["total"], figures["f1"]) == (1, 1.0)
    assert "left out" in new.notes[0]
    assert math.isnan(figures["no_answer_f1"])


def test_many_ids_are_counted_and_a_few_named():
    golds = {f"q{i}": ["x"] for i in range(9)}
    (note,) = squad_scores.score(golds, {}, False).notes
    assert note == "9 questions without an answer, counted 0: q0, q1, q2, q3, q4..."


def test_no_answer_and_the_breakdown_of_2_0():
    golds = {"has": ["a tower"], "has2": ["x"], "none": [], "none2": []}
    answers = {"has": "tower", "has2": "", "none": "", "none2": "guess"}
    got = squad_scores.score(golds, answers, True)
    assert got.f1 == {"has": 1.0, "has2": 0.0, "none": 1.0, "none2": 0.0}
    assert squad_scores.figures(got, golds, True) == {
        **{"exact": 0.5, "f1": 0.5, "total": 4},
        **{"has_answer_exact": 0.5, "has_answer_f1": 0.5, "has_answer_total": 2},
        **{"no_answer_exact": 0.5, "no_answer_f1": 0.5, "no_answer_total": 2},
    }


def test_a_gold_answer_without_words_does_not_count_in_2_0():
    assert squad_scores.score({"q": ["the", "x"]}, {"q": ""}, True).f1 == {"q": 0.0}
    assert squad_scores.score({"q": ["the"]}, {"q": ""}, True).f1 == {"q": 1.0}
    assert squad_scores.score({"q": ["the", "x"]}, {"q": ""}, False).exact == {"q": 1.0}
    assert squad_scores.has_answer({"q": ["the"]}) == {"q": True}  # as the file says


def question(name, answers=(), answerable=None):
    found = tuple(Answer(text, 0) for text in answers)
    return Question(name, "?", "context", found, answerable)


def test_golds_of_a_file():
    rows = [question("a", ["x", "y"], True), question("b", (), False), question("c")]
    assert squad_scores.golds(rows, True) == {"a": ["x", "y"], "b": []}
    assert squad_scores.golds(rows, False) == {"a": ["x", "y"]}
    with pytest.raises(DataError, match="'a' occurs twice"):
        squad_scores.golds([rows[0], rows[0]], True)
