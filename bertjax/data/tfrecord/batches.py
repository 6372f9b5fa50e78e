"""(config, W, step) -> host batch of examples that are masked already.

As in `data.pipeline`, the batch of a step is a function of the step. Rows are numbered through a
whole phase; an epoch is all its records in an order of its own.
"""

import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bertjax.config import Config, Phase
from bertjax.config.stages import Stage
from bertjax.data.epochs import generator
from bertjax.data.tfrecord import index
from bertjax.data.tfrecord.records import Records
from bertjax.data.tokenizer_base import Tokenizer
from bertjax.errors import NothingHeldOut, UsageError

_ORDER = 1  # what a generator is for, as in `data.epochs`

# The names of `example.FEATURES` in a batch.
_NAMES = (
    "input_ids",
    "attention_mask",
    "token_type_ids",
    "masked_lm_positions",
    "masked_lm_ids",
    "masked_lm_weights",
    "next_sentence_labels",
)


class Batches:
    """The training batches of one stage. Safe to use from several threads.

    An order takes 4 bytes a record; those of the two latest epochs are kept.

    Attributes:
      num_rows: rows of an epoch: the records whose lengths are the phase's.
    """

    def __init__(self, config: Config, workdir: Path, tokenizer: Tokenizer, stage: Stage) -> None:
        """Opens the index of `workdir/store`.

        Raises:
          DataError: as `Records`.
          UsageError: no record to train on has the lengths of the stage's phase.
        """
        self._records = Records(config, workdir, "train", stage.phase, tokenizer.vocab_size)
        self._config, self._stage, self.num_rows = config, stage, len(self._records)
        self._orders: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()
        if not self.num_rows:
            forms = self._records.forms
            raise UsageError(index.no_rows(stage.name, stage.phase, forms, "config.data.files"))

    def batch(self, step: int, rows: slice | np.ndarray = slice(None)) -> dict[str, np.ndarray]:
        """The batch of `step`, counted from the start of the stage.

        Args:
          rows: the part of the global batch that this process holds.

        Returns:
          int32, as stored: `input_ids` (corrupted), `token_type_ids`, `attention_mask` [B, L];
          `masked_lm_positions`, `masked_lm_ids`, `masked_lm_weights` [B, P];
          `next_sentence_labels` [B] (1 = random). `example_ids` [B]: numbers of records.

        Raises:
          DataError: as `Records.read`.
        """
        size = self._stage.phase.batch_size
        numbers = self._stage.first_row + step * size + np.arange(size)[rows]
        epochs, numbers = np.divmod(numbers, self.num_rows)
        for epoch in np.unique(epochs):
            mine = epochs == epoch
            numbers[mine] = self._order(int(epoch))[numbers[mine]]
        return _batch(self._records, numbers)

    def describe(self) -> str:
        """How many examples an epoch has, for people."""
        return f"{self.num_rows:,} examples an epoch, masked as stored"

    def _order(self, epoch: int) -> np.ndarray:
        with self._lock:
            if epoch not in self._orders:
                # Threads that read ahead cross into the next epoch while others finish this.
                kept = sorted(self._orders)[-1:]
                made = _shuffled(self._config, self._stage, epoch, self.num_rows)
                self._orders = {e: self._orders[e] for e in kept} | {epoch: made}
            return self._orders[epoch]


class HeldoutBatches:
    """Held-out examples, each once, the same ones in the same order every time.

    At most `evaluation.num_examples` of them, drawn by the seed. Rows that fill the last of the
    `num_batches` batches repeat a row but have `example_ids` -1 and no weights.
    """

    def __init__(self, config: Config, workdir: Path, tokenizer: Tokenizer, stage: Stage) -> None:
        """As `Batches`; B is `evaluation.batch_size`.

        Raises:
          NothingHeldOut: no held-out record has the lengths of the stage's phase.
        """
        self._records = Records(config, workdir, "heldout", stage.phase, tokenizer.vocab_size)
        drawn = _shuffled(config, stage, 0, len(self._records))
        self._rows = np.sort(drawn[: config.evaluation.num_examples])
        self.batch_size, self.num_examples = config.evaluation.batch_size, len(self._rows)
        self.num_batches = -(-self.num_examples // self.batch_size)
        if not self.num_examples:
            forms = self._records.forms
            field = "config.data.heldout_files"
            if config.data.heldout_files is None:
                field = f"config.data.heldout_fraction={config.data.heldout_fraction}"
            raise NothingHeldOut(index.no_rows(stage.name, stage.phase, forms, field))

    def batch(self, step: int, rows: slice | np.ndarray = slice(None)) -> dict[str, np.ndarray]:
        """Batch number `step` of `num_batches`, in the form of `Batches.batch`."""
        numbers = step * self.batch_size + np.arange(self.batch_size)[rows]
        real = numbers < self.num_examples
        batch = _batch(self._records, self._rows[np.minimum(numbers, self.num_examples - 1)])
        batch["example_ids"][~real] = -1
        batch["masked_lm_weights"][~real] = 0
        return batch


def batch_shapes(phase: Phase) -> dict[str, tuple[int, ...]]:
    """The shape of every array of a phase's batches, all of them int32."""
    size, (length, predictions) = phase.batch_size, index.form_of(phase)
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(_NAMES[:3], (size, length))
    shapes |= dict.fromkeys(_NAMES[3:6], (size, predictions))
    return shapes | dict.fromkeys((_NAMES[6], "example_ids"), (size,))


def as_masked(batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """A batch of these as `masking.mask_tokens` leaves one: its weights become float32."""
    return batch | {"masked_lm_weights": batch["masked_lm_weights"].astype(jnp.float32)}


def _shuffled(config: Config, stage: Stage, epoch: int, count: int) -> np.ndarray:
    order = np.arange(count, dtype=np.int32)
    generator(config, stage.phase_index, epoch, _ORDER).shuffle(order)
    return order


def _batch(records: Records, rows: np.ndarray) -> dict[str, np.ndarray]:
    batch = dict(zip(_NAMES, records.read(rows), strict=True))
    batch["next_sentence_labels"] = batch["next_sentence_labels"][:, 0]
    return batch | {"example_ids": rows.astype(np.int32)}
