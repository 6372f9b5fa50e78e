"""Windows of a context as google-research/bert makes them, and the answers found in them."""

import collections
import dataclasses
import json
import time

import byte_bpe_reference
import numpy as np
import pytest
import real_tokenizers
from finetune_examples import TOKENIZER
from hypothesis import given, settings
from hypothesis import strategies as st

from bertjax.errors import DataError, UsageError
from bertjax.finetune import spans
from bertjax.finetune.encoding import encode
from bertjax.finetune.examples import Answer, Question
from bertjax.finetune.rows import Settings

SMALL = Settings("span", 12, stride=3, question_length=4)
# [CLS] what is ? [SEP] and 6 tokens of the context [SEP]
ASK = Question("q", "what is ?", "a b c d e f g h i j k", (Answer("f g", 10),), True)


def decoding(start=SMALL, **fields):
    return dataclasses.replace(start, training=False, **fields)


def spelled(rows):
    parts = np.split(rows.ids, rows.starts[1:-1])
    return [" ".join(TOKENIZER.tokens(part)) for part in parts]


def test_windows_written_out():
    rows = encode([ASK], TOKENIZER, SMALL)
    assert spelled(rows) == [
        "[CLS] what is ? [SEP] a b c d e f [SEP]",
        "[CLS] what is ? [SEP] d e f g h i [SEP]",
        "[CLS] what is ? [SEP] g h i j k [SEP]",
    ]
    assert rows.token_types[:12].tolist() == [0] * 5 + [1] * 7
    assert rows.context_starts.tolist() == [5, 5, 5]
    assert rows.example.tolist() == [0, 0, 0]
    # Only the second window has all of the answer.
    assert rows.start_positions.tolist() == [0, 7, 0]
    assert rows.end_positions.tolist() == [0, 8, 0]
    assert rows.offsets is rows.best is rows.labels is None
    assert rows.notes == (
        "1 of 1 answers (100.00%) found again at their tokens",
        "3 windows of 1 questions",
    )


def test_what_decoding_needs():
    rows = encode([ASK], TOKENIZER, decoding())
    for row, text in enumerate(spelled(rows)):
        offsets = rows.offsets[rows.tokens(row)]
        context = [ASK.context[a:b] for a, b in offsets[5:-1]]
        assert context == text.split()[5:-1]
        assert (offsets[:5] == -1).all()
        assert (offsets[-1] == -1).all()
    best = [rows.best[rows.tokens(row)].nonzero()[0].tolist() for row in range(3)]
    # d has 2 tokens to its right in the first window and none to its left in the second. Of e the
    # two show as much (1), and the first counts; of h the second shows as much as the third, and
    # has more tokens.
    assert [[spelled(rows)[r].split()[i] for i in b] for r, b in enumerate(best)] == [
        ["a", "b", "c", "d", "e"],
        ["f", "g", "h"],
        ["i", "j", "k"],
    ]


def reference_windows(length, room, stride):
    """As `convert_examples_to_features` of run_squad.py."""
    spans, start = [], 0
    while start < length:
        size = min(length - start, room)
        spans.append((start, size))
        if start + size == length:
            break
        start += min(size, stride)
    return spans


def reference_best(spans, position):
    """The window with the largest of min(left, right) + 0.01 * size, the first of equals."""
    scores = {}
    for number, (start, size) in enumerate(spans):
        if start <= position < start + size:
            left, right = position - start, start + size - 1 - position
            scores[number] = min(left, right) + 0.01 * size
    return max(scores, key=lambda number: scores[number])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 90), st.integers(0, 12)), min_size=1), st.integers(1, 12))
