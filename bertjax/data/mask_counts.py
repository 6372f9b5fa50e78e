"""The number of predictions: for an example (`masking.budget=example`) or for a whole batch."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np

from bertjax.config import Masking
from bertjax.data import mask_units


def largest_counts(length: int, masking: Masking, max_predictions: int) -> np.ndarray:
    """The most predictions that an example of n tokens may want, for n from 0 to `length`.

    Returns:
      [length + 1] int32.
    """
    least, fraction = of_lengths(length, masking)
    return np.minimum(max_predictions, least + (fraction > 0))


def of_lengths(length: int, masking: Masking) -> tuple[np.ndarray, np.ndarray]:
    """`(least [length + 1] int32, probability of one more [length + 1] float32)`.

    The number of predictions for an example of n tokens, [CLS] and [SEP] counted:

    - rounding=nearest: `max(1, round(masked_lm_prob * n))` with Python's `round`, which takes
      halves to the even number (google-research/bert, `create_masked_lm_predictions`);
    - rounding=probabilistic: `floor(masked_lm_prob * n + u)` with u uniform in [0, 1). The result
      may be 0 (fairseq, `MaskTokensDataset`; for whole words, fairseq counts words here).

    The result is a table in Python's float64, because float32 on a device would round some halves
    the other way.
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
    """Gives all rows of a batch one shared number of predictions: `ceil(prob * tokens)`.

    The published rule of DistilBERT (huggingface/transformers, research_projects/distillation,
    `prepare_batch_mlm`): special tokens count but are never drawn. In the published code a row
    keeps all predictions that fall to it. Here a row keeps its first `size`, and the rest are lost.

    Every device counts its own rows. Devices exchange counts only: 3 in each of 16 rounds, and one
    a row. Tokens are ordered by `mask_units.ordered`, then by row.

    Args:
      tokens: the tokens of all rows, [B, L] each.
      example_ids: [B, E], negative in a row that only fills the batch; such a row counts no tokens.

    Returns:
      `tokens` with `candidates` reduced to real rows, and `wanted` [B, 1] for each whole row.
    """
    real = jnp.take_along_axis(example_ids, jnp.maximum(tokens.segments, 0), 1) >= 0
    real &= tokens.segments >= 0
    candidates = tokens.candidates & real
    order = jax.vmap(mask_units.ordered)(tokens.draws, candidates)
    wanted = jnp.minimum(_ceil(prob, real.sum()), candidates.sum())
    last = _smallest(order, wanted)
    before = (order < last).sum(1)
    equal = (order == last).sum(1)  # at most one in a row: the low bits hold the place in the row
    equal = equal * (jnp.cumsum(equal) <= wanted - before.sum())
    of_row = jnp.minimum(before + equal, size)
    return tokens._replace(candidates=candidates, wanted=of_row[:, None])


def _ceil(prob: float, count: jax.Array) -> jax.Array:
    """`ceil(prob * count)` in integers: exact for probabilities of up to four decimals."""
    exact = Fraction(str(prob)).limit_denominator(1 << 15)
    whole, rest = count // exact.denominator, count % exact.denominator
    return whole * exact.numerator - (-rest * exact.numerator) // exact.denominator


def _smallest(values: jax.Array, number: jax.Array) -> jax.Array:
    """The `number`-th smallest (from 1) of uint32 `values` [B, L], a scalar.

    This is the largest v with fewer than `number` values below v, found two bits at a time.
    """

    def add_digit(step: jax.Array, found: jax.Array) -> jax.Array:
        shift = (30 - 2 * step).astype(jnp.uint32)
        tried = found + (jnp.arange(1, 4, dtype=jnp.uint32) << shift)
        below = (values < tried[:, None, None]).sum((1, 2))
        return found + ((below < number).sum().astype(jnp.uint32) << shift)

    return jax.lax.fori_loop(0, 16, add_digit, jnp.uint32(0))
