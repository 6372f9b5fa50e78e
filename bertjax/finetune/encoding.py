"""Examples -> rows of token ids, with one encoder for each kind of task."""

from collections.abc import Callable, Sequence

import numpy as np

from bertjax.data.tokenizer_base import Tokenizer
from bertjax.errors import DataError, UsageError
from bertjax.finetune import spans, windows
from bertjax.finetune.examples import Choices, Text
from bertjax.finetune.rows import Part, Rows, Settings, join, part_of, room


def encode(examples: Sequence, tokenizer: Tokenizer, settings: Settings) -> Rows:
    """The rows of examples, in the order of the examples.

    Raises:
      DataError: there are no examples; a label is not in `settings.labels`, or is missing in
        training; two examples differ in their number of options; fewer than 99% of the training
        answers are found again at their tokens.
      UsageError: `settings.longest` or `settings.stride` leaves no room for text.
    """
    if not examples:
        raise DataError("no examples; give files that have some")
    return _ENCODERS[settings.kind](examples, tokenizer, settings)


def _texts(examples: Sequence[Text], tokenizer: Tokenizer, settings: Settings) -> Rows:
    """Encodes single, pair and regression: one or two texts, where the longer one is cut first."""
    count = len(examples[0].texts)
    odd = next((e for e in examples if len(e.texts) != count), None)
    if odd is not None:
        raise DataError(f"example {odd.id}: {len(odd.texts)} texts, but the first has {count}")
    most = _checked_room(tokenizer, settings, count)
    parts = [part_of([e.texts[i] for e in examples], tokenizer) for i in range(count)]
    cut = np.sum([part.lengths for part in parts], 0) > most
    if count == 2:
        lengths = longest_first(parts[0].lengths, parts[1].lengths, most)
    else:
        lengths = (np.minimum(parts[0].lengths, most),)
    parts = [part.cut(each) for part, each in zip(parts, lengths, strict=True)]
    ids, types, starts, _ = join(parts, tokenizer, settings.type_vocab_size)
    labels = (
        _numbers(examples, settings)
        if settings.kind == "regression"
        else (_classes(examples, settings))
    )
    notes = _count(cut, f"cut to {settings.longest} tokens", "example")
    return Rows(
        settings.kind, 1, ids, types, starts, _numbered(examples), labels=labels, notes=notes
    )


def longest_first(a: np.ndarray, b: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The lengths [S] of both texts of each pair after cutting to at most `most` tokens in sum.

    The longer text loses one token at a time. If both are equally long, the second text loses the
    token (google-research/bert, `_truncate_seq_pair` of run_classifier.py).
    """
    over = a + b > most
    a_short, b_short = a <= most - most // 2, b <= most // 2
    new_a = np.where(a_short, a, np.where(b_short, most - b, most - most // 2))
    new_b = np.where(b_short, b, most - new_a)
    return np.where(over, new_a, a), np.where(over, new_b, b)


def _choices(examples: Sequence[Choices], tokenizer: Tokenizer, settings: Settings) -> Rows:
    """Encodes one sequence per option: `[CLS] context [SEP] question option [SEP]`.

    google-research and Hugging Face encode SWAG this way. Only the context is cut, at its end. If
    question and option alone are too long, they are cut at their start, so the option survives.
    """
    count = len(examples[0].options)
    odd = next((e for e in examples if len(e.options) != count), None)
    if odd is not None:
        raise DataError(f"example {odd.id}: {len(odd.options)} options, but the first has {count}")
    most = _checked_room(tokenizer, settings, 2)
    which = np.repeat(np.arange(len(examples)), count)
    context = part_of([e.context for e in examples], tokenizer).pick(which)
    tails = [f"{e.question} {o}" if e.question else o for e in examples for o in e.options]
    tail = part_of(tails, tokenizer)
    lost = np.maximum(tail.lengths - most, 0)
    tail = Part(tail.source, tail.starts + lost, tail.lengths - lost)
    kept = np.minimum(context.lengths, most - tail.lengths)
    cut = (kept < context.lengths).reshape(-1, count).any(1)
    ids, types, starts, _ = join([context.cut(kept), tail], tokenizer, settings.type_vocab_size)
    labels = np.array([-1 if e.label is None else e.label for e in examples], np.int32)
    for example, label in zip(examples, labels, strict=True):
        if label >= count:
            raise DataError(f"example {example.id}: label {label}, but it has {count} options")
    _require_labels(examples, labels < 0, settings)
    notes = _count(cut, f"with a context cut to {settings.longest} tokens", "example")
    notes += _count(lost, "cut at the start: question and option leave no room", "option")
    return Rows(
        settings.kind, count, ids, types, starts, _numbered(examples), labels=labels, notes=notes
    )


def _classes(examples: Sequence[Text], settings: Settings) -> np.ndarray:
    """int32 [R]: the number of each example's label, -1 without a label."""
    numbers: dict[object, int] = {name: number for number, name in enumerate(settings.labels)}
    numbers[None] = -1
    unknown = next((e for e in examples if e.label not in numbers), None)
    if unknown is not None:
        raise DataError(
            f"example {unknown.id}: label {unknown.label!r} is none of {', '.join(settings.labels)}"
        )
    labels = np.array([numbers[e.label] for e in examples], np.int32)
    _require_labels(examples, labels < 0, settings)
    return labels


def _numbers(examples: Sequence[Text], settings: Settings) -> np.ndarray:
    """float32 [R]: the score of each example, NaN without a score."""
    labels = np.array([np.nan if e.label is None else e.label for e in examples], np.float32)
    _require_labels(examples, np.isnan(labels), settings)
    return labels


def _require_labels(examples: Sequence, missing: np.ndarray, settings: Settings) -> None:
    if settings.training and missing.any():
        first = examples[int(missing.argmax())].id
        raise DataError(
            f"example {first}: no label, and {int(missing.sum()) - 1:,} others have none; training "
            "needs one for every example"
        )


def _checked_room(tokenizer: Tokenizer, settings: Settings, parts: int) -> int:
    most = room(tokenizer, settings.longest, parts)
    if most < parts:
        raise UsageError(
            f"sequence_length={settings.longest}: no room for {parts} texts beside the special "
            f"tokens; at least {settings.longest - most + parts} are needed"
        )
    return most


def _count(which: np.ndarray, what: str, noun: str) -> tuple[str, ...]:
    number = int(np.count_nonzero(which))
    return (f"{number:,} of {len(which):,} {noun}s {what}",) if number else ()


def _numbered(examples: Sequence) -> np.ndarray:
    return np.arange(len(examples), dtype=np.int32)


_ENCODERS: dict[str, Callable[[Sequence, Tokenizer, Settings], Rows]] = {
    "single": _texts,
    "pair": _texts,
    "regression": _texts,
    "multiple_choice": _choices,
    "span": spans.encode,
    "token": windows.encode,
}
