"""Rows -> host batches: in what order, cut into which batches, padded to which length.

The batch of a step is a function of the step; nothing needs saving.
"""

import functools
from collections.abc import Iterable

import numpy as np

from bertjax.finetune.rows import Part, Rows, copy_ragged

LENGTHS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)  # of buckets
POOL = 50  # batches whose rows are sorted together


def num_steps(rows: int, batch_size: int, epochs: float) -> int:
    """Steps of a training (google-research/bert, run_classifier.py), at least 1."""
    return max(1, int(rows * epochs / batch_size))


def bucket_lengths(lengths: np.ndarray, longest: int, most: int) -> list[int]:
    """The at most `most` of `LENGTHS` that pad rows least, ascending; the last one takes all rows.

    Every length is a program to compile, so a few are chosen by the lengths of all rows, exactly:
    by dynamic programming over the candidates.

    Args:
      lengths: [R], of the rows.
      longest: takes the place of the candidates that are larger; with `most=0` the only length.
    """
    if not most:
        return [longest]
    top = min((n for n in LENGTHS if n >= lengths.max(initial=1)), default=longest)
    candidates = [n for n in LENGTHS if n < min(top, longest)] + [min(top, longest)]
    up_to = np.searchsorted(np.sort(lengths), candidates, side="right")
    # The cheapest way to take the rows up to candidate i, by the number of lengths used.
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
    """The shape of every array of a batch with sequences of `length`, as `Batches.batch` says."""
    row: tuple[int, ...] = (batch_size,)
    tokens = (*row, choices, length) if kind == "multiple_choice" else (*row, length)
    names = ("input_ids", "token_type_ids", "attention_mask")
    shapes = dict.fromkeys(names, tokens) | {"example_ids": row}
    if kind == "span":
        return shapes | {"start_positions": row, "end_positions": row}
    return shapes | {"labels": tokens if kind == "token" else row}


