"""Turns the start and end logits of windows into answers.

The search follows google-research/bert, run_squad.py, `write_predictions`. The answer's text is the
slice of the context from the first character of its first token to the last of its last token.
The reference instead joins word pieces and searches the context for them, which sometimes fails.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Candidate(NamedTuple):
    """A possible answer, or the null answer.

    Attributes:
      text: the answer's text, without white space at its ends.
      start, end: the text is `context[start:end]`; -1 for null.
      score: start logit + end logit.
      probability: softmax over the n-best, null included.
      null: whether this is the null answer ("there is no answer").
    """

    text: str
    start: int
    end: int
    score: float
    probability: float
    null: bool


class Decoded(NamedTuple):
    """The answers to one question.

    Attributes:
      n_best: the best candidates, best first; they include null if questions may have no answer.
      answer: the best text that is not null; "" if no window has an admissible span.
      difference: score of null - score of the best answer; None unless null answers are possible.
    """

    n_best: tuple[Candidate, ...]
    answer: str
    difference: float | None


class _Spans(NamedTuple):
    """The admissible spans of a window: character offsets and scores, `[S]` each."""

    start: np.ndarray
    end: np.ndarray
    score: np.ndarray


def decode(
    start: Sequence[np.ndarray],
    end: Sequence[np.ndarray],
    offsets: Sequence[np.ndarray],
    best_context: Sequence[np.ndarray],
    example: Sequence[int],
    contexts: Sequence[str],
    *,
    n_best: int = 20,
    answer_length: int = 30,
    null_answers: bool = False,
) -> list[Decoded]:
    """The answers to all questions, one for each context.

    In each window, the `n_best` starts and the `n_best` ends with the largest logits are combined.
    A span counts if both ends are tokens of the context, the window has the best context for the
    start token, the end is not before the start, and the span has at most `answer_length` tokens.
    The spans of all windows compete by score; a text counts once. The score of null is the score of
    position 0, the minimum over the windows.

    Args:
      start, end: logits `[L]` of each window; L may differ.
      offsets: `[L, 2]` of each window: first and end character of each token in the context, -1 for
        other tokens.
      best_context: `[L]` of each window: whether no other window has more context around the token.
      example: the question number of each window, an index of `contexts`.
      contexts: the text of each question's context.
    """
    windows: list[list[int]] = [[] for _ in contexts]
    for window, question in enumerate(example):
        windows[question].append(window)
    result = []
    for question, context in enumerate(contexts):
        found, null = [], np.inf
        for w in windows[question]:
            logits = np.asarray(start[w], np.float64), np.asarray(end[w], np.float64)
            found.append(_spans(*logits, offsets[w], best_context[w], n_best, answer_length))
            null = min(null, logits[0][0] + logits[1][0])
        null = null if np.isfinite(null) else 0.0
        result.append(_decoded(found, context, n_best, null if null_answers else None))
    return result


def _spans(
    start: np.ndarray,
    end: np.ndarray,
    offsets: np.ndarray,
    best_context: np.ndarray,
    n_best: int,
    answer_length: int,
) -> _Spans:
    """The admissible spans of a window, sorted by start logit, then by end logit, largest first."""
    offsets = np.asarray(offsets)
    in_context = offsets[:, 0] >= 0
    starts = np.argsort(-start, kind="stable")[:n_best]
    ends = np.argsort(-end, kind="stable")[:n_best]
    starts = starts[in_context[starts] & np.asarray(best_context)[starts]]
    ends = ends[in_context[ends]]
    length = ends - starts[:, None] + 1
    i, j = np.nonzero((length >= 1) & (length <= answer_length))
    first, last = starts[i], ends[j]
    return _Spans(offsets[first, 0], offsets[last, 1], start[first] + end[last])


def _decoded(found: list[_Spans], context: str, n_best: int, null_score: float | None) -> Decoded:
    """The n-best of one question, from the spans of all its windows and null."""
    spans = _Spans(*map(np.concatenate, zip(*found, strict=True))) if found else _Spans(*_NOTHING)
    kept: dict[str, tuple[int, int, float]] = {}
    for i in np.argsort(-spans.score, kind="stable"):
        begin, stop = int(spans.start[i]), int(spans.end[i])
        text = context[begin:stop]
        begin += len(text) - len(text.lstrip())
        text = text.strip()
        if text and text not in kept:
            kept[text] = (begin, begin + len(text), float(spans.score[i]))
            if len(kept) == n_best:
                break
    rows = [(text, *where, False) for text, where in kept.items()]
    answer, best = (rows[0][0], rows[0][3]) if rows else ("", 0.0)
    if null_score is not None:
        rows.append(("", -1, -1, float(null_score), True))
        rows.sort(key=lambda row: -row[3])
        if not rows[-1][4]:  # null takes one of the n_best places unless it is the worst
            del rows[n_best:]
    difference = None if null_score is None else float(null_score - best)
    return Decoded(_with_probabilities(rows), answer, difference)


_NOTHING = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))


def _with_probabilities(rows: list[tuple[str, int, int, float, bool]]) -> tuple[Candidate, ...]:
    if not rows:
        return ()
    scores = np.array([row[3] for row in rows])
    weights = np.exp(scores - scores.max())
    shares = weights / weights.sum()
    return tuple(
        Candidate(*row[:4], float(share), row[4]) for row, share in zip(rows, shares, strict=True)
    )
