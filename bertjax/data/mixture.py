"""Several corpora read together: the number of a row decides its corpus."""

from collections.abc import Callable

import numpy as np

BLOCK = 10_000  # rows; each block holds the exact shares


class Mixture:
    """Every block of `BLOCK` rows holds each component's share, in a random order of its own.

    The number of a row alone gives the component of the row and the number of earlier rows of
    that component. Shares are exact to 1 / `BLOCK` (largest remainders).
    """

    def __init__(
        self, weights: list[float], rng_of_block: Callable[[int], np.random.Generator]
    ) -> None:
        """Args:
        weights: one positive number for each component; only the ratios count.
        rng_of_block: `block number -> np.random.Generator`.
        """
        self.counts = _shares(weights)  # [C], rows of each component in a block
        self._rng_of_block = rng_of_block

    def locate(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The component [n] of row numbers [n], and the numbers [n] within these components."""
        if len(self.counts) == 1:
            return np.zeros(len(rows), np.int64), rows
        components, numbers = np.empty_like(rows), np.empty_like(rows)
        for block in np.unique(rows // BLOCK):
            chosen = rows // BLOCK == block
            labels = np.repeat(np.arange(len(self.counts)), self.counts)
            self._rng_of_block(int(block)).shuffle(labels)
            before = np.empty(BLOCK, np.int64)  # rows of the same component earlier in the block
            for component, count in enumerate(self.counts):
                before[labels == component] = np.arange(count)
            places = rows[chosen] % BLOCK
            components[chosen] = labels[places]
            numbers[chosen] = block * self.counts[labels[places]] + before[places]
        return components, numbers


def _shares(weights: list[float]) -> np.ndarray:
    exact = np.array(weights, np.float64) / sum(weights) * BLOCK
    counts = exact.astype(np.int64)
    left_over = BLOCK - counts.sum()
    counts[np.argsort(counts - exact, kind="stable")[:left_over]] += 1
    return counts