def test_every_token_is_in_a_window_and_one_is_best(contexts, stride):
    lengths = np.array([length for length, _ in contexts])
    rooms = np.array([stride + more for _, more in contexts])
    owner, starts, sizes = spans.windows(lengths, rooms, stride)
    best = np.split(spans.best_windows(owner, starts, sizes, lengths), np.cumsum(sizes)[:-1])
    for context, (length, room) in enumerate(zip(lengths, rooms, strict=True)):
        mine = np.flatnonzero(owner == context)
        found = [(int(starts[w]), int(sizes[w])) for w in mine]
        assert found == reference_windows(length, room, stride)
        winners = collections.defaultdict(list)
        for number, window in enumerate(mine):
            for place in np.flatnonzero(best[window]):
                winners[int(starts[window] + place)].append(number)
        assert winners == {t: [reference_best(found, t)] for t in range(length)}


def test_an_empty_context_has_a_window():
    """Its question is still predicted: no answer."""
    rows = encode([ASK._replace(context="", answers=())], TOKENIZER, decoding())
    assert spelled(rows) == ["[CLS] what is ? [SEP] [SEP]"]
    assert not rows.best.any()


def test_a_step_larger_than_the_room_is_refused():
    fits = dataclasses.replace(SMALL, stride=5)
    assert len(encode([ASK], TOKENIZER, fits)) == 2
    with pytest.raises(UsageError, match=r"config\.task\.stride=6: a window has 5 tokens of the"):
        encode([ASK], TOKENIZER, dataclasses.replace(SMALL, stride=6))


def test_a_long_question_is_cut():
    example = ASK._replace(question="a b c d e f", context="x y", answers=(Answer("y", 2),))
    rows = encode([example], TOKENIZER, SMALL)
    assert spelled(rows) == ["[CLS] a b c d [SEP] x y [SEP]"]
    assert "1 questions cut to 4 tokens" in rows.notes


def test_questions_without_an_answer():
    nothing = ASK._replace(id="n", answers=(), answerable=False)
    unknown = ASK._replace(id="u", answers=(), answerable=None)
    two = dataclasses.replace(SMALL, null_answers=True)
    plausible = ASK._replace(answerable=False)  # its answer does not count
    assert encode([plausible], TOKENIZER, two).start_positions.tolist() == [0, 0, 0]
    rows = encode([nothing, ASK], TOKENIZER, two)
    assert rows.start_positions.tolist() == [0, 0, 0, 0, 7, 0]
    rows = encode([nothing, ASK], TOKENIZER, SMALL)
    assert rows.example.tolist() == [1, 1, 1]
    assert "1 questions without an answer in their context left out of training" in rows.notes
    rows = encode([nothing, unknown, ASK], TOKENIZER, decoding(two))
    assert rows.start_positions.tolist() == [0] * 3 + [-1] * 3 + [0, 7, 0]
    with pytest.raises(DataError, match="no question has an answer to train on"):
        encode([nothing], TOKENIZER, SMALL)


def test_answers_in_hard_text():
    """Offsets count characters, whatever bytes, accents and line ends there are."""
    context = "\r\ncafe\u0301 d\u00e9ja\u0300 日本\r😀 co\u0302te\u0301 end"
    for text in (
        "cafe\u0301",
        "d\u00e9ja\u0300",
        "日本",
        "😀",
        "co\u0302te\u0301",
        "end",
        "cafe\u0301 d\u00e9ja\u0300",
    ):
        start = context.index(text)
        example = ASK._replace(context=context, answers=(Answer(text, start),))
        rows = encode([example], TOKENIZER, dataclasses.replace(SMALL, longest=60))
        assert rows.notes == ("1 of 1 answers (100.00%) found again at their tokens",), text
        rows = encode([example], TOKENIZER, decoding(longest=60))
        first, last = rows.start_positions[0], rows.end_positions[0]
        assert context[rows.offsets[first, 0] : rows.offsets[last, 1]] == text


def test_an_answer_between_its_neighbors():
    """No space before or after it: the tokens that only touch it are no part of it."""
    example = ASK._replace(context="a.b,c", answers=(Answer("b", 2),))
    rows = encode([example], TOKENIZER, SMALL)
    assert (rows.start_positions.tolist(), rows.end_positions.tolist()) == ([7], [7])


