"""The GLUE averages of the papers, each by the paper's own definition.

BERT (Devlin et al. 2019, Table 1): MNLI matched and mismatched count as two tasks; WNLI is left
out; F1 for QQP and MRPC, Spearman for STS-B, Matthews for CoLA, accuracy otherwise. BERT Base's row
averages to the printed 79.6.

RoBERTa (Liu et al. 2019): accuracy, also for QQP and MRPC; Pearson for STS-B, Matthews for CoLA.
The paper gives no average of its dev results. The eight tasks without WNLI, with MNLI once, give
the 88.9 that ELECTRA (Clark et al. 2020) prints for RoBERTa. The paper's 88.5 for test results is
GLUE's average.

DistilBERT (Sanh et al. 2019, Table 1): nine tasks with WNLI, the mean of both metrics for MRPC, QQP
and STS-B (transformers #2447), MNLI once. The row, medians of five runs, averages to the printed
77.0; without WNLI it averages to 79.6.

GLUE's leaderboard (Wang et al. 2019): the metrics of a task are averaged, MNLI's two halves too,
then the nine tasks; the diagnostic set does not count.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

Column = tuple[str, str]  # task, metric


class Average(NamedTuple):
    """One paper's average.

    Attributes:
      name: the name in tables.
      parts: the values to average; each is the mean of the figures of its columns.
    """

    name: str
    parts: tuple[tuple[Column, ...], ...]


_MATCHED, _MISMATCHED = ("mnli", "accuracy"), ("mnli", "mismatched_accuracy")
_PLAIN = tuple(((task, "accuracy"),) for task in ("qnli", "sst2", "rte"))
_COLA, _WNLI = (("cola", "matthews"),), (("wnli", "accuracy"),)
_BOTH = (
    (("mrpc", "f1"), ("mrpc", "accuracy")),
    (("qqp", "f1"), ("qqp", "accuracy")),
    (("stsb", "pearson"), ("stsb", "spearman")),
)

BERT = Average(
    "BERT (MNLI twice, no WNLI)",
    (
        (_MATCHED,),
        (_MISMATCHED,),
        *_PLAIN,
        _COLA,
        *((("qqp", "f1"),), (("mrpc", "f1"),), (("stsb", "spearman"),)),
    ),
)
ROBERTA = Average(
    "RoBERTa dev (accuracy, Pearson, no WNLI)",
    (
        (_MATCHED,),
        *_PLAIN,
        _COLA,
        *((("qqp", "accuracy"),), (("mrpc", "accuracy"),), (("stsb", "pearson"),)),
    ),
)
_WITHOUT = ((_MATCHED,), *_PLAIN, _COLA, *_BOTH)
DISTILBERT = Average("DistilBERT (with WNLI)", (*_WITHOUT, _WNLI))
DISTILBERT_WITHOUT_WNLI = Average("DistilBERT without WNLI", _WITHOUT)
GLUE = Average("GLUE leaderboard", ((_MATCHED, _MISMATCHED), *_PLAIN, _COLA, *_BOTH, _WNLI))

AVERAGES = (BERT, ROBERTA, DISTILBERT, DISTILBERT_WITHOUT_WNLI, GLUE)


def average(of: Average, figures: Mapping[Column, float]) -> tuple[float, int]:
    """The average over the parts that have all their figures, or NaN; and the number of parts."""
    whole = [part for part in of.parts if all(column in figures for column in part)]
    means = [math.fsum(figures[column] for column in part) / len(part) for part in whole]
    return (math.fsum(means) / len(means) if means else math.nan), len(means)
