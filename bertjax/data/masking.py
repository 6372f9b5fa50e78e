"""Masked-LM corruption, in JAX, inside the jitted step: (key, batch) -> masked batch.

The mask of an example depends on the key, its epoch and its id alone: neither on the batch it
arrives in, nor on the examples that share its row, nor on the number of hosts, nor on the mesh.
(With budget=batch, on the batch too.)
The draws of a token are the two words of one Threefry block, whose counter is the token's
position within its example: the same wherever the example lies. All shapes are static.

What is chosen is the business of `mask_units`: tokens, whole words or spans; how many, that of
`mask_counts`; how likely, that of `mask_weights`.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from bertjax.config import Masking
from bertjax.data import mask_counts, mask_units, mask_weights
from bertjax.errors import UsageError

# Counters of an example's other draws; those of its tokens are their positions.
_SPANS = np.uint32(1 << 31)  # + position
_ROUNDING = np.uint32(0xFFFFFFFF)


class _Row(NamedTuple):
    """What is drawn for a row before anything is chosen."""

    tokens: mask_units.Tokens
    keys: jax.Array  # [E], of the examples
    replacement: jax.Array  # [L] uint32, decides what a token becomes


class Vocabulary(Protocol):
    """What masking asks of a tokenizer."""

    @property
    def vocab_size(self) -> int:
        """Real ids, the padding of the embedding table not counted."""

    @property
    def special_ids(self) -> Sequence[int]:
        """All special ids, ascending."""

    @property
    def marker_ids(self) -> Sequence[int]:
        """Special ids that were added to the vocabulary, ascending."""

    @property
    def cls_id(self) -> int: ...

    @property
    def sep_id(self) -> int: ...

    @property
    def mask_id(self) -> int: ...

    def word_starts(self) -> np.ndarray:
        """Whether a word starts with each id: bool [V]."""


def mask_tokens(
    key: jax.Array,
    batch: dict[str, jax.Array],
    tokenizer: Vocabulary,
    masking: Masking,
    max_predictions_per_seq: int,
    num_components: int = 1,
    weights: np.ndarray | None = None,
) -> dict[str, jax.Array]:
    """Chooses positions to predict and corrupts them.

    An example wants a number of predictions (`mask_counts.of_lengths`), at most
    `max_predictions_per_seq` and at most what may be chosen. With `budget=batch`, all rows share
    one number (DistilBERT, see `mask_counts.share`). With `smoothing`, rare tokens are likelier to be chosen (DistilBERT, see `mask_weights`).

    Padding is never chosen; [CLS], [SEP] and special tokens that were added to the vocabulary only
    with `choose_special`, and so is [UNK] with either rule of DistilBERT. Each chosen token becomes
    [MASK], a random id, or stays, on its own draw; with unit=span, adjacent chosen tokens share
    that draw (SpanBERT merges touching spans too) and random ids are drawn token by token. Random
    ids are uniform over the vocabulary; `random_special=False` leaves out all special ids (fairseq
    leaves out all but <mask>; SpanBERT draws tokens by frequency).

    Static masking is no other rule: `pipeline.Batches` then repeats the epochs themselves.

    Args:
      key: made with `impl="threefry2x32"`, so that the bits are the same on every backend;
        fold the phase in, as every phase counts its epochs from 0.
      batch: the host batch: `input_ids`, `attention_mask` [B, L]; `mask_epochs`, `example_ids`
        [B] and, of a mixture, `components` [B].
        With several examples a row, `example_ids` [B, E], `segment_ids` [B, L] (1 to E, 0 for
        padding) and `position_ids` [B, L]. Nothing is chosen where `example_ids` < 0.
      tokenizer: says which ids are special, and where words start.
      masking: unit, probabilities, rounding and the part of special tokens.
      max_predictions_per_seq: P, of a whole row; the examples of a row must not want more.
      num_components: of the mixture; an epoch of each has masks of its own.
      weights: [V] float32 in (0, 1], as of `mask_weights.read`; None without `smoothing`.

    Returns:
      `batch` with `input_ids` corrupted, and `masked_lm_positions` [B, P] (ascending places in
      the row, then 0), `masked_lm_ids` [B, P] (the original tokens, then 0),
      `masked_lm_weights` [B, P] float32.

    Raises:
      UsageError: P is more than L.
      ValueError: `num_components` or `weights` do not fit `batch` and `masking`.
    """
    ids, epochs = batch["input_ids"], _epochs(batch, num_components)
    segments, positions, example_ids = _layout(batch)
    size = max_predictions_per_seq
    _require_fit(ids.shape[1], size, masking, weights)
    draw_row = functools.partial(
        _draw_row, key, tokenizer=tokenizer, masking=masking, size=size, weights=weights
    )
    row = jax.vmap(draw_row)(ids, segments, positions, example_ids, epochs)
    if masking.budget == "batch":
        tokens = mask_counts.share(row.tokens, example_ids, masking.masked_lm_prob, size)
        row = row._replace(tokens=tokens)
    mask_row = functools.partial(_mask_row, tokenizer=tokenizer, masking=masking, size=size)
    return batch | jax.vmap(mask_row)(ids, positions, row)


def _require_fit(length: int, size: int, masking: Masking, weights: np.ndarray | None) -> None:
    """Raises as `mask_tokens`, of rows of `length`."""
    if size > length:
        raise UsageError(
            f"max_predictions_per_seq={size}: a row has {length} places; use at most {length}"
        )
    if (weights is None) != (masking.smoothing == 0):
        raise ValueError(f"masking.smoothing={masking.smoothing}, weights={weights}")


def _epochs(batch: dict[str, jax.Array], num_components: int) -> jax.Array:
    """The number [B] that a mask is drawn by: of a mixture, an epoch and a component make one."""
    if ("components" in batch) != (num_components > 1):
        raise ValueError(f"num_components={num_components}, batch has {', '.join(batch)}")
    if "components" not in batch:
        return batch["mask_epochs"]
    return batch["mask_epochs"] * num_components + batch["components"]


def _layout(batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`(segments [B, L], positions [B, L], example_ids [B, E])`, of rows with one example too.

    Segments count from 0, -1 for padding; positions start anew in each example.
    """
    example_ids = batch["example_ids"]
    if "segment_ids" in batch:
        return batch["segment_ids"] - 1, batch["position_ids"], example_ids
    attended = batch["attention_mask"]
    segments = (attended > 0).astype(jnp.int32) - 1
    positions = jnp.broadcast_to(jnp.arange(attended.shape[1]), attended.shape)
    return segments, positions, example_ids[:, None]


