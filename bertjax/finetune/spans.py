"""Questions and contexts -> rows: the windows of each context, and the gold answer in each."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from bertjax.data.tokenizer_base import Tokenizer
from bertjax.errors import DataError, UsageError
from bertjax.finetune.examples import Question
from bertjax.finetune.rows import Part, Rows, Settings, join, part_of, readable, room
from bertjax.finetune.scoring import squad_scores

FOUND_AGAIN = 0.99  # the least share of training answers whose tokens give back the answer's text


def encode(examples: Sequence[Question], tokenizer: Tokenizer, settings: Settings) -> Rows:
    """`[CLS] question [SEP] window [SEP]` for every window; RoBERTa has `</s></s>` between the two.

    The question keeps its first `question_length` tokens. Windows start every `stride` tokens of
    the context (google-research/bert, `convert_examples_to_features` of run_squad.py). In training,
    the first answer counts, and a window without it has the answer [CLS]. Questions without an
    answer are left out unless `null_answers`.

    Raises:
      UsageError: `stride` is larger than the room that a question of `question_length` leaves.
      DataError: fewer than 99% of the training answers are found again at their tokens, or no
        question is left.
    """
    _require_room(tokenizer, settings)
    contexts = _Contexts(examples, tokenizer)
    answers, notes = _answers(examples, contexts, settings)
    kept = _kept(answers, settings)
    questions = part_of([examples[i].question for i in kept.tolist()], tokenizer)
    cut = questions.lengths > settings.question_length
    questions = questions.cut(np.minimum(questions.lengths, settings.question_length))
    rooms = room(tokenizer, settings.longest, 2) - questions.lengths
    lengths = contexts.part.lengths[contexts.of[kept]]
    owner, starts, sizes = windows(lengths, rooms, settings.stride)
    example = kept[owner]
    window = Part(contexts.part.source, contexts.part.starts[contexts.of[example]] + starts, sizes)
    joined = join([questions.pick(owner), window], tokenizer, settings.type_vocab_size)
    context_starts = (joined.begins[1] - joined.starts[:-1]).astype(np.int32)
    begin, end = _in_windows(answers[example], starts, sizes, context_starts)
    rows = Rows(
        "span",
        1,
        joined.ids,
        joined.token_types,
        joined.starts,
        example.astype(np.int32),
        start_positions=begin,
        end_positions=end,
        context_starts=context_starts,
        notes=(*notes, *_window_notes(cut, owner, settings)),
    )
    if settings.training:
        return rows
    best = Part(best_windows(owner, starts, sizes, lengths), np.cumsum(sizes) - sizes, sizes)
    return dataclasses.replace(
        rows,
        offsets=joined.aligned(1, window, contexts.offsets, -1),
        best=joined.aligned(1, best, best.source, False),
    )


# In place of an answer's tokens: no answer is known; the question has no answer.
_NO_LABEL, _NO_ANSWER = -2, -1


def _require_room(tokenizer: Tokenizer, settings: Settings) -> None:
    most = room(tokenizer, settings.longest, 2) - settings.question_length
    if settings.stride > most:
        raise UsageError(
            f"config.task.stride={settings.stride}: a window has {most} tokens of the context "
            f"(sequence_length={settings.longest}, question_length={settings.question_length}), so "
            "tokens between windows would be lost; lower stride or question_length, or raise "
            "sequence_length"
        )


def _kept(answers: np.ndarray, settings: Settings) -> np.ndarray:
    """The numbers of the examples to encode: in training those with a label, else all."""
    kept = np.flatnonzero((answers[:, 0] != _NO_LABEL) | (not settings.training))
    if not len(kept):
        raise DataError("no question has an answer to train on")
    return kept


def _window_notes(cut: np.ndarray, owner: np.ndarray, settings: Settings) -> list[str]:
    """Notes on cut questions and on windows.

    Args:
      cut: bool [Q], whether a question was cut.
      owner: [W], the question of each window.
    """
    notes = []
    if cut.any():
        notes.append(f"{int(cut.sum()):,} questions cut to {settings.question_length} tokens")
    if len(owner) > len(cut):
        notes.append(f"{len(owner):,} windows of {len(cut):,} questions")
    return notes


class _Contexts:
    """The contexts of all questions, each encoded once.

    Attributes:
      of [E]: the number of each example's context.
      part: the token ids of the contexts.
      offsets [T, 2]: the characters of each token of `part.source`.
    """

    def __init__(self, examples: Sequence[Question], tokenizer: Tokenizer) -> None:
        numbers: dict[str, int] = {}
        self.of = np.array([numbers.setdefault(e.context, len(numbers)) for e in examples])
        encoded = tokenizer.encode_with_offsets(readable(numbers))
        lengths = np.array([len(ids) for ids, _ in encoded], np.int64)
        flat = np.concatenate([np.array(ids, np.int32) for ids, _ in encoded])
        self.part = Part(flat, np.cumsum(lengths) - lengths, lengths)
        self.offsets = np.concatenate([offsets for _, offsets in encoded])

    def offsets_of(self, example: int) -> np.ndarray:
        """The characters [T, 2] of the tokens of an example's context."""
        number = self.of[example]
        start = self.part.starts[number]
        return self.offsets[start : start + self.part.lengths[number]]


