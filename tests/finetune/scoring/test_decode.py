"""Laws of bertjax.finetune.scoring.decode: spans by hand, a plain search in Python, and its time."""

import math
import time

import numpy as np
import pytest

from bertjax.finetune.scoring import decode

CONTEXT = "Ångström lived in  Uppsala, the town."
#          0        9     15  19      26 28


def window(context, spans, best=None, extra=2):
    """Offsets and best context of [CLS] question... and the tokens `spans` of the context."""
    offsets = np.array([(-1, -1)] * extra + spans + [(-1, -1)])
    marks = np.array([False] * extra + (best or [True] * len(spans)) + [False])
    return offsets, marks


SPANS = [(0, 8), (9, 14), (15, 17), (19, 26), (26, 27), (28, 31), (32, 36)]


def logits(length, **values):
    row = np.full(length, -5.0)
    for at, value in values.items():
        row[int(at[1:])] = value
    return row


def one(start, end, spans=SPANS, best=None, context=CONTEXT, **settings):
    offsets, marks = window(context, spans, best)
    (got,) = decode.decode([start], [end], [offsets], [marks], [0], [context], **settings)
    return got


def test_the_text_is_the_contexts_own():
    got = one(logits(10, t2=3, t5=2), logits(10, t2=1, t5=4))
    assert got.answer == "Ångström lived in  Uppsala"  # 3 + 4; two blanks stay
    assert got.n_best[0].start == 0
    assert got.n_best[0].end == 26
    assert got.n_best[0].score == 7.0
    assert got.difference is None


def test_white_space_at_the_ends_is_cut():
    got = one(logits(5, t2=1), logits(5, t3=1), [(0, 3), (3, 6)], context=" to us ")
    assert (got.answer, got.n_best[0].start, got.n_best[0].end) == ("to us", 1, 6)


def test_inadmissible_spans_are_left_out():
    start, end = logits(10, t0=9, t1=9, t6=5, t3=1), logits(10, t0=9, t4=5, t9=9)
    got = one(start, end)
    # The best start is no context, the next lies behind the best end.
    assert got.answer == "lived in"
    far = one(logits(10, t2=5), logits(10, t8=5, t3=1), answer_length=3)
    assert far.answer == "Ångström lived"
    assert one(logits(10, t2=5), logits(10, t8=5), answer_length=7).n_best[0].score == 10.0
    marks = [False] + [True] * 6
    assert one(logits(10, t2=5, t3=1), logits(10, t3=1), best=marks).answer == "lived"


def test_n_best_has_each_text_once():
    offsets, marks = window("x x", [(0, 1), (2, 3)])
    start = logits(5, t2=2, t3=1)
    (got,) = decode.decode([start], [start], [offsets], [marks], [0], ["x x"])
    assert [(c.text, c.score, c.start) for c in got.n_best] == [("x", 4.0, 0), ("x x", 3.0, 0)]


def test_null_is_the_minimum_over_windows_and_a_flag():
    """An answer at character 0 is no null answer."""
    offsets, marks = window(CONTEXT, SPANS)
    starts = [logits(10, t0=1, t2=3), logits(10, t0=4, t3=1)]
    ends = [logits(10, t0=1, t2=2), logits(10, t0=4, t3=1)]
    (got,) = decode.decode(
        starts, ends, [offsets] * 2, [marks] * 2, [0, 0], [CONTEXT], null_answers=True
    )
    assert got.answer == "Ångström"
    assert got.n_best[0].start == 0
    assert not got.n_best[0].null
    assert got.difference == 2.0 - 5.0
    assert [c.text for c in got.n_best if c.null] == [""]
    assert next(c for c in got.n_best if c.null).score == 2.0


def test_null_comes_first_where_it_is_best_and_the_answer_stays():
    got = one(logits(10, t0=9, t2=3), logits(10, t0=9, t2=2), null_answers=True)
    assert got.n_best[0].null
    assert got.answer == "Ångström"
    assert got.difference == 13.0


def test_probabilities_are_a_softmax_with_null():
    got = one(logits(10, t0=1, t2=2), logits(10, t0=1, t2=2), null_answers=True, n_best=2)
    shares = [c.probability for c in got.n_best]
    assert sum(shares) == pytest.approx(1.0)
    assert shares[0] / shares[1] == pytest.approx(math.exp(4 - 2))
    assert len(got.n_best) == 2