class Batches:
    """The training batches. Safe to use from several threads.

    The rows are an endless chain of epochs, each a permutation of all R rows drawn from (seed,
    epoch); step s has the positions s * B to (s + 1) * B - 1 of the chain, so a batch may hold the
    end of one epoch and the start of the next (google-research/bert: shuffle, repeat, batch).

    With `group_lengths`, an epoch's batches are taken in pools of 50 (the last one of an epoch
    is smaller): a pool's rows are sorted by length, cut into batches, and the batches shuffled.
    Each pool has the chain's rows, so a row still comes once an epoch.
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
        batch_size: B, of the global batch.
        longest: most tokens L of a sequence.
        shuffle: False keeps the file's order in every epoch, and so does not group lengths.
        buckets: L of a step is that of its longest row, made up to one of so many lengths
          (`bucket_lengths`); 0 pads every batch to `longest`.
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
          rows: the part of the global batch that this process holds; L is that of the whole batch.

        Returns:
          int32, where not said: `input_ids`, `token_type_ids`, `attention_mask` [B, L], of
          multiple choice [B, C, L]; `example_ids` [B], the number of the row; `labels` [B], of
          regression float32, of token [B, L]; of span instead `start_positions` and
          `end_positions` [B]. -1 is no label.
        """
        order = self.order(step)
        return self._padding.pad(order[rows], self._padding.length(order))

    def order(self, step: int) -> np.ndarray:
        """The rows [B] of the global batch of a step."""
        if not self._grouped:
            return self._chain(step * self.batch_size, (step + 1) * self.batch_size)
        epoch = self._epoch(step)
        first = self._first_step(epoch)
        return self._pool(epoch, (step - first) // POOL)[(step - first) % POOL]

    def lengths(self, steps: int) -> np.ndarray:
        """int [steps]: L of each step."""
        return np.array([self._padding.length(self.order(step)) for step in range(steps)])

    def padding_share(self, steps: int) -> float:
        """The share of padding among the tokens of the first `steps` batches."""
        return self._padding.share(self.order(step) for step in range(steps))

    def describe(self) -> str:
        """`3,668 rows, 9% padding` (of the first epoch)."""
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
        """The first step that belongs to an epoch: a training of that many epochs ends before it."""
        return epoch * len(self._rows) // self.batch_size

    def _epoch(self, step: int) -> int:
        """The epoch that a step belongs to: the last of those whose first step is not after it."""
        return -(-(step + 1) * self.batch_size // len(self._rows)) - 1

    def _sorted(self, epoch: int, pool: int) -> np.ndarray:
        """The batches [at most POOL, B] of a pool, in the order of its steps."""
        start = self._first_step(epoch) + pool * POOL
        stop = min(start + POOL, self._first_step(epoch + 1))
        rows = self._chain(start * self.batch_size, stop * self.batch_size)
        rows = rows[np.argsort(self._padding.lengths[rows], kind="stable")]
        # Never the generator of the permutation: a seed sequence takes a missing number for 0.
        rng = np.random.default_rng([self._seed, epoch, pool + 1])
        return rng.permutation(rows.reshape(stop - start, self.batch_size), axis=0)


class HeldoutBatches:
    """Every row once, the same batches every time.

    With `buckets`, rows are sorted by length; without, they keep the file's order. What fills the
    last of the `num_batches` batches repeats its first row, with `example_ids` and labels of -1
    (of regression, labels of 0).
    """

    def __init__(
        self, rows: Rows, *, batch_size: int, longest: int, pad_id: int, buckets: int = 4
    ) -> None:
        """As `Batches`."""
        self.batch_size = batch_size
        self.num_batches = -(-len(rows) // batch_size)
        self._rows, self._padding = rows, _Padding(rows, longest, pad_id, buckets)
        self._order = np.arange(len(rows))
        if buckets:
            self._order = np.argsort(self._padding.lengths, kind="stable")

    def batch(self, step: int, rows: slice | np.ndarray = slice(None)) -> dict[str, np.ndarray]:
        """Batch number `step` of `num_batches`, in the form of `Batches.batch`."""
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
        """The share of padding among the tokens of all batches; rows that fill up are padding."""
        starts = range(0, len(self._rows), self.batch_size)
        return self._padding.share(
            (self._order[start : start + self.batch_size] for start in starts), self.batch_size
        )

    def describe(self) -> str:
        """`408 rows, 9% padding`."""
        return f"{len(self._rows):,} rows, {self.padding_share():.0%} padding"


class _Padding:
    """Makes arrays of rows."""

    def __init__(self, rows: Rows, longest: int, pad_id: int, buckets: int) -> None:
        self.lengths = rows.lengths
        self._rows, self._longest, self._pad_id = rows, longest, pad_id
        self._sequence_lengths = np.diff(rows.starts)
        self._ones = np.ones(len(rows.ids), np.uint8)
        self._steps_of_length = np.array(bucket_lengths(self.lengths, longest, buckets))
        assert self.lengths.max(initial=0) <= longest, "rows were encoded for longer sequences"

    def length(self, order: np.ndarray) -> int:
        """L of a global batch of the rows `order` [B]."""
        at = np.searchsorted(self._steps_of_length, self.lengths[order].max())
        return int(self._steps_of_length[at])

    def share(self, orders: Iterable[np.ndarray], batch_size: int | None = None) -> float:
        """The share of padding in batches; of `batch_size` rows, where not all have as many."""
        used = total = 0
        per_row = self._sequence_lengths.reshape(-1, self._rows.choices).sum(1)
        for order in orders:
            used += int(per_row[order].sum())
            rows = batch_size or len(order)
            total += rows * self._rows.choices * self.length(order)
        return 1 - used / total if total else 0.0

    def pad(self, order: np.ndarray, length: int) -> dict[str, np.ndarray]:
        """The batch of the rows `order` [B], with sequences of `length` L."""
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