def test_lone_surrogates_move_nothing():
    example = ASK._replace(context="a \ud83d b", question="\udc00?", answers=(Answer("b", 4),))
    rows = encode([example], TOKENIZER, SMALL)
    assert rows.notes == ("1 of 1 answers (100.00%) found again at their tokens",)


def test_answers_that_are_not_found_again_stop_the_run():
    wrong = ASK._replace(id="w", answers=(Answer("f g", 8),))
    rows = encode([ASK] * 99 + [wrong], TOKENIZER, SMALL)
    assert rows.notes[0] == (
        "99 of 100 answers (99.00%) found again at their tokens; not question w: 'f g' at "
        "character 8, where the tokens give 'e f'"
    )
    with pytest.raises(DataError, match=r"97 of 99 .*97\.98%.*fewer than 99%; question w: 'f g'"):
        encode([ASK] * 97 + [wrong] * 2, TOKENIZER, SMALL)


def test_an_answer_beyond_its_context_is_left_out():
    beyond = ASK._replace(answers=(Answer("f g", 500),))
    rows = encode([ASK] * 199 + [beyond], TOKENIZER, SMALL)
    assert len(rows) == 199 * 3
    assert "at character 500, where the tokens give ''" in rows.notes[0]
    assert "1 questions without an answer in their context left out of training" in rows.notes


def test_a_context_of_100_000_words():
    example = ASK._replace(context="what is " * 50_000, answers=(Answer("is what", 200_005),))
    start = time.monotonic()
    rows = encode([example], TOKENIZER, Settings("span", 384, training=False))
    assert rows.best.sum() == 100_000
    assert (rows.start_positions > 0).any()
    assert time.monotonic() - start < 20


def squad(path):
    file = byte_bpe_reference.data_directory() / "squad" / path
    for article in json.loads(file.read_text())["data"]:
        for paragraph in article["paragraphs"]:
            for qa in paragraph["qas"]:
                answers = tuple(Answer(a["text"], a["answer_start"]) for a in qa["answers"])
                yield Question(qa["id"], qa["question"], paragraph["context"], answers, None)


@pytest.mark.parametrize("name", real_tokenizers.NAMES)
def test_windows_as_transformers(name):
    """`transformers` takes an overlap, which follows from the step and the question's length."""
    model = real_tokenizers.ours(name)
    theirs = real_tokenizers.theirs(name, model)
    examples = [q for number, q in enumerate(squad("v1.1/new_wiki_v1.0.json")) if not number % 40]
    own = Settings("span", 128, type_vocab_size=2, stride=48, question_length=40, training=False)
    if model.kind == "byte_bpe":
        own = dataclasses.replace(own, type_vocab_size=1)
    rows = encode(examples, model, own)
    row = 0
    for number, example in enumerate(examples):
        question = theirs(example.question, add_special_tokens=False).input_ids
        assert len(question) <= 40
        room = 128 - len(question) - (4 if model.kind == "byte_bpe" else 3)
        found = theirs(
            example.question,
            example.context,
            truncation="only_second",
            max_length=128,
            stride=room - 48,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        for window, ids in enumerate(found.input_ids):
            part, start = rows.tokens(row), rows.context_starts[row]
            assert rows.example[row] == number
            assert rows.ids[part].tolist() == ids
            assert rows.offsets[part][start:-1].tolist() == [
                list(each) for each in found.offset_mapping[window][start:-1]
            ]
            row += 1
    assert row == len(rows)


@pytest.mark.parametrize("name", real_tokenizers.NAMES)
def test_real_answers_are_found_again(name):
    model = real_tokenizers.ours(name)
    rows = encode(list(squad("v1.1/reddit_v1.0.json"))[:3000], model, Settings("span", 384))
    assert "found again" in rows.notes[0]
    assert float(rows.notes[0].split("(")[1].split("%")[0]) > 99.8
