"""Made-up batches, one example a row or packed, and the masking rules as plain loops.

The loops follow google-research/bert (`create_masked_lm_predictions`), fairseq
(`MaskTokensDataset`) and SpanBERT (`PairWithSpanMaskingScheme`), one token of one example at a
time. The random numbers are the same as in `masking`: Threefry blocks whose counter is a token's
position (for span lengths plus 2**31), under the key of (key, epoch, example id).
"""

import functools
from types import SimpleNamespace

import jax
import numpy as np

from bertjax.config import Masking
from bertjax.data.masking import mask_tokens

CLS, SEP, MASK, VOCAB = 1, 2, 3, 101
# Ids from 60 on continue a word.
TOKENIZER = SimpleNamespace(
    cls_id=CLS,
    sep_id=SEP,
    mask_id=MASK,
    special_ids=(0, CLS, SEP, MASK, 50),
    marker_ids=(),
    vocab_size=VOCAB,
    word_starts=lambda: np.arange(VOCAB) < 60,
)
KEY = jax.random.key(7, impl="threefry2x32")
LENGTH, PREDICTIONS = 64, 14


def make_batch(size, length=LENGTH, seed=0, continuations=0.6):
    """One example of 8 tokens or more a row: [CLS], text, [SEP], text, [SEP]; row 0 is full."""
    rng = np.random.default_rng(seed)
    shape = size, length
    continues = rng.random(shape) < continuations
    ids = np.where(continues, rng.integers(60, VOCAB, shape), rng.integers(4, 60, shape))
    attended = rng.integers(8, length + 1, size)
    attended[0] = length
    middle = rng.integers(2, attended - 2)
    rows, columns = np.arange(size), np.arange(length)
    ids[:, 0], ids[rows, middle], ids[rows, attended - 1] = CLS, SEP, SEP
    attention_mask = columns < attended[:, None]
    batch = {
        "input_ids": ids * attention_mask,
        "token_type_ids": attention_mask & (columns > middle[:, None]),
        "attention_mask": attention_mask,
        "next_sentence_labels": rng.integers(0, 2, size),
        "example_ids": np.arange(size),
        "mask_epochs": np.zeros(size),
    }
    return {name: values.astype(np.int32) for name, values in batch.items()}


def pack(batch, rows, per_row, rng):
    """Rows of up to `per_row` examples of `batch`, drawn at random and laid side by side."""
    length = batch["input_ids"].shape[1]
    names = ("input_ids", "attention_mask", "segment_ids", "position_ids")
    packed = {name: np.zeros((rows, length), np.int32) for name in names}
    packed["example_ids"] = np.full((rows, per_row), -1, np.int32)
    packed["mask_epochs"] = np.zeros(rows, np.int32)
    for row in range(rows):
        start = 0
        for slot in range(per_row):
            example = rng.integers(len(batch["input_ids"]))
            count = batch["attention_mask"][example].sum()
            if start + count > length:
                continue
            tokens = slice(start, start + count)
            for name in ("input_ids", "attention_mask"):
                packed[name][row, tokens] = batch[name][example, :count]
            packed["segment_ids"][row, tokens] = slot + 1
            packed["position_ids"][row, tokens] = range(count)
            packed["example_ids"][row, slot] = batch["example_ids"][example]
            start += count
    return packed


@functools.partial(jax.jit, static_argnums=(2, 3))
def _masked(key, batch, fields, predictions):
    return mask_tokens(key, batch, TOKENIZER, fields, predictions)


def run(batch, key=KEY, predictions=PREDICTIONS, **fields):
    """The masked batch, as NumPy arrays."""
    return jax.tree.map(np.asarray, _masked(key, batch, Masking(**fields), predictions))


def chosen_mask(masked):
    """bool [B, L]: the positions to predict."""
    result = np.zeros(masked["input_ids"].shape, bool)
    row, slot = np.nonzero(masked["masked_lm_weights"])
    result[row, masked["masked_lm_positions"][row, slot]] = True
    return result


