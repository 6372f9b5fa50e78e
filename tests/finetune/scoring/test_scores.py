"""Laws of bertjax.finetune.scoring.scores: known figures, what is undefined, what learned nothing."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest

from bertjax.finetune.scoring import scores

LABELS = np.array([1, 1, 1, 0, 0, 0])
PREDICTED = np.array([1, 1, 0, 1, 0, 0])  # tp 2, fn 1, fp 1, tn 2


def test_classification_by_hand():
    got = scores.figures(("accuracy", "f1", "macro_f1", "matthews"), LABELS, PREDICTED)
    assert got["accuracy"] == pytest.approx(4 / 6)
    assert got["f1"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert got["macro_f1"] == pytest.approx(2 / 3)  # class 0 is the mirror image of class 1
    assert got["matthews"] == pytest.approx((2 * 2 - 1 * 1) / math.sqrt(3 * 3 * 3 * 3))


def test_f1_is_that_of_label_1_and_not_that_of_the_larger_class():
    labels, predicted = np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])
    assert scores.figures(("f1",), labels, predicted)["f1"] == pytest.approx(2 / 3)
    assert scores.figures(("f1",), labels, np.array([0, 0, 0, 0]))["f1"] == 0.0  # defined: missed


def test_macro_f1_of_three_classes_by_hand():
    labels, predicted = np.array([0, 0, 1, 2]), np.array([0, 1, 1, 2])
    assert scores.figures(("macro_f1",), labels, predicted)["macro_f1"] == pytest.approx(
        (2 / 3 + 2 / 3 + 1) / 3
    )


def test_correlations_by_hand():
    got = scores.figures(("pearson", "spearman"), np.array([1.0, 2, 3]), np.array([1.0, 2, 9]))
    # Deviations -1 0 1 and -3 -2 5: 8 / sqrt(2 * 38).
    assert got["pearson"] == pytest.approx(8 / math.sqrt(76))
    assert got["spearman"] == pytest.approx(1.0)
    tied = scores.figures(("spearman",), np.array([1.0, 1, 2]), np.array([1.0, 2, 3]))
    assert tied["spearman"] == pytest.approx(math.sqrt(3) / 2)  # ranks 1.5 1.5 3 and 1 2 3


def test_a_target_over_five_is_scaled_back_before_it_is_scored():
    labels, outputs = np.array([5.0, 0.0, 2.5]), np.array([1.0, 0.0, 0.5], np.float32)
    assert scores.figures(("mse",), labels, outputs, scale=5.0)["mse"] == 0.0
    assert scores.figures(("mse",), labels, outputs)["mse"] > 5


@pytest.mark.filterwarnings("error")
def test_constants_have_no_correlation():
    ones, five = np.ones(6, np.int64), np.full(6, 0.1, np.float32)
    assert math.isnan(scores.figures(("matthews",), LABELS, ones)["matthews"])
    assert math.isnan(scores.figures(("matthews",), ones, LABELS)["matthews"])
    almost = five + np.arange(6, dtype=np.float32) * 1e-8
    for metric in ("pearson", "spearman"):
        assert math.isnan(scores.figures((metric,), LABELS, five)[metric])
        assert math.isnan(scores.figures((metric,), LABELS, almost)[metric])
    assert math.isnan(scores.figures(("f1",), np.zeros(3, int), np.zeros(3, int))["f1"])
    bad = np.array([1, np.nan, 2, 3, 4, 5])
    assert math.isnan(scores.figures(("pearson",), LABELS, bad)["pearson"])


def test_figures_of_nothing_or_of_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="6 labels, 5 predictions"):
        scores.figures(("accuracy",), LABELS, PREDICTED[:5])
    with pytest.raises(ValueError, match="0 labels"):
        scores.figures(("accuracy",), LABELS[:0], LABELS[:0])


def test_an_undefined_figure_counts_the_least_and_is_null():
    assert scores.value({"f1": math.nan}, "f1") == 0.0
    assert scores.value({"f1": None}, "f1") == 0.0
    assert scores.value({"loss": math.nan}, "loss") == math.inf
    assert scores.value({"f1": 0.5}, "f1") == 0.5
    with pytest.raises(KeyError):
        scores.value({}, "f1")
    tree = {"f1": math.nan, "n": np.int64(3), "in": {"x": [math.inf, np.float32(0.5)]}, "why": "a"}
    plain = scores.as_json(tree)
    assert plain == {"f1": None, "n": 3, "in": {"x": [None, 0.5]}, "why": "a"}
    json.dumps(plain, allow_nan=False)


def test_degenerate_runs():
    zeros = np.zeros(6, np.int64)
    assert scores.degenerate(LABELS, PREDICTED, 0.3, 2) is False
    names = ("not_equivalent", "equivalent")
    assert scores.degenerate(LABELS, zeros, label_names=names) == (
        "every prediction is not_equivalent"
    )
    assert scores.degenerate(LABELS, zeros) == "every prediction is 0"
    assert scores.degenerate(LABELS * 1.0, np.full(6, 2.5)) == "every prediction is 2.5"
    assert scores.degenerate(zeros, zeros) is False  # one label: the constant is right
    undefined = scores.figures(("matthews", "accuracy"), zeros, PREDICTED)
    assert scores.degenerate(zeros, PREDICTED, figures=undefined) == "matthews undefined"
    assert scores.degenerate(LABELS, PREDICTED, math.nan) == "the training loss is nan"
    assert scores.degenerate(LABELS, np.array([1.0, math.inf] * 3)) == "a prediction is not finite"


@pytest.mark.parametrize("choices", [2, 3, 4])
def test_the_loss_of_a_guess_is_degenerate(choices):
    guess = math.log(choices)
    for loss in (guess - 0.0099, guess, guess + 0.0099):
        assert f"ln {choices}" in scores.degenerate(LABELS, PREDICTED, loss, choices)
    for loss in (guess - 0.0101, guess + 0.0101):
        assert scores.degenerate(LABELS, PREDICTED, loss, choices) is False
    assert scores.degenerate(LABELS, PREDICTED, guess, None) is False


def run(value, degenerate=False, metric="f1"):
    return {"figures": {metric: value}, "degenerate": degenerate}


def test_the_best_run_is_sound_where_one_is():
    runs = [run(0.9, "every prediction is 1"), run(0.5), run(None), run(math.nan), run(0.7)]
    assert scores.best(runs, "f1") is runs[4]
    assert scores.best(runs[:1], "f1") is runs[0]
    assert scores.best([run(0.7), run(0.7)][::-1], "f1")["figures"]["f1"] == 0.7
    first, second = run(0.7), run(0.7)
    assert scores.best([first, second], "f1") is first
    assert scores.best([run(0.0, "so"), run(0.2, "so")], "f1")["figures"]["f1"] == 0.2


def test_every_metric_knows_its_direction():
    runs = [run(0.4, metric="loss"), run(0.2, metric="loss"), run(math.nan, metric="loss")]
    assert scores.best(runs, "loss") is runs[1]
    assert scores.better("loss", 0.2, 0.4)
    assert not scores.better("loss", 0.4, 0.4)
    assert scores.better("f1", 0.4, 0.2)
    assert scores.better("f1", 0.0, math.nan)
    assert scores.better("loss", 9.0, math.nan)
    for metric in ("f1", "loss"):
        assert not scores.better(metric, math.nan, 0.1)
        assert not scores.better(metric, math.nan, math.nan)


MNLI = ("entailment", "neutral", "contradiction")


def test_below_chance_names_the_permutation_that_fits():
    labels = np.array([0, 1, 2] * 100)
    turned = (labels + 1) % 3  # says neutral for entailment, and so on
    line = scores.below_chance(labels, turned, MNLI)
    assert "accuracy 0.000 is below chance (0.333); it would be 1.000" in line
    assert "entailment as contradiction" in line  # 0 is said where 2 is meant
    assert "neutral as entailment" in line
    assert "\n" not in line
    swapped = scores.below_chance(
        np.array([0, 1, 1, 0] * 100), np.array([1, 0, 0, 0] * 100), ("no", "yes")
    )
    assert "0.250" in swapped
    assert "no as yes, yes as no" in swapped


def test_at_chance_or_above_nothing_is_said():
    labels = np.array([0, 1, 2] * 10)
    assert scores.below_chance(labels, labels, MNLI) is None
    assert scores.below_chance(labels, np.zeros(30, int), MNLI) is None
    assert scores.below_chance(np.array([0, 1]), np.array([0, 0]), ("no", "yes")) is None


def test_within_four_deviations_of_a_guess_nothing_is_said():
    """On WNLI's 71 dev examples a deviation is 5.9 points: 26.3 and more may be a guess."""
    labels = np.zeros(71, int)
    for right, is_said in ((20, False), (18, True)):
        predictions = np.where(np.arange(71) < right, 0, 1)
        assert bool(scores.below_chance(labels, predictions, ("no", "yes"))) == is_said


def test_mnli_as_two_classes():
    other = ("CONTRADICTION", "NEUTRAL", "ENTAILMENT")
    assert scores.merge_labels(np.array([0, 1, 2]), MNLI).tolist() == [0, 1, 1]
    assert scores.merge_labels(np.array([0, 1, 2]), other).tolist() == [1, 1, 0]


def test_scores_start_without_jax_or_the_heavy_libraries():
    names = "decode null_threshold picture scores squad_scores submission table tag_scores"
    code = "import sys; from bertjax.finetune.scoring import " + ", ".join(names.split())
    code += "; sys.exit(sorted({'jax','sklearn','scipy','matplotlib'} & set(sys.modules)) or 0)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
