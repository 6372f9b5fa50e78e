"""Rows -> host batches: the order of the rows, the batches and their padded length.

A batch depends only on its step number and the seed, so a checkpoint holds no position in the data.
"""

import functools
from collections.abc import Iterable

import numpy as np

from bertjax.finetune.rows import Part, Rows, copy_ragged

LENGTHS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)  # the lengths a bucket may have
POOL = 50  # number of batches whose rows are sorted together


def num_steps(rows: int, batch_size: int, epochs: float) -> int:
    """The number of training steps, at least 1 (google-research/bert, run_classifier.py)."""
    return max(1, int(rows * epochs / batch_size))


def bucket_lengths(lengths: np.ndarray, longest: int, most: int) -> list[int]:
    """At most `most` of `LENGTHS`, ascending, chosen for the least padding.

    The last length takes all rows. Every length is a program to compile, so only a few are used.
    Dynamic programming over the candidates finds the exact optimum for these rows.

    Args:
      lengths: [R], tokens of each row.
      longest: replaces the candidates above it; with `most=0` it is the only length.
    """
    if not most:
        return [longest]
    top = min((n for n in LENGTHS if n >= lengths.max(initial=1)), default=longest)
    candidates = [n for n in LENGTHS if n < min(top, longest)] + [min(top, longest)]
    up_to = np.searchsorted(np.sort(lengths), candidates, side="right")
    # ways[i]: the cheapest choice of lengths that takes the rows up to candidate i, as (tokens,
    # lengths). Each pass of the loop allows one more length.
    ways = {i: (n * int(up_to[i]), [n]) for i, n in enumerate(candidates)}
    best = ways[len(candidates) - 1]
    for _ in range(most - 1):
        ways = {
            i: min(
                (cost + n * int(up_to[i] - up_to[j]), [*chosen, n])
                for j, (cost, chosen) in ways.items()
                if j < i
            )
            for i, n in enumerate(candidates)
            if any(j < i for j in ways)
        }
        best = min([best, *(way for i, way in ways.items() if i == len(candidates) - 1)])
    return best[1]


def batch_shapes(
    kind: str, batch_size: int, length: int, choices: int = 1
) -> dict[str, tuple[int, ...]]:
    """The shape of every array of a batch (see `Batches.batch`) with sequences of `length`."""
    row: tuple[int, ...] = (batch_size,)
    tokens = (*row, choices, length) if kind == "multiple_choice" else (*row, length)
    names = ("input_ids", "token_type_ids", "attention_mask")
    shapes = dict.fromkeys(names, tokens) | {"example_ids": row}
    if kind == "span":
        return shapes | {"start_positions": row, "end_positions": row}
    return shapes | {"labels": tokens if kind == "token" else row}