def _draw_row(
    key: jax.Array,
    ids: jax.Array,
    segments: jax.Array,
    positions: jax.Array,
    example_ids: jax.Array,
    epoch: jax.Array,
    *,
    tokenizer: Vocabulary,
    masking: Masking,
    size: int,
    weights: np.ndarray | None,
) -> _Row:
    """Draws for one row: `ids`, `segments` (-1 for padding), `positions` [L]; `example_ids` [E]."""
    fold_in = jax.vmap(jax.random.fold_in, (None, 0))
    keys = fold_in(jax.random.fold_in(key, epoch), example_ids)
    candidates = (segments >= 0) & (masking.choose_special | ~_special(ids, tokenizer, masking))
    slots = segments[:, None] == jnp.arange(len(example_ids))
    wanted = _wanted(keys, slots.sum(0), masking, size, len(ids))
    wanted = jnp.minimum(wanted, (slots & candidates[:, None]).sum(0))
    wanted = jnp.where(example_ids >= 0, wanted, 0)
    order, replacement = _draws(keys, segments, positions.astype(jnp.uint32))
    if weights is not None:
        order = mask_weights.arrivals(order, ids, weights)
    tokens = mask_units.Tokens(order, candidates, segments, wanted)
    return _Row(tokens, keys, replacement)


def _special(ids: jax.Array, tokenizer: Vocabulary, masking: Masking) -> jax.Array:
    """Tokens [L] that are chosen with `choose_special` only."""
    special = tokenizer.cls_id, tokenizer.sep_id, *tokenizer.marker_ids
    if masking.smoothing or masking.budget == "batch":  # as published: [UNK] and [MASK] too
        special = tuple(tokenizer.special_ids)
    return functools.reduce(jnp.logical_or, (ids == i for i in special))


