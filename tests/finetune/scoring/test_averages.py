"""Each paper's row gives each paper's average."""

import math

import pytest

from bertjax.finetune.scoring import averages


def row(**values):
    """`task__metric=figure` as columns."""
    return {tuple(name.split("__")): value for name, value in values.items()}


def bert(m, mm, qqp, qnli, sst2, cola, stsb, mrpc, rte):
    figures = {"mnli__accuracy": m, "mnli__mismatched_accuracy": mm, "qqp__f1": qqp}
    figures |= {"qnli__accuracy": qnli, "sst2__accuracy": sst2, "cola__matthews": cola}
    return row(**figures, stsb__spearman=stsb, mrpc__f1=mrpc, rte__accuracy=rte)


def test_bert_base_and_large():
    """Devlin et al. 2019, Table 1."""
    base = bert(84.6, 83.4, 71.2, 90.5, 93.5, 52.1, 85.8, 88.9, 66.4)
    large = bert(86.7, 85.9, 72.1, 92.7, 94.9, 60.5, 86.5, 89.3, 70.1)
    assert averages.average(averages.BERT, base) == (pytest.approx(79.6, abs=0.05), 9)
    assert averages.average(averages.BERT, large) == (pytest.approx(82.1, abs=0.05), 9)


def test_distilbert_with_and_without_wnli():
    """Sanh et al. 2019, Table 1; of two metrics the row has the mean."""
    both = {"mrpc": 87.5, "qqp": 88.5, "stsb": 86.9}
    figures = row(mnli__accuracy=82.2, qnli__accuracy=89.2, rte__accuracy=59.9, sst2__accuracy=91.3)
    figures |= row(cola__matthews=51.3, wnli__accuracy=56.3)
    for task, first, second in (
        ("mrpc", "f1", "accuracy"),
        ("qqp", "f1", "accuracy"),
        ("stsb", "pearson", "spearman"),
    ):
        figures |= {(task, first): both[task] + 1, (task, second): both[task] - 1}
    assert averages.average(averages.DISTILBERT, figures) == (pytest.approx(77.0, abs=0.05), 9)
    without, parts = averages.average(averages.DISTILBERT_WITHOUT_WNLI, figures)
    assert (without, parts) == (pytest.approx(79.6, abs=0.05), 8)


def test_roberta_on_dev_and_on_the_leaderboard():
    """Liu et al. 2019, Table 5; the second metrics are those of its leaderboard entry."""
    dev = row(mnli__accuracy=90.2, qnli__accuracy=94.7, qqp__accuracy=92.2, rte__accuracy=86.6)
    dev |= row(sst2__accuracy=96.4, mrpc__accuracy=90.9, cola__matthews=68.0, stsb__pearson=92.4)
    assert averages.average(averages.ROBERTA, dev) == (pytest.approx(88.9, abs=0.05), 8)
    test = row(mnli__accuracy=90.8, mnli__mismatched_accuracy=90.2, qnli__accuracy=98.9)
    test |= row(qqp__f1=74.3, qqp__accuracy=90.2, rte__accuracy=88.2, sst2__accuracy=96.7)
    test |= row(mrpc__f1=92.3, mrpc__accuracy=89.8, cola__matthews=67.8, wnli__accuracy=89.0)
    test |= row(stsb__pearson=92.2, stsb__spearman=91.9)
    assert averages.average(averages.GLUE, test) == (pytest.approx(88.5, abs=0.05), 9)


def test_only_whole_tasks_count_and_their_number_is_given():
    figures = row(mrpc__f1=0.9, cola__matthews=0.5)
    assert averages.average(averages.BERT, figures) == (pytest.approx(0.7), 2)
    assert averages.average(averages.GLUE, figures) == (0.5, 1)  # MRPC lacks its accuracy
    mean, parts = averages.average(averages.GLUE, {})
    assert math.isnan(mean)
    assert parts == 0


def test_an_average_counts_each_task_as_its_paper_does():
    counted = {a.name: [{task for task, _ in part} for part in a.parts] for a in averages.AVERAGES}
    assert sum({"mnli"} == part for part in counted[averages.BERT.name]) == 2
    for average in averages.AVERAGES[1:]:
        assert sum({"mnli"} == part for part in counted[average.name]) == 1
    with_wnli = {name for name, parts in counted.items() if {"wnli"} in parts}
    assert with_wnli == {averages.DISTILBERT.name, averages.GLUE.name}