def candidates_of(batch):
    ids = batch["input_ids"]
    return (batch["attention_mask"] == 1) & (ids != CLS) & (ids != SEP)


def within_four_sigma(count, total, p):
    return abs(count / total - p) < 4 * (p * (1 - p) / total) ** 0.5


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def assert_as_alone(packed, alone):
    """Asserts that each example of `packed` has the same mask, ids and labels as in `alone`."""
    packed_chosen, alone_chosen = chosen_mask(packed), chosen_mask(alone)
    used = packed["masked_lm_weights"] == 1
    for row, slot in np.argwhere(packed["example_ids"] >= 0):
        example = packed["example_ids"][row, slot]
        tokens = packed["segment_ids"][row] == slot + 1
        count = tokens.sum()
        ids, chosen = packed["input_ids"][row, tokens], packed_chosen[row, tokens]
        np.testing.assert_array_equal(ids, alone["input_ids"][example, :count])
        np.testing.assert_array_equal(chosen, alone_chosen[example, :count])
        labels = packed["masked_lm_ids"][
            row, used[row] & tokens[packed["masked_lm_positions"][row]]
        ]
        expected = alone["masked_lm_ids"][example, alone["masked_lm_weights"][example] == 1]
        np.testing.assert_array_equal(labels, expected)
    padding = packed["segment_ids"] == 0
    assert padding.any()
    assert not packed_chosen[padding].any()
    assert not packed["input_ids"][padding].any()


# ---- the rules, for one example


@jax.jit
def _words(key, epoch, example_id, counters):
    key = jax.random.fold_in(jax.random.fold_in(key, epoch), example_id)
    return jax.random.key_data(jax.vmap(lambda counter: jax.random.fold_in(key, counter))(counters))


def draws(batch, row):
    """`(order, span)` draws of each position of an example, as lists of Python integers."""
    positions = np.arange(batch["input_ids"].shape[1], dtype=np.uint32)
    counters = np.concatenate([positions, positions + np.uint32(2**31)])
    words = _words(KEY, batch["mask_epochs"][row], batch["example_ids"][row], counters)
    return np.split(np.asarray(words)[:, 0].astype(int), 2)


def stretches(ids, count):
    """The texts between special tokens, as lists of words; a word is a list of positions."""
    found = [[]]
    for position in range(count):
        if ids[position] in (CLS, SEP):
            found.append([])
        elif ids[position] < 60 or not found[-1]:
            found[-1].append([position])
        else:
            found[-1][-1].append(position)
    return [words for words in found if words]


def greedy_words(words, order, wanted):
    """Positions of whole words in the order of their first tokens' draws, within `wanted`."""
    chosen = []
    for word in sorted(words, key=lambda word: order[word[0]]):
        if len(chosen) + len(word) <= wanted:
            chosen += word
    return sorted(chosen)


def span_length(uniform, p, most):
    """The number of words in a span: the inverse of the geometric law truncated at `most`."""
    weights = [p * (1 - p) ** i for i in range(most)]
    number, below = 1, weights[0]
    while number < most and uniform * sum(weights) >= below:
        below += weights[number]
        number += 1
    return number


def spans(text, order, uniform, wanted, p=0.2, most=10):
    """`(positions, span lengths drawn)`: anchors in order, each with the span of its word."""
    place = {
        position: (words, number)
        for words in text
        for number, word in enumerate(words)
        for position in word
    }
    chosen, lengths = set(), []
    for anchor in sorted(place, key=lambda position: order[position]):
        if len(chosen) == wanted:
            break
        if anchor in chosen:
            continue
        words, number = place[anchor]
        lengths.append(span_length(uniform[anchor], p, most))
        for word in words[number : number + lengths[-1]]:
            for position in word:
                if len(chosen) < wanted:
                    chosen.add(position)
    return sorted(chosen), lengths
