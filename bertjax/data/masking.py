"""Masked-LM corruption, in JAX, inside the jitted step: (key, batch) -> masked batch.

The mask of an example depends on the key, its epoch and its id alone: neither on the batch it
arrives in, nor on the number of hosts, nor on the mesh. All shapes are static. The rules are
those of google-research/bert, `create_masked_lm_predictions`.

Which positions are chosen is a matter of order: every token (or word) draws random bits, and
those with the lowest are taken. The position is packed into the low bits, so that one sort of
plain integers does it; on a CPU that is six times faster than `argsort`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from bertjax.config import Masking

_LAST = np.uint32(0xFFFFFFFF)  # sorts behind every candidate


def mask_tokens(
    key: jax.Array,
    batch: dict[str, jax.Array],
    tokenizer,
    masking: Masking,
    max_predictions_per_seq: int,
) -> dict[str, jax.Array]:
    """Chooses positions to predict and corrupts them.

    In a sequence of `length` tokens, [CLS] and [SEP] counted,
    `min(max_predictions_per_seq, max(1, round(masked_lm_prob * length)))` tokens are chosen
    uniformly (`round` is Python's: a half goes to the even side), never [CLS], [SEP] or padding.
    Each chosen token becomes [MASK], a uniform id of the whole vocabulary, or stays, on its own
    draw. With `masking.whole_word`, words are taken in random order, all tokens of a word or
    none, and a word that would exceed the number is skipped; what truncation left of a word at
    the start of A or B counts as a word (the reference adds the one of B to the last word of A).

    Static masking is no other rule: `pipeline.Batches` then repeats the epochs themselves.

    Args:
      key: made with `impl="threefry2x32"`, so that the bits are the same on every backend;
        fold the phase in, as every phase counts its epochs from 0.
      batch: the host batch: `input_ids`, `attention_mask` [B, L]; `epochs`, `example_ids` [B].
        Rows with `example_ids` < 0 pad the batch: nothing in them is chosen.
      tokenizer: gives `cls_id`, `sep_id`, `mask_id`, `vocab_size` (not the padded one) and,
        for whole words, `word_starts()`, bool [V].
      masking: probabilities and `whole_word`.
      max_predictions_per_seq: P.

    Returns:
      `batch` with `input_ids` corrupted, and `masked_lm_positions` [B, P] (ascending, then 0),
      `masked_lm_ids` [B, P] (the original tokens, then 0), `masked_lm_weights` [B, P] float32.
    """
    ids, attended = batch["input_ids"], batch["attention_mask"] > 0
    candidates = attended & (ids != tokenizer.cls_id) & (ids != tokenizer.sep_id)
    counts = prediction_counts(ids.shape[1], masking.masked_lm_prob, max_predictions_per_seq)
    wanted = jnp.minimum(jnp.asarray(counts)[attended.sum(1)], candidates.sum(1))
    wanted = jnp.where(batch["example_ids"] >= 0, wanted, 0)
    if masking.whole_word:
        after_candidate = jnp.pad(candidates[:, :-1], ((0, 0), (1, 0)))
        starts = candidates & (jnp.asarray(tokenizer.word_starts())[ids] | ~after_candidate)
        choose = _choose_words
    else:
        starts, choose = candidates, _choose_tokens
    bits = jax.vmap(_example_bits, (None, 0, 0, None))(
        key, batch["epochs"], batch["example_ids"], ids.shape[1] + 2 * max_predictions_per_seq
    )
    order_bits, mask_bits, id_bits = jnp.split(
        bits, (ids.shape[1], ids.shape[1] + max_predictions_per_seq), axis=1
    )
    choose = functools.partial(choose, size=max_predictions_per_seq)
    positions = jax.vmap(choose)(order_bits, candidates, starts, wanted)
    corrupt = functools.partial(_corrupt, tokenizer=tokenizer, masking=masking)
    return batch | jax.vmap(corrupt)(ids, positions, mask_bits, id_bits)


def prediction_counts(
    length: int, masked_lm_prob: float, max_predictions_per_seq: int
) -> np.ndarray:
    """Tokens to predict for every number of attended tokens from 0 to `length`: [length + 1].

    A table, made in Python's float64, because float32 on a device rounds some halves otherwise.
    """
    return np.array(
        [
            min(max_predictions_per_seq, max(1, round(masked_lm_prob * n)))
            for n in range(length + 1)
        ],
        np.int32,
    )


def _example_bits(key, epoch, example_id, count):
    """All the randomness of one example in one draw: [count] uint32."""
    return jax.random.bits(jax.random.fold_in(jax.random.fold_in(key, epoch), example_id), count)


def _shuffle(bits, valid):
    """Indices of `valid` [L] in random order, as [L] int32, with L behind the last of them."""
    length = len(valid)
    low = np.uint32((1 << (length - 1).bit_length()) - 1)
    packed = (bits & ~low) | jnp.arange(length, dtype=jnp.uint32)
    packed = jax.lax.sort(jnp.where(valid, packed, _LAST))
    return jnp.where(packed == _LAST, length, packed & low).astype(jnp.int32)


def _choose_tokens(bits, candidates, starts, wanted, *, size):
    """`wanted` of the candidates [L], uniformly: ascending positions [size], then L."""
    del starts
    length = len(candidates)
    order = _shuffle(bits, candidates)[:size]
    return jax.lax.sort(jnp.where(jnp.arange(size) < wanted, order, length))


def _choose_words(bits, candidates, starts, wanted, *, size):
    """As `_choose_tokens`, whole words; `starts` [L] marks the first token of each word.

    Taking words greedily is sequential: the scan runs over words, in random order, of all
    examples at once, and a step of it is one addition.
    """
    length = len(candidates)
    word = jnp.cumsum(starts) - 1  # of a token: the number of its word
    tokens_in = jax.ops.segment_sum(candidates.astype(jnp.int32), word, length)
    order = _shuffle(bits, jnp.arange(length) < starts.sum())
    sizes = tokens_in.at[order].get(mode="fill", fill_value=length)

    def take(total, words):
        fits = total + words <= wanted
        return total + jnp.where(fits, words, 0), fits

    _, fits = jax.lax.scan(take, jnp.zeros_like(wanted), sizes)
    taken = jnp.zeros(length, bool).at[order].set(fits, mode="drop")
    chosen = candidates & taken[word]
    return jax.lax.sort(jnp.where(chosen, jnp.arange(length), length))[:size]


def _corrupt(ids, positions, mask_bits, id_bits, *, tokenizer, masking):
    """Replaces tokens of `ids` [L] at `positions` [P] (L where unused)."""
    used = positions < len(ids)
    labels = ids.at[positions].get(mode="fill", fill_value=0)
    draw = mask_bits * np.float32(2**-32)
    # The remainder favours some ids by V / 2**32, less than one in 10**4.
    random = (id_bits % np.uint32(tokenizer.vocab_size)).astype(ids.dtype)
    is_mask = draw < masking.mask_token_prob
    is_random = draw < masking.mask_token_prob + masking.random_token_prob
    new = jnp.where(is_mask, tokenizer.mask_id, jnp.where(is_random, random, labels))
    return {
        "input_ids": ids.at[positions].set(new, mode="drop"),
        "masked_lm_positions": jnp.where(used, positions, 0),
        "masked_lm_ids": labels,
        "masked_lm_weights": used.astype(jnp.float32),
    }
