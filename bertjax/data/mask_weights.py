"""Weights for the choice of tokens to predict: rare ids are chosen more often than frequent ids.

The published rule of DistilBERT (huggingface/transformers, research_projects/distillation:
`token_counts.py`, `train.py`, `distiller.py`), after word2vec and XLM. The weight of a token is the
count of its id to the power of -0.7. An id that was never seen counts as seen once, and special
tokens have weight 0. Tokens are drawn by weight without replacement.

The code draws by weight as a race: a token of weight w arrives after `-log(u) / w`, u uniform in
(0, 1), and the first tokens to arrive are chosen. The logarithm is computed in integers, so that
nearly equal arrivals have the same order on every mesh and every backend.
"""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bertjax import storage
from bertjax.config import Config
from bertjax.data import store
from bertjax.errors import DataError

# -log2 of the mantissas 1/2 to 1 at the ends of equal segments, in units of 2**-26; linear within
# a segment. The last line ends at 0, so the relative error of the smallest values stays below
# 1 / 4096.
_SEGMENT_BITS = 11
_NODES = np.linspace(0.5, 1.0, (1 << _SEGMENT_BITS) + 1)
_LOG = np.round(-np.log2(_NODES) * 2.0**26).astype(np.uint32)
_FALL = _LOG[:-1] - _LOG[1:]

_LATEST = np.nextafter(np.float32(2.0**64), np.float32(0))


def read(config: Config, directory: Path | None) -> np.ndarray | None:
    """The weights [V] float32 for the corpora of a config; None without `masking.smoothing`.

    Args:
      directory: W. None without a text (in a plan); all weights are then 1.

    Raises:
      DataError: a store is missing, or has no counts because an earlier version made it.
    """
    power = config.masking.smoothing
    if not power:
        return None
    if directory is None:
        return np.ones(config.model.vocab_size, np.float32)
    counts = []
    for name in config.weights:
        place = storage.path(directory) / "store" / name
        found = store.read_unigrams(place)
        if found is None:
            raise DataError(
                f"{place}: has no token counts, which config.masking.smoothing={power} needs (an "
                "earlier version made it); run bertjax prepare again, or set the field to 0"
            )
        counts.append(found)
    return smoothed(mixed(counts, list(config.weights.values())), power)


def mixed(counts: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Token counts [V] of a mixture: the components' counts, scaled by how often each is read.

    The counts of a component with t tokens and a share s of the weights are multiplied by
    s * T / t, where T is the number of tokens of all components. The component then gives s of the
    T tokens, if the rows of all components are equally full. A single component keeps its counts.
    If the weights are the components' token numbers, the result is the plain sum.
    """
    totals = [max(int(c.sum()), 1) for c in counts]
    read = np.array(weights, np.float64) / sum(weights) * sum(totals)
    return np.sum([c * (n / t) for c, n, t in zip(counts, read, totals, strict=True)], axis=0)


def smoothed(counts: np.ndarray, power: float) -> np.ndarray:
    """`max(count, 1) ** -power` of counts [V], as float32."""
    return (np.maximum(counts, 1.0) ** -power).astype(np.float32)


def arrivals(draws: jax.Array, ids: jax.Array, weights: np.ndarray) -> jax.Array:
    """The arrival time of each token in the race, as a number that replaces the token's draw.

    Args:
      draws: [N] uint32, uniform.
      ids: [N], the token ids.
      weights: [V] float32 in (0, 1], the weight of each id.

    Returns:
      [N] uint32, the logarithm of `-log(u) / w`, in steps of less than one part in a million. With
      equal weights the order of the draws stays.
    """
    waits = jnp.maximum(_minus_log(draws), 1).astype(jnp.float32)
    # A single product without a sum rounds the same on every backend.
    waits = jnp.minimum(waits * jnp.asarray(np.float32(1) / weights)[ids], _LATEST)
    # The bits of positive floats sort like the floats. Floats from 1 to 2**64 leave 3 bits unused.
    bits = jax.lax.bitcast_convert_type(waits, jnp.uint32)
    return (bits - np.float32(1).view(np.uint32)) << 3


def _minus_log(draws: jax.Array) -> jax.Array:
    """`-log2(u)` [N] uint32 in units of 2**-26, for u = 1 - (draw + 1) / 2**32, but u > 0."""
    u = jnp.maximum(~draws, 1)
    halvings = jax.lax.clz(u)
    mantissa = u << halvings  # 2**31 to 2**32 - 1
    rest = 31 - _SEGMENT_BITS
    segment = (mantissa >> rest) & ((1 << _SEGMENT_BITS) - 1)
    along = (mantissa & ((1 << rest) - 1)) >> (rest - 16)  # 16 bits
    fall = (jnp.asarray(_FALL)[segment] * along) >> 16
    return (halvings << 26) + jnp.asarray(_LOG)[segment] - fall