def test_null_takes_a_place_or_comes_last():
    start = np.array([0.0, -9, 5, 4, 3, 2, 1, 0, -1, -9])
    low = one(start, start, null_answers=True, n_best=3)
    assert [c.null for c in low.n_best] == [False, False, False, True]
    start[0] = 4.6
    high = one(start, start, null_answers=True, n_best=3)
    assert [c.null for c in high.n_best] == [False, True, False]


def test_no_admissible_span_and_no_window():
    got = one(logits(10, t0=9, t1=8), logits(10, t0=9, t1=8), n_best=2)
    assert (got.answer, got.n_best) == ("", ())
    got = one(logits(10, t0=9, t1=8), logits(10, t0=9, t1=8), n_best=2, null_answers=True)
    assert (got.answer, got.difference) == ("", 18.0)
    (got,) = decode.decode([], [], [], [], [], ["text"], null_answers=True)
    assert (got.answer, got.difference, got.n_best[0].null) == ("", 0.0, True)


def search(windows, context, n_best, answer_length):
    """The same in plain Python: all pairs of the largest starts and ends."""
    found = []
    for start, end, offsets, marks in windows:
        order = range(len(start))
        for i in sorted(order, key=lambda at: start[at], reverse=True)[:n_best]:
            for j in sorted(order, key=lambda at: end[at], reverse=True)[:n_best]:
                if offsets[i][0] < 0 or offsets[j][0] < 0 or not marks[i]:
                    continue
                if i <= j < i + answer_length:
                    text = context[offsets[i][0] : offsets[j][1]].strip()
                    found.append((float(start[i]) + float(end[j]), text))
    found.sort(key=lambda row: row[0], reverse=True)
    seen = {}
    for score, text in found:
        if text:
            seen.setdefault(text, score)
    null = min(float(start[0]) + float(end[0]) for start, end, _, _ in windows)
    return list(seen.items())[:n_best], null


@pytest.mark.parametrize("seed", range(8))
def test_decoding_is_a_plain_search(seed):
    rng = np.random.default_rng(seed)
    context = "".join(rng.choice(list("ab c"), 60))
    windows = []
    for length in (14, 20, 11):
        offsets, marks = np.full((length, 2), -1), rng.random(length) < 0.7
        first = np.sort(rng.integers(0, 58, length - 5))
        offsets[4:-1] = np.stack([first, first + rng.integers(1, 3, length - 5)], 1)
        start, end = rng.integers(-4, 5, (2, length)).astype(np.float32)  # with ties
        windows.append((start, end, offsets, marks & (offsets[:, 0] >= 0)))
    (got,) = decode.decode(
        *zip(*windows, strict=True),
        [0] * 3,
        [context],
        n_best=7,
        answer_length=4,
        null_answers=True,
    )
    best, null = search(windows, context, 7, 4)
    ours = [(c.text, c.score) for c in got.n_best if not c.null]
    assert ours == best[: len(ours)]
    assert len(ours) >= min(6, len(best))
    assert got.difference == null - best[0][1]


def test_windows_go_to_their_questions():
    offsets, marks = window(CONTEXT, SPANS)
    rows = [logits(10, **{f"t{at}": 5}) for at in (3, 2, 4)]
    got = decode.decode(
        rows, rows, [offsets] * 3, [marks] * 3, [1, 0, 1], [CONTEXT, CONTEXT.upper()], n_best=1
    )
    assert [d.answer for d in got] == ["Ångström", "LIVED"]


def test_ten_thousand_windows_take_seconds():
    rng = np.random.default_rng(0)
    count, length = 2000, 384
    start, end = rng.normal(size=(2, count, length)).astype(np.float32)
    context = "word " * 320
    offsets = np.full((length, 2), -1)
    offsets[20:340, 0] = np.arange(320) * 5
    offsets[20:340, 1] = offsets[20:340, 0] + 4
    marks = offsets[:, 0] >= 0
    began = time.process_time()
    got = decode.decode(
        start, end, [offsets] * count, [marks] * count, list(range(count)), [context] * count
    )
    assert len(got) == count
    assert time.process_time() - began < 4.0  # a fifth of the rows, of 20 s
