"""Laws of bertjax.finetune.scoring.null_threshold: the official sweep, ties, and an honest figure."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertjax.finetune.scoring import null_threshold, squad_scores

GOLDS = {"a": ["x"], "b": ["x"], "c": [], "d": []}
BEST = {"a": "x", "b": "y", "c": "z", "d": "z"}


def test_the_sweep_by_hand():
    """No answer to all: 2. Then a (+1), c (-1), b (+0), d (-1)."""
    differences = {"a": 0.1, "c": 0.3, "b": 0.5, "d": 0.9}
    scores = squad_scores.score(GOLDS, BEST, True).f1
    answerable = squad_scores.has_answer(GOLDS)
    assert null_threshold.best_threshold(scores, answerable, BEST, differences) == (0.1, 0.75)


def test_no_answer_to_all_can_be_best_also_in_logits():
    scores, answerable = {"a": 0.0, "c": 0.0}, {"a": True, "c": False}
    probabilities = {"a": 0.5, "c": 0.2}
    got = null_threshold.best_threshold(scores, answerable, BEST, probabilities)
    assert got == (0.0, 0.5)  # as the script
    logits = {"a": 3.0, "c": -2.0}
    threshold, best = null_threshold.best_threshold(scores, answerable, BEST, logits)
    assert best == 0.5
    assert -2.0001 < threshold < -2.0
    assert null_threshold.apply({"a": "x", "c": "z"}, logits, threshold) == {"a": "", "c": ""}


def test_equal_differences_stay_together():
    """a alone would make 3 of 4, but no threshold parts a from c and d."""
    differences = dict.fromkeys("acd", 1.0) | {"b": 2.0}
    scores, answerable = squad_scores.score(GOLDS, BEST, True).f1, squad_scores.has_answer(GOLDS)
    threshold, best = null_threshold.best_threshold(scores, answerable, BEST, differences)
    assert (threshold, best) == (0.0, 0.5)


def official(predictions, scores, odds, answerable):
    """The sweep as evaluate-v2.0.py's readers describe it: every id, one at a time."""
    current = best = sum(not known for known in answerable.values())
    threshold = 0.0
    for question in sorted(odds, key=odds.get):
        current += scores[question] if answerable[question] else -bool(predictions[question])
        if current > best:
            best, threshold = current, odds[question]
    return threshold, best / len(scores)


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(0, 10**6))
def test_the_sweep_is_the_official_one_on_distinct_probabilities(count, seed):
    rng = np.random.default_rng(seed)
    ids = [f"q{i}" for i in range(count)]
    odds = dict(zip(ids, (rng.permutation(count) + 1) / (count + 1), strict=True))
    answerable = {q: bool(rng.random() < 0.5) for q in ids}
    texts = {q: rng.choice(["", "x"]) for q in ids}
    scores = {q: float(rng.random()) if answerable[q] else float(not texts[q]) for q in ids}
    threshold, best = null_threshold.best_threshold(scores, answerable, texts, odds)
    wanted, score = official(texts, scores, odds, answerable)
    assert threshold == wanted
    assert best == pytest.approx(score)


def drawn(count, rng):
    golds = {f"q{i}": ["x"] if rng.random() < 0.5 else [] for i in range(count)}
    answers = {q: str(rng.choice(["x", "y x", "y"])) for q in golds}
    differences = {q: float(rng.normal(-1 if texts else 1, 2)) for q, texts in golds.items()}
    return golds, answers, differences


@pytest.mark.parametrize("seed", range(5))
def test_the_best_threshold_is_the_best_of_all(seed):
    golds, answers, differences = drawn(40, np.random.default_rng(seed))
    got = null_threshold.report(golds, answers, differences)

    def at(threshold):
        texts = null_threshold.apply(answers, differences, threshold)
        return squad_scores.figures(squad_scores.score(golds, texts, True), golds, True)

    candidates = [-math.inf, *differences.values()]
    for metric in ("exact", "f1"):
        best = max(at(t)[metric] for t in candidates)
        assert got[f"best_{metric}"] == pytest.approx(best)
        assert at(got[f"best_{metric}_threshold"])[metric] == pytest.approx(best)
    assert got["zero"] == pytest.approx(at(0.0))
    tuned = dict(got["tuned"])
    assert at(tuned.pop("threshold")) == pytest.approx(tuned)
    assert got["tuned"]["f1"] >= got["zero"]["f1"]
    assert got["crossed"]["f1"] <= got["best_f1"] + 1e-12


def test_halves_are_tuned_on_one_and_scored_on_the_other():
    golds, answers, differences = drawn(60, np.random.default_rng(7))
    got = null_threshold.report(golds, answers, differences)
    parts = [[q for q in golds if null_threshold.half(q) == n] for n in (0, 1)]
    assert sum(map(len, parts)) == 60
    for scored, tuned, row in ((1, 0, got["halves"][0]), (0, 1, got["halves"][1])):
        subset = {q: golds[q] for q in parts[tuned]}
        own = null_threshold.report(subset, {q: answers[q] for q in subset}, differences)
        assert row["threshold"] == own["tuned"]["threshold"]
        rest = {q: golds[q] for q in parts[scored]}
        texts = null_threshold.apply({q: answers[q] for q in rest}, differences, row["threshold"])
        wanted = squad_scores.figures(squad_scores.score(rest, texts, True), rest, True)
        assert {k: v for k, v in row.items() if k != "threshold"} == pytest.approx(wanted)
    total = sum(row["f1"] * row["total"] for row in got["halves"])
    assert got["crossed"]["f1"] == pytest.approx(total / 60)
    assert got["crossed"]["total"] == 60


def test_the_half_of_an_id_is_fixed():
    """SHA-256 of the id, lowest bit of the first byte: 34, c7, be and 58 for these."""
    assert [null_threshold.half(q) for q in ("q0", "q1", "q2", "q3")] == [0, 1, 0, 0]
    share = np.mean([null_threshold.half(f"q{i}") for i in range(4000)])
    assert 0.47 < share < 0.53


def test_missing_ids_are_left_out_and_said():
    got = null_threshold.report(GOLDS, {"a": "x"}, {"a": -1.0})
    assert got["zero"]["total"] == 1
    assert "3 questions without an answer" in got["notes"][0]
