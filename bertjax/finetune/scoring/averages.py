"""The average over GLUE, as each paper means it.

BERT (Devlin et al. 2019, Table 1): MNLI matched and mismatched count as two tasks; WNLI is left
out; F1 for QQP and MRPC, Spearman for STS-B, Matthews for CoLA, accuracy otherwise. The 79.6 of
BERT Base is that of its row.

RoBERTa (Liu et al. 2019): accuracy, also for QQP and MRPC; Pearson for STS-B, Matthews for CoLA.
The paper gives no average of its dev results; the eight tasks without WNLI, MNLI once, give the
88.9 that ELECTRA (Clark et al. 2020) prints for it. The 88.5 of its test results is GLUE's.

DistilBERT (Sanh et al. 2019, Table 1): nine tasks, WNLI too, the mean of both metrics for MRPC, QQP
and STS-B (transformers #2447), MNLI once. Its 77.0 is that of its row, which has the medians of
five runs; without WNLI the row gives 79.6.

GLUE's leaderboard (Wang et al. 2019): the metrics of a task are averaged, MNLI's two halves too,
then the nine tasks; the diagnostic set does not count.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

Column = tuple[str, str]  # task, metric


class Average(NamedTuple):
    """What one paper averages.

    Attributes:
      name: as tables show it.
      parts: each counts once and is itself the mean of the figures of its columns.
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
    """The average over the parts whose figures are all there, and their number; NaN for none."""
    whole = [part for part in of.parts if all(column in figures for column in part)]
    means = [math.fsum(figures[column] for column in part) / len(part) for part in whole]
    return (math.fsum(means) / len(means) if means else math.nan), len(means)
