"""Which tokens of a row are predicted: single tokens, whole words or spans, in random order.

Everything is a matter of order: every token has random bits, and what comes first is taken until
each example of the row has as many as it wants. The place in the row is packed into the low bits,
so that sorts and minima of plain integers do it; on a CPU a sort is then six times faster than
`argsort`. The order of an example's tokens does not depend on what else the row holds.

Shapes are those of one row: L tokens, E examples, P predictions.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_LAST = np.uint32(0xFFFFFFFF)  # sorts behind every token


class Tokens(NamedTuple):
    """What a choice is made from.

    Attributes:
      draws: [L] uint32, random, to order the tokens by.
      candidates: [L] bool, which may be chosen.
      segments: [L] int32, the example of each token; -1 for padding.
      wanted: [E] int32, predictions of each example; not more than it has candidates.
    """

    draws: jax.Array
    candidates: jax.Array
    segments: jax.Array
    wanted: jax.Array


class Words(NamedTuple):
    """Attributes: [L] int32 numbers of each token's word and of its stretch of text.

    A stretch lies between special tokens; each special token is a stretch and a word of its own.
    """

    word: jax.Array
    stretch: jax.Array


def number_words(starts: jax.Array, special: jax.Array, candidates: jax.Array) -> Words:
    """Numbers words by `starts` [L] (the vocabulary's word starts) within stretches of text.

    What truncation left of a word at the start of a stretch is a word too (google-research/bert
    adds that of B to the last word of A).
    """
    text = candidates & ~special
    edge = ~(text & jnp.pad(text[:-1], (1, 0)))
    return Words(jnp.cumsum(starts | edge) - 1, jnp.cumsum(edge) - 1)


def choose_tokens(tokens: Tokens, size: int) -> jax.Array:
    """Of each example, the wanted number of candidates, uniformly.

    Returns:
      Places in the row in any order, L where a slot is unused; so do the other choices.
    """
    return _first_wanted(ordered(tokens.draws, tokens.candidates), tokens, size)


def choose_words(tokens: Tokens, words: Words, size: int) -> jax.Array:
    """Whole words in random order; one that would exceed what is wanted is skipped.

    The rule of google-research/bert: an example may end with fewer than it wants. A word that
    does not fit now never will, so every step takes one that does.
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
    """Spans of whole words (Joshi et al. 2020, SpanBERT, section 3.1), until enough is chosen.

    A span starts with the word of a token that is uniform among those not chosen yet, and has as
    many words as `lengths` [L] says at that token. It ends with its stretch of text at the latest
    and may run over chosen tokens. The last one is cut where the number wanted is reached, within
    a word if need be. (facebookresearch/SpanBERT, `PairWithSpanMaskingScheme`, whose number is
    0.15 * n rounded up, the special tokens not counted, and whose text is one stretch.)
    """

    def can_start(left: jax.Array) -> jax.Array:
        return left > 0

    def unit(start: jax.Array) -> jax.Array:
        word = words.word - words.word[start]
        return (word >= 0) & (word < lengths[start]) & (words.stretch == words.stretch[start])

    return _take_units(tokens, size, can_start, unit)


def span_lengths(draws: jax.Array, p: float, most: int) -> jax.Array:
    """Words in a span for each of `draws` [L] uint32: geometric, truncated and renormalized.

    The shares are p * (1 - p)**(k - 1) of those of 1 to `most` words. Compared as integers, so
    that the result is the same on every backend.
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
    """Takes units one after the other, each the first that can start in the order of the draws.

    `size` steps are enough, as each takes at least one token of those wanted. A number of steps
    that depended on the rows would have all devices ask each other at every step.
    """
    length = len(tokens.candidates)
    order = ordered(tokens.draws, tokens.candidates)

    def take(step: jax.Array, state: Any) -> Any:
        taken, left = state  # [L]: at which step; what the token's example still wants
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
    """Places of each example's first tokens in `order` [L], as many as it wants."""
    length, examples = len(order), len(tokens.wanted)
    place = _place(jax.lax.sort(order), length)
    if examples == 1:
        return jnp.where(jnp.arange(size) < tokens.wanted[0], place[:size], length)
    # A second sort brings the tokens of an example together, in the order of the first.
    segment = tokens.segments.at[place].get(mode="fill", fill_value=examples)
    grouped = jax.lax.sort(segment * length + jnp.arange(length))
    segment, place = grouped // length, place[grouped % length]
    before = (segment < jnp.arange(examples)[:, None]).sum(1)
    last = (before + tokens.wanted).at[segment].get(mode="fill", fill_value=0)
    return jnp.where(jnp.arange(length) < last, place, length)


def ordered(bits: jax.Array, valid: jax.Array) -> jax.Array:
    """[L] uint32: `bits` with each token's place as the low ones; those not `valid` come last."""
    low = np.uint32((1 << _place_bits(len(valid))) - 1)
    packed = (bits & ~low) | jnp.arange(len(valid), dtype=jnp.uint32)
    return jnp.where(valid, packed, _LAST)


def _place(order: jax.Array, length: int) -> jax.Array:
    """The places that `ordered` packed; L for those that come last."""
    low = np.uint32((1 << _place_bits(length)) - 1)
    return jnp.minimum(order & low, length).astype(jnp.int32)


def _place_bits(length: int) -> int:
    """Enough for L too, so that no place has ones only, as `_LAST` has."""
    return length.bit_length()
