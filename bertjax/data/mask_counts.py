"""How many tokens are predicted: of an example (`masking.budget=example`) or of a batch."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np

from bertjax.config import Masking
from bertjax.data import mask_units


def largest_counts(length: int, masking: Masking, max_predictions: int) -> np.ndarray:
    """Most predictions that an example of n tokens may want, for n from 0 to `length`.

    Returns:
      [length + 1] int32.
    """
    least, fraction = of_lengths(length, masking)
    return np.minimum(max_predictions, least + (fraction > 0))


def of_lengths(length: int, masking: Masking) -> tuple[np.ndarray, np.ndarray]:
    """`(least [length + 1] int32, probability of one more [length + 1] float32)`.

    What an example of n tokens wants, [CLS] and [SEP] counted:

    - rounding=nearest: `max(1, round(masked_lm_prob * n))`, where `round` is Python's, a half
      to the even side (google-research/bert, `create_masked_lm_predictions`);
    - rounding=probabilistic: `floor(masked_lm_prob * n + u)` with u uniform in [0, 1), which may
      be none (fairseq, `MaskTokensDataset`; with its whole words, fairseq counts words here).

    A table, made in Python's float64: float32 on a device would round some halves otherwise.
    """
    wanted = [masking.masked_lm_prob * n for n in range(length + 1)]
    if masking.rounding == "nearest":
        least = [max(1, round(x)) for x in wanted]
        return np.array(least, np.int32), np.zeros(length + 1, np.float32)
    least = np.floor(wanted)
    return least.astype(np.int32), (wanted - least).astype(np.float32)


def share(
    tokens: mask_units.Tokens, example_ids: jax.Array, prob: float, size: int
) -> mask_units.Tokens:
    """Lets all rows of a batch share one number of predictions: `ceil(prob * tokens)`.

    The published rule of DistilBERT (huggingface/transformers, research_projects/distillation,
    `prepare_batch_mlm`): special tokens are counted and not drawn. There a row keeps all that fall
    to it; here at most `size`, those that come first, and the rest is lost.

    Every device counts its own rows. Devices exchange counts only: 3 in each of 16 rounds, and one
    a row. The order is that of `mask_units.ordered`, then that of the rows.

    Args:
      tokens: of all rows, [B, L] each.
      example_ids: [B, E], negative where a row only fills the batch: it counts no tokens.

    Returns:
      `tokens` with the `candidates` that count, and `wanted` [B, 1], of each row as a whole.
    """
    real = jnp.take_along_axis(example_ids, jnp.maximum(tokens.segments, 0), 1) >= 0
    real &= tokens.segments >= 0
    candidates = tokens.candidates & real
    order = jax.vmap(mask_units.ordered)(tokens.draws, candidates)
    wanted = jnp.minimum(_ceil(prob, real.sum()), candidates.sum())
    last = _smallest(order, wanted)
    before = (order < last).sum(1)
    equal = (order == last).sum(1)  # at most one in a row: the order has the place in it
    equal = equal * (jnp.cumsum(equal) <= wanted - before.sum())
    of_row = jnp.minimum(before + equal, size)
    return tokens._replace(candidates=candidates, wanted=of_row[:, None])


def _ceil(prob: float, count: jax.Array) -> jax.Array:
    """`ceil(prob * count)` without rounding: exact for probabilities of up to four decimals."""
    exact = Fraction(str(prob)).limit_denominator(1 << 15)
    whole, rest = count // exact.denominator, count % exact.denominator
    return whole * exact.numerator - (-rest * exact.numerator) // exact.denominator


def _smallest(values: jax.Array, number: jax.Array) -> jax.Array:
    """The value [] that is the `number`-th smallest (from 1) of uint32 `values` [B, L].

    It is the largest v with fewer than `number` values below it, found two bits at a time.
    """

    def add_digit(step: jax.Array, found: jax.Array) -> jax.Array:
        shift = (30 - 2 * step).astype(jnp.uint32)
        tried = found + (jnp.arange(1, 4, dtype=jnp.uint32) << shift)
        below = (values < tried[:, None, None]).sum((1, 2))
        return found + ((below < number).sum().astype(jnp.uint32) << shift)

    return jax.lax.fori_loop(0, 16, add_digit, jnp.uint32(0))
