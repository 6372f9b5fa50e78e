"""Tokens that stay in an object store: what a batch needs of them, read by ranges."""

from pathlib import Path

import numpy as np

from bertjax import errors, storage

_GAP = 4 << 10  # bytes between two ranges for which another request costs more than reading them


class Tokens:
    """tokens.bin [T] on gs://, of which nothing is held. Safe to use from several threads."""

    def __init__(self, path: Path, dtype: np.dtype, size: int) -> None:
        self._path, self.dtype, self._size = path, dtype, size

    def __len__(self) -> int:
        return self._size

    def gather(self, starts: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Reads `starts[i]` to `starts[i] + lengths[i] - 1` for all i, in one round of requests.

        Ranges that touch, overlap or are close together share a request: the two segments of a
        pair from one document are one.

        Returns:
          tokens [t] and the new starts [n]: range i is `tokens[new[i] : new[i] + lengths[i]]`.

        Raises:
          StorageError: the object store refuses.
          DataError: the object is shorter than it was.
        """
        order = np.argsort(starts, kind="stable")
        first = starts[order]
        ends = np.maximum.accumulate(first + lengths[order])
        opens = np.ones(len(order), bool)
        opens[1:] = first[1:] > ends[:-1] + _GAP // self.dtype.itemsize
        closes = np.append(opens[1:], True)[: len(order)]
        begins, stops = first[opens], ends[closes]
        at = np.cumsum(stops - begins) - (stops - begins)  # where each request's tokens begin
        new = np.empty_like(starts)
        new[order] = first + (at - begins)[np.cumsum(opens) - 1]
        size = self.dtype.itemsize
        names = [self._path] * len(begins)
        parts = storage.read_ranges(names, (begins * size).tolist(), (stops * size).tolist())
        read, asked = b"".join(parts), int((stops - begins).sum()) * size
        if len(read) != asked:
            raise errors.DataError(
                f"{self._path}: {len(read)} of {asked} bytes that its manifest promises; it was replaced "
                "or cut, prepare the corpus again"
            )
        return np.frombuffer(read, self.dtype), new
