"""The choice of tokens to predict in a row: single tokens, whole words or spans, in random order.

Every token has random bits, and tokens are taken in the order of these bits until each example of
the row has the number of predictions that it wants. The low bits hold the token's place in the
row, so sorts and minima of plain integers are enough; on a CPU such a sort is six times faster
than `argsort`. The order of an example's tokens does not depend on the other examples of the row.

Shapes are for one row: L tokens, E examples, P predictions.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_LAST = np.uint32(0xFFFFFFFF)  # sorts after every token


class Tokens(NamedTuple):
    """The tokens of one row, as the input of a choice.

    Attributes:
      draws: [L] uint32, random; they order the tokens.
      candidates: [L] bool, True for tokens that may be chosen.
      segments: [L] int32, the example of each token; -1 for padding.
      wanted: [E] int32, the number of predictions for each example, at most its candidates.
    """

    draws: jax.Array
    candidates: jax.Array
    segments: jax.Array
    wanted: jax.Array


class Words(NamedTuple):
    """The word number and the stretch number of each token, [L] int32 each.

    A stretch is the text between two special tokens. Each special token is a stretch and a word of
    its own.
    """

    word: jax.Array
    stretch: jax.Array


def number_words(starts: jax.Array, special: jax.Array, candidates: jax.Array) -> Words:
    """Numbers words by `starts` [L] (the vocabulary's word starts) within stretches of text.

    The rest of a truncated word at the start of a stretch is a word too. (google-research/bert
    adds such a rest in B to the last word of A.)
    """
    text = candidates & ~special
    edge = ~(text & jnp.pad(text[:-1], (1, 0)))
    return Words(jnp.cumsum(starts | edge) - 1, jnp.cumsum(edge) - 1)


def choose_tokens(tokens: Tokens, size: int) -> jax.Array:
    """Chooses the wanted number of candidates in each example, uniformly.

    Returns:
      Places in the row in any order, L in unused slots. The other choices return the same.
    """
    return _first_wanted(ordered(tokens.draws, tokens.candidates), tokens, size)


def choose_words(tokens: Tokens, words: Words, size: int) -> jax.Array:
    """Chooses whole words in random order, and skips a word that would exceed the wanted number.

    The rule of google-research/bert: an example may get fewer predictions than it wants. A word
    that does not fit now never will, so every step takes a word that does.
    """
    length = len(tokens.candidates)
    first = jnp.pad(words.word[1:] != words.word[:-1], (1, 0), constant_values=True)
    count = jax.ops.segment_sum(tokens.candidates.astype(jnp.int32), words.word, length)
    count = count[words.word]  # tokens in each token's word

    def can_start(left: jax.Array) -> jax.Array:
        return first & (count <= left)

    def unit(start: jax.Array) -> jax.Array:
        return words.word == words.word[start]

    return _take_units(tokens, size, can_start, unit)


def choose_spans(tokens: Tokens, words: Words, lengths: jax.Array, size: int) -> jax.Array:
    """Chooses spans of whole words (Joshi et al. 2020, SpanBERT, section 3.1), until enough.

    A span starts with the word of a token that is uniform among the tokens not chosen yet. Its
    number of words is `lengths` [L] at that token. The span ends at the latest with its stretch of
    text, and may run over chosen tokens. The last span is cut at the wanted number, if necessary
    within a word. (facebookresearch/SpanBERT, `PairWithSpanMaskingScheme`, wants 0.15 * n rounded
    up, special tokens not counted, and its text is one stretch.)
    """

    def can_start(left: jax.Array) -> jax.Array:
        return left > 0

    def unit(start: jax.Array) -> jax.Array:
        word = words.word - words.word[start]
        return (word >= 0) & (word < lengths[start]) & (words.stretch == words.stretch[start])

    return _take_units(tokens, size, can_start, unit)


def span_lengths(draws: jax.Array, p: float, most: int) -> jax.Array:
    """The number of words in a span for each of `draws` [L] uint32: a truncated geometric law.

    The probability of k words is proportional to p * (1 - p)**(k - 1), for k from 1 to `most`.
    Draws are compared as integers, so the result is the same on every backend.
    """
    tail = 1 - (1 - p) ** np.arange(1, most)
    bounds = np.floor(tail / (1 - (1 - p) ** most) * 2.0**32)
    return 1 + (draws[:, None] >= np.minimum(bounds, _LAST).astype(np.uint32)).sum(1)


def _take_units(
    tokens: Tokens,
    size: int,
    can_start: Callable[[jax.Array], jax.Array],
    unit: Callable[[jax.Array], jax.Array],
) -> jax.Array:
    """Takes units one after the other: always the first in the order of the draws that can start.

    `size` steps are enough, because each step takes at least one wanted token. If the number of
    steps depended on the rows, all devices would have to communicate at every step.
    """
    length = len(tokens.candidates)
    order = ordered(tokens.draws, tokens.candidates)

    def take(step: jax.Array, state: Any) -> Any:
        taken, left = state  # [L]: the step that took the token; what its example still wants
        open_ = (taken == size) & can_start(left)
        start = _place(jnp.where(open_, order, _LAST).min(), length)
        new = unit(start) & tokens.candidates & (taken == size) & (start < length)
        same = tokens.segments == tokens.segments[start]
        return jnp.where(new, step, taken), left - jnp.where(same, new.sum(), 0)

    left = tokens.wanted[tokens.segments] if len(tokens.wanted) > 1 else tokens.wanted[0]
    state = jnp.full(length, size), jnp.broadcast_to(left, (length,))
    taken, _ = jax.lax.fori_loop(0, size, take, state)
    by_step = ordered(taken.astype(jnp.uint32) << _place_bits(length), taken < size)
    return _first_wanted(by_step, tokens, size)  # cuts the last unit


def _first_wanted(order: jax.Array, tokens: Tokens, size: int) -> jax.Array:
    """Places of the first tokens of each example in `order` [L], as many as the example wants."""
    length, examples = len(order), len(tokens.wanted)
    place = _place(jax.lax.sort(order), length)
    if examples == 1:
        return jnp.where(jnp.arange(size) < tokens.wanted[0], place[:size], length)
    # A second sort groups the tokens by example and keeps the order of the first sort.
    segment = tokens.segments.at[place].get(mode="fill", fill_value=examples)
    grouped = jax.lax.sort(segment * length + jnp.arange(length))
    segment, place = grouped // length, place[grouped % length]
    before = (segment < jnp.arange(examples)[:, None]).sum(1)
    last = (before + tokens.wanted).at[segment].get(mode="fill", fill_value=0)
    return jnp.where(jnp.arange(length) < last, place, length)


def ordered(bits: jax.Array, valid: jax.Array) -> jax.Array:
    """[L] uint32: `bits` with each token's place as the low bits; tokens not `valid` come last."""
    low = np.uint32((1 << _place_bits(len(valid))) - 1)
    packed = (bits & ~low) | jnp.arange(len(valid), dtype=jnp.uint32)
    return jnp.where(valid, packed, _LAST)


def _place(order: jax.Array, length: int) -> jax.Array:
    """The places that `ordered` packed into the low bits; L for tokens that are not valid."""
    low = np.uint32((1 << _place_bits(length)) - 1)
    return jnp.minimum(order & low, length).astype(jnp.int32)


def _place_bits(length: int) -> int:
    """Bits that hold 0 to L. No place below L is all ones then, so none is `_LAST`."""
    return length.bit_length()