def _mask_row(
    ids: jax.Array,
    positions: jax.Array,
    row: _Row,
    *,
    tokenizer: Vocabulary,
    masking: Masking,
    size: int,
) -> dict[str, jax.Array]:
    """Masks one row, of `ids` and `positions` [L], by its draws."""
    tokens = row.tokens
    if masking.unit == "token":
        chosen = mask_units.choose_tokens(tokens, size)
    else:
        starts = jnp.asarray(tokenizer.word_starts())[ids]
        words = mask_units.number_words(
            starts, _special(ids, tokenizer, masking), tokens.candidates
        )
        if masking.unit == "whole_word":
            chosen = mask_units.choose_words(tokens, words, size)
        else:
            counters = positions.astype(jnp.uint32) + _SPANS
            lengths, _ = _draws(row.keys, tokens.segments, counters)
            lengths = mask_units.span_lengths(lengths, masking.span_p, masking.span_max_words)
            chosen = mask_units.choose_spans(tokens, words, lengths, size)
    chosen = jax.lax.sort(chosen)[:size]
    own = _at(chosen, row.replacement)
    shared = _first_of_run(own, chosen, positions) if masking.unit == "span" else own
    return _replace(ids, chosen, own, shared, tokenizer, masking)


def _draws(
    keys: jax.Array, segments: jax.Array, counters: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Two random words for each counter [N] of the examples `segments` [N]: two [N] uint32.

    `fold_in` is the Threefry block of a counter under a key; its result, read as numbers, is
    64 random bits. One key for all is not copied for each: the key schedule would be too.
    """
    alone = len(keys) == 1
    fold_in = jax.vmap(jax.random.fold_in, (None if alone else 0, 0))
    words = jax.random.key_data(fold_in(keys[0] if alone else keys[segments], counters))
    return words[:, 0], words[:, 1]


def _wanted(
    keys: jax.Array, lengths: jax.Array, masking: Masking, size: int, longest: int
) -> jax.Array:
    """Predictions that examples of `lengths` [E], none over `longest`, want: [E]."""
    least, fraction = (
        jnp.asarray(table)[lengths] for table in mask_counts.of_lengths(longest, masking)
    )
    if masking.rounding == "probabilistic":
        examples = jnp.arange(len(keys))
        draw, _ = _draws(keys, examples, jnp.full(len(keys), _ROUNDING))
        least = least + (draw * np.float32(2**-32) < fraction)
    return jnp.minimum(size, least)


def _at(index: jax.Array, values: jax.Array) -> jax.Array:
    return values.at[index].get(mode="fill", fill_value=0)


def _first_of_run(draws: jax.Array, chosen: jax.Array, positions: jax.Array) -> jax.Array:
    """Each slot's draw [P] replaced by that of the first slot of its run of adjacent tokens."""
    goes_on = jnp.pad(chosen[1:] == chosen[:-1] + 1, (1, 0)) & (_at(chosen, positions) > 0)
    return draws[jax.lax.cummax(jnp.where(goes_on, 0, jnp.arange(len(chosen))))]


def _replace(
    ids: jax.Array,
    chosen: jax.Array,
    own: jax.Array,
    shared: jax.Array,
    tokenizer: Vocabulary,
    masking: Masking,
) -> dict[str, jax.Array]:
    """Replaces tokens of `ids` [L] at `chosen` [P] (L where unused).

    `shared` [P] uint32 decides what becomes of a token. Its range is cut in three by the
    probabilities; where it falls into the part of the random ids, its place in that part is as
    uniform as a second draw, so the id is made of the token's `own` [P], the same but in a span.
    """
    used = chosen < len(ids)
    labels = _at(chosen, ids)
    to_mask, to_random = (
        np.uint32(min(p * 2**32, 2**32 - 1))
        for p in (masking.mask_token_prob, masking.mask_token_prob + masking.random_token_prob)
    )
    left_out = () if masking.random_special else tokenizer.special_ids
    # The remainder favors some ids, in BERT's recipe by less than one in 10**4.
    random = (own - to_mask) % np.uint32(tokenizer.vocab_size - len(left_out))
    for special in left_out:  # ascending: steps over each in turn
        random += random >= special
    new = jnp.where(shared < to_random, random.astype(ids.dtype), labels)
    new = jnp.where(shared < to_mask, tokenizer.mask_id, new)
    return {
        "input_ids": ids.at[chosen].set(new, mode="drop"),
        "masked_lm_positions": jnp.where(used, chosen, 0),
        "masked_lm_ids": labels,
        "masked_lm_weights": used.astype(jnp.float32),
    }
