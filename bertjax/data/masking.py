"""Masked-LM corruption, in JAX, inside the jitted step: (key, batch) -> masked batch.

The mask of an example depends only on the key, the epoch and the id of the example: not on its
batch, on the other examples in its row, on the number of hosts, or on the mesh. (With budget=batch
the mask depends on the batch too.) The draws of a token are the two words of one Threefry block.
The block's counter is the token's position within its example, so the draws are the same wherever
the example lies. All shapes are static.

`mask_units` chooses tokens, words or spans; `mask_counts` says how many, `mask_weights` how likely.
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

# Counters of an example's other draws. The counters of its tokens are their positions.
_SPANS = np.uint32(1 << 31)  # + position
_ROUNDING = np.uint32(0xFFFFFFFF)


class _Row(NamedTuple):
    """The random draws of a row, made before any token is chosen."""

    tokens: mask_units.Tokens
    keys: jax.Array  # [E], one for each example
    replacement: jax.Array  # [L] uint32, decides what replaces a token


class Vocabulary(Protocol):
    """The part of a tokenizer that masking uses."""

    @property
    def vocab_size(self) -> int:
        """Number of real ids, without the padding of the embedding table."""

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
    `max_predictions_per_seq` and at most the number of tokens that may be chosen. With
    `budget=batch`, all rows share one number (DistilBERT, see `mask_counts.share`). With
    `smoothing`, rare tokens are more likely to be chosen (DistilBERT, see `mask_weights`).

    Padding is never chosen. [CLS], [SEP] and special tokens added to the vocabulary are chosen only
    with `choose_special`, and so are all special ids with `smoothing` or `budget=batch`.

    Each chosen token becomes [MASK], becomes a random id, or stays, by its own draw. With
    unit=span, adjacent chosen tokens share that draw (SpanBERT merges touching spans too), but each
    draws its own random id. Random ids are uniform over the vocabulary. `random_special=False`
    excludes all special ids (fairseq excludes all but <mask>; SpanBERT draws tokens by frequency).

    Static masking follows the same rule: `pipeline.Batches` then repeats whole epochs.

    Args:
      key: made with `impl="threefry2x32"`, so that the bits are the same on every backend. Fold
        the phase in, because every phase counts its epochs from 0.
      batch: the host batch: `input_ids`, `attention_mask` [B, L]; `mask_epochs`, `example_ids`
        [B]; for a mixture also `components` [B].
        With several examples a row, `example_ids` [B, E], `segment_ids` [B, L] (1 to E, 0 for
        padding) and `position_ids` [B, L]. Nothing is chosen in examples with `example_ids` < 0.
      tokenizer: gives the special ids and the ids that start words.
      masking: unit, probabilities, rounding, and whether special tokens may be chosen or drawn.
      max_predictions_per_seq: P for a whole row; the examples of a row must not want more together.
      num_components: number of components of the mixture; each has its own masks in an epoch.
      weights: [V] float32 in (0, 1], from `mask_weights.read`; None without `smoothing`.

    Returns:
      `batch` with `input_ids` corrupted, and `masked_lm_positions` [B, P] (ascending places in
      the row, then 0), `masked_lm_ids` [B, P] (the original tokens, then 0),
      `masked_lm_weights` [B, P] float32.

    Raises:
      UsageError: P is more than L.
      ValueError: `num_components` does not fit `batch`, or `weights` does not fit `masking`.
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
    """Raises the errors of `mask_tokens` for rows of `length` tokens."""
    if size > length:
        raise UsageError(
            f"max_predictions_per_seq={size}: a row has {length} places; use at most {length}"
        )
    if (weights is None) != (masking.smoothing == 0):
        raise ValueError(f"masking.smoothing={masking.smoothing}, weights={weights}")


def _epochs(batch: dict[str, jax.Array], num_components: int) -> jax.Array:
    """The number [B] to fold into the key: the epoch, or in a mixture the epoch and component."""
    if ("components" in batch) != (num_components > 1):
        raise ValueError(f"num_components={num_components}, batch has {', '.join(batch)}")
    if "components" not in batch:
        return batch["mask_epochs"]
    return batch["mask_epochs"] * num_components + batch["components"]


def _layout(batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`(segments [B, L], positions [B, L], example_ids [B, E])`, also for rows with one example.

    Segments count from 0, and -1 is padding. Positions restart at 0 in each example.
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
    """Draws for a row of `ids`, `segments` (-1: padding), `positions` [L] and `example_ids` [E]."""
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
    """Bool [L]: True for tokens that only `choose_special` lets be chosen."""
    special = tokenizer.cls_id, tokenizer.sep_id, *tokenizer.marker_ids
    if masking.smoothing or masking.budget == "batch":  # DistilBERT: [UNK] and [MASK] too
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
    """Masks one row of `ids` and `positions` [L] with its draws."""
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

    `fold_in` computes the Threefry block of a counter under a key; its result holds 64 random
    bits. A single key is not copied for each counter, because its key schedule would be too.
    """
    alone = len(keys) == 1
    fold_in = jax.vmap(jax.random.fold_in, (None if alone else 0, 0))
    words = jax.random.key_data(fold_in(keys[0] if alone else keys[segments], counters))
    return words[:, 0], words[:, 1]


def _wanted(
    keys: jax.Array, lengths: jax.Array, masking: Masking, size: int, longest: int
) -> jax.Array:
    """The number of predictions that examples of `lengths` [E], at most `longest`, want: [E]."""
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
    """`draws` [P] where all slots of a run of adjacent tokens have the draw of the first slot."""
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
    """Replaces tokens of `ids` [L] at `chosen` [P] (L in unused slots).

    `shared` [P] uint32 decides what replaces a token: the probabilities cut its range in three.
    `own` [P], the token's own draw, gives the random id. The two differ only in spans. One draw is
    enough for both uses: its place within the part of the random ids is as uniform as a new draw.
    """
    used = chosen < len(ids)
    labels = _at(chosen, ids)
    to_mask, to_random = (
        np.uint32(min(p * 2**32, 2**32 - 1))
        for p in (masking.mask_token_prob, masking.mask_token_prob + masking.random_token_prob)
    )
    left_out = () if masking.random_special else tokenizer.special_ids
    # The remainder favors some ids, by less than one in 10**4 in BERT's recipe.
    random = (own - to_mask) % np.uint32(tokenizer.vocab_size - len(left_out))
    for special in left_out:  # ascending, so that each is skipped in turn
        random += random >= special
    new = jnp.where(shared < to_random, random.astype(ids.dtype), labels)
    new = jnp.where(shared < to_mask, tokenizer.mask_id, new)
    return {
        "input_ids": ids.at[chosen].set(new, mode="drop"),
        "masked_lm_positions": jnp.where(used, chosen, 0),
        "masked_lm_ids": labels,
        "masked_lm_weights": used.astype(jnp.float32),
    }