class Batches:
    """The training batches. Safe to use from several threads.

    The rows form an endless chain of epochs. Each epoch is a permutation of all R rows, drawn from
    (seed, epoch). Step s takes positions s * B to (s + 1) * B - 1 of the chain, so a batch may hold
    the end of one epoch and the start of the next (google-research/bert: shuffle, repeat, batch).

    With `group_lengths`, the batches of an epoch are grouped into pools of 50 (the last pool is
    smaller). The rows of a pool are sorted by length and cut into batches, and the batches are
    shuffled. A pool holds the same rows as the chain does there, so each row still comes once an
    epoch.
    """

    def __init__(
        self,
        rows: Rows,
        *,
        batch_size: int,
        longest: int,
        pad_id: int,
        seed: int,
        shuffle: bool = True,
        group_lengths: bool = True,
        buckets: int = 4,
    ) -> None:
        """Args:
        batch_size: B, the rows of the global batch.
        longest: the most tokens that a sequence may have.
        shuffle: False keeps the file's order in every epoch and turns `group_lengths` off.
        buckets: the number of lengths to choose (`bucket_lengths`); a batch is padded to the
          smallest of them that fits its longest row. 0 pads every batch to `longest`.
        """
        self.batch_size = batch_size
        self._rows, self._padding = rows, _Padding(rows, longest, pad_id, buckets)
        self._seed, self._shuffle = seed, shuffle
        self._grouped = group_lengths and shuffle
        self._permutation = functools.lru_cache(maxsize=4)(self._drawn)
        self._pool = functools.lru_cache(maxsize=4)(self._sorted)

    def batch(self, step: int, rows: slice | np.ndarray = slice(None)) -> dict[str, np.ndarray]:
        """The batch of `step`, counted from 0.

        Args:
          rows: the part of the global batch that this process holds; L depends on the whole batch.

        Returns:
          Arrays of int32, except as noted. `input_ids`, `token_type_ids` and `attention_mask`
          [B, L]; [B, C, L] for multiple choice. `example_ids` [B], the row numbers. `labels` [B];
          [B, L] for token, float32 for regression. For span, `start_positions` and
          `end_positions` [B] replace the labels. -1 means no label.
        """
        order = self.order(step)
        return self._padding.pad(order[rows], self._padding.length(order))

    def order(self, step: int) -> np.ndarray:
        """The row numbers [B] of the global batch of a step."""
        if not self._grouped:
            return self._chain(step * self.batch_size, (step + 1) * self.batch_size)
        epoch = self._epoch(step)
        first = self._first_step(epoch)
        return self._pool(epoch, (step - first) // POOL)[(step - first) % POOL]

    def lengths(self, steps: int) -> np.ndarray:
        """int [steps]: the sequence length L of each step."""
        return np.array([self._padding.length(self.order(step)) for step in range(steps)])

    def padding_share(self, steps: int) -> float:
        """The fraction of padding among the tokens of the first `steps` batches."""
        return self._padding.share(self.order(step) for step in range(steps))

    def describe(self) -> str:
        """A line such as `3,668 rows, 9% padding`; the padding is the first epoch's."""
        steps = num_steps(len(self._rows), self.batch_size, 1)
        return f"{len(self._rows):,} rows, {self.padding_share(steps):.0%} padding"

    def _drawn(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self._seed, epoch]).permutation(len(self._rows))

    def _chain(self, start: int, stop: int) -> np.ndarray:
        """The rows at the positions `start` to `stop - 1` of the chain of epochs."""
        epochs, numbers = np.divmod(np.arange(start, stop), len(self._rows))
        if not self._shuffle:
            return numbers
        found = np.empty_like(numbers)
        for epoch in np.unique(epochs):
            mine = epochs == epoch
            found[mine] = self._permutation(int(epoch))[numbers[mine]]
        return found

    def _first_step(self, epoch: int) -> int:
        """The first step of an epoch; a training of `epoch` epochs ends just before this step."""
        return epoch * len(self._rows) // self.batch_size

    def _epoch(self, step: int) -> int:
        """The epoch of a step: the last epoch whose first step is at or before `step`."""
        return -(-(step + 1) * self.batch_size // len(self._rows)) - 1

    def _sorted(self, epoch: int, pool: int) -> np.ndarray:
        """The row numbers of a pool's batches, in step order: [at most POOL, B]."""
        start = self._first_step(epoch) + pool * POOL
        stop = min(start + POOL, self._first_step(epoch + 1))
        rows = self._chain(start * self.batch_size, stop * self.batch_size)
        rows = rows[np.argsort(self._padding.lengths[rows], kind="stable")]
        # pool + 1, because NumPy seeds [s, e] and [s, e, 0] give the same generator, and the
        # permutation uses [s, e].
        rng = np.random.default_rng([self._seed, epoch, pool + 1])
        return rng.permutation(rows.reshape(stop - start, self.batch_size), axis=0)


class HeldoutBatches:
    """Batches of every row once, the same in every evaluation.

    With `buckets`, the rows are sorted by length; without, they keep the file's order. The last of
    the `num_batches` batches is filled up with copies of its first row. The copies have
    `example_ids` and labels of -1 (regression: labels of 0).
    """

    def __init__(
        self, rows: Rows, *, batch_size: int, longest: int, pad_id: int, buckets: int = 4
    ) -> None:
        """See `Batches` for the arguments."""
        self.batch_size = batch_size
        self.num_batches = -(-len(rows) // batch_size)
        self._rows, self._padding = rows, _Padding(rows, longest, pad_id, buckets)
        self._order = np.arange(len(rows))
        if buckets:
            self._order = np.argsort(self._padding.lengths, kind="stable")

    def batch(self, step: int, rows: slice | np.ndarray = slice(None)) -> dict[str, np.ndarray]:
        """Batch number `step` of `num_batches`, with the arrays of `Batches.batch`."""
        order = self._order[step * self.batch_size : (step + 1) * self.batch_size]
        missing = self.batch_size - len(order)
        filled = np.concatenate([order, np.repeat(order[:1], missing)])
        is_real = np.arange(self.batch_size) < len(order)
        batch = self._padding.pad(filled[rows], self._padding.length(order))
        for name in ("example_ids", "labels", "start_positions", "end_positions"):
            if name in batch:
                none = 0 if batch[name].dtype == np.float32 else -1
                batch[name][~is_real[rows]] = none
        return batch

    def padding_share(self) -> float:
        """The fraction of padding among the tokens of all batches; copied rows are padding too."""
        starts = range(0, len(self._rows), self.batch_size)
        return self._padding.share(
            (self._order[start : start + self.batch_size] for start in starts), self.batch_size
        )

    def describe(self) -> str:
        """A line such as `408 rows, 9% padding`."""
        return f"{len(self._rows):,} rows, {self.padding_share():.0%} padding"


class _Padding:
    """Pads rows into the arrays of a batch."""

    def __init__(self, rows: Rows, longest: int, pad_id: int, buckets: int) -> None:
        self.lengths = rows.lengths
        self._rows, self._longest, self._pad_id = rows, longest, pad_id
        self._sequence_lengths = np.diff(rows.starts)
        self._ones = np.ones(len(rows.ids), np.uint8)
        self._steps_of_length = np.array(bucket_lengths(self.lengths, longest, buckets))
        assert self.lengths.max(initial=0) <= longest, "rows were encoded for longer sequences"

    def length(self, order: np.ndarray) -> int:
        """The sequence length L of the global batch of rows `order` [B]."""
        at = np.searchsorted(self._steps_of_length, self.lengths[order].max())
        return int(self._steps_of_length[at])

    def share(self, orders: Iterable[np.ndarray], batch_size: int | None = None) -> float:
        """The fraction of padding in batches; each counts `batch_size` rows if that is given."""
        used = total = 0
        per_row = self._sequence_lengths.reshape(-1, self._rows.choices).sum(1)
        for order in orders:
            used += int(per_row[order].sum())
            rows = batch_size or len(order)
            total += rows * self._rows.choices * self.length(order)
        return 1 - used / total if total else 0.0

    def pad(self, order: np.ndarray, length: int) -> dict[str, np.ndarray]:
        """The batch of the rows `order` [B], padded to `length` L."""
        rows, choices = self._rows, self._rows.choices
        sequences = (order[:, None] * choices + np.arange(choices)).ravel()
        lengths = self._sequence_lengths[sequences]
        shape = (len(order), length) if choices == 1 else (len(order), choices, length)

        def laid(source: np.ndarray, fill: int) -> np.ndarray:
            target = np.full(len(sequences) * length, fill, np.int32)
            at = np.arange(len(sequences)) * length
            copy_ragged(target, at, Part(source, rows.starts[sequences], lengths))
            return target.reshape(shape)

        batch = {
            "input_ids": laid(rows.ids, self._pad_id),
            "token_type_ids": laid(rows.token_types, 0),
            "attention_mask": laid(self._ones, 0),
            "example_ids": order.astype(np.int32),
        }
        if rows.kind == "token" and rows.labels is not None:
            batch["labels"] = laid(rows.labels, -1)
        elif rows.labels is not None:
            batch["labels"] = rows.labels[order]
        if rows.start_positions is not None and rows.end_positions is not None:
            batch["start_positions"] = rows.start_positions[order]
            batch["end_positions"] = rows.end_positions[order]
        return batch