def windows(
    lengths: np.ndarray, rooms: np.ndarray, stride: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The windows of contexts of `lengths` [E] tokens; a window has at most `rooms` [E] tokens.

    Windows start every `stride` tokens, until a window reaches the context's last token. An empty
    context has one empty window.

    Returns:
      Three int64 [W]: the context number, the first token and the size of each window.
    """
    counts = 1 + np.maximum(0, -(-(lengths - rooms) // stride))
    owner = np.repeat(np.arange(len(lengths)), counts)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = number * stride
    return owner, starts, np.minimum(rooms[owner], lengths[owner] - starts)


def best_windows(
    owner: np.ndarray, starts: np.ndarray, sizes: np.ndarray, lengths: np.ndarray
) -> np.ndarray:
    """For each token of each window, whether this window shows the most context around the token.

    A window's score for a token is min(tokens to the left, tokens to the right) + 0.01 * size. The
    largest score wins, the first window in a tie (google-research/bert, `_check_is_max_context`).

    Args:
      owner, starts, sizes: the result of `windows`.
      lengths: the tokens of the contexts.

    Returns:
      bool [sum of sizes], window after window.
    """
    ends = np.cumsum(lengths)
    bases = (ends - lengths)[owner] + starts  # a window's first token in the concatenated contexts
    score = np.full(ends[-1], -1.0)
    winner = np.full(ends[-1], -1)
    for window, (base, size) in enumerate(zip(bases.tolist(), sizes.tolist(), strict=True)):
        place = np.arange(size)
        mine = np.minimum(place, size - 1 - place) + 0.01 * size
        part = slice(base, base + size)
        better = mine > score[part]
        score[part][better] = mine[better]
        winner[part][better] = window
    at = np.concatenate([np.arange(b, b + s) for b, s in zip(bases, sizes, strict=True)])
    return winner[at] == np.repeat(np.arange(len(owner)), sizes)


def _answers(
    examples: Sequence[Question], contexts: _Contexts, settings: Settings
) -> tuple[np.ndarray, list[str]]:
    """The first and last token [E, 2] of each first answer, counted in its context; and notes."""
    found = np.full((len(examples), 2), _NO_LABEL)
    right, wrong = 0, []
    for number, example in enumerate(examples):
        if example.answers and example.answerable is not False:
            found[number] = _tokens_of(example, contexts.offsets_of(number))
            text = _text_at(example, contexts.offsets_of(number), found[number])
            if squad_scores.normalize_answer(text) == squad_scores.normalize_answer(
                example.answers[0].text
            ):
                right += 1
            else:
                wrong.append((example, text))
        elif example.answerable is False and settings.null_answers:
            found[number] = _NO_ANSWER
    notes, left_out = [], int((found[:, 0] == _NO_LABEL).sum())
    if settings.training and right + len(wrong):
        notes.append(_found_again(right, wrong))
    if settings.training and left_out:
        notes.append(
            f"{left_out:,} questions without an answer in their context left out of training"
        )
    return found, notes


def _tokens_of(example: Question, offsets: np.ndarray) -> tuple[int, int]:
    """The first and the last token that overlap the first answer; `_NO_LABEL` if none does."""
    answer = example.answers[0]
    first = int(np.searchsorted(offsets[:, 1], answer.start, "right"))
    last = int(np.searchsorted(offsets[:, 0], answer.start + len(answer.text), "left")) - 1
    return (first, last) if first <= last else (_NO_LABEL, _NO_LABEL)


def _text_at(example: Question, offsets: np.ndarray, tokens: np.ndarray) -> str:
    first, last = tokens
    return example.context[offsets[first, 0] : offsets[last, 1]] if first >= 0 else ""


def _found_again(right: int, wrong: list[tuple[Question, str]]) -> str:
    """A line with the share of answers that their tokens give back; DataError if under 99%."""
    total = right + len(wrong)
    line = f"{right:,} of {total:,} answers ({right / total:.2%}) found again at their tokens"
    if not wrong:
        return line
    example, text = min(wrong, key=lambda pair: len(pair[0].answers[0].text))
    answer = example.answers[0]
    shown = (
        f"question {example.id}: {answer.text[:60]!r} at character {answer.start}, where the "
        f"tokens give {text[:60]!r}"
    )
    if right < FOUND_AGAIN * total:
        raise DataError(
            f"{line}, fewer than {FOUND_AGAIN:.0%}; {shown}: is answer_start counted in "
            "characters of this very context?"
        )
    return f"{line}; not {shown}"


def _in_windows(
    answers: np.ndarray, starts: np.ndarray, sizes: np.ndarray, context_starts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Two int32 [W]: the first and last position of the answers [W, 2] in their windows' rows."""
    first, last = answers.T
    inside = (first >= starts) & (last < starts + sizes) & (first >= 0)
    none = np.where(first == _NO_LABEL, -1, 0)
    begin = np.where(inside, first - starts + context_starts, none)
    end = np.where(inside, last - starts + context_starts, none)
    return begin.astype(np.int32), end.astype(np.int32)
