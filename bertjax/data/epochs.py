"""The examples of one corpus in each epoch, and the rows that hold them."""

import threading
from typing import Any, NamedTuple

import numpy as np

from bertjax.config import Config, stages
from bertjax.config.stages import Stage
from bertjax.data import mask_counts, packing
from bertjax.data.examples import Index, build_index
from bertjax.data.store import Store
from bertjax.errors import DataError, NothingHeldOut

_EXAMPLES, _ORDER = range(2)  # uses of a generator: part of its seed

# A little over half of BERT's pairs are random. Above 19 in 20, a model that always answers
# "random" is hardly worse, and the entropy of the label is below 0.2 nats (of 0.69 at one half).
MOST_RANDOM = 0.95
FEWEST_LABELS = 100  # with fewer, all labels may be random by chance: no check
MANY_RANDOM = 2 / 3

# Split -> its name in messages, and the fix for a split that is too small.
_SPLITS = {
    "train": ("train", "add documents"),
    "heldout": ("held-out", "raise config.data.heldout_fraction and prepare again"),
}


class _Epoch(NamedTuple):
    examples: Index
    members: np.ndarray  # [n] int32, example ids in the order of the rows
    first: np.ndarray | None  # [R + 1]: row r has members[first[r] : first[r + 1]]; None: 1 a row

    @property
    def num_rows(self) -> int:
        return len(self.members) if self.first is None else len(self.first) - 1


class Epochs:
    """The rows of one component in every epoch of a phase.

    An epoch is built at its first use, and the two latest epochs stay in memory: 33 bytes a pair
    each (index and order). The class is safe to use from several threads.

    The nominal length of every epoch is the number of rows of epoch 0. The random draws of another
    epoch may give a few more rows or a few fewer, a share of about 1 / sqrt(examples). If there are
    more, the last rows in the epoch's order are left out; if fewer, its first rows come twice.

    With `masking.static_patterns=k`, epoch e has the examples of epoch e % k. `pattern` returns
    that number, so the masks repeat as well. Only the order is new.

    Attributes:
      store: the corpus.
      num_rows: rows R of an epoch.
      num_examples: examples in epoch 0.
      random_share: share of the next-sentence labels of epoch 0 that are "random"; None without
        such labels.
    """

    def __init__(
        self,
        store: Store,
        config: Config,
        stage: Stage | None = None,
        *,
        split: str = "train",
        component: int = 0,
        most: int | None = None,
    ) -> None:
        """Builds epoch 0.

        Args:
          store: `tokens`, `sentences`, `documents`.
          stage: gives the phase and its sequence length; None means the first stage of the run.
          split: the split of `store`, "train" or "heldout"; decides the fix that an error names.
          component: number of the corpus in the mixture; each component draws its own examples.
          most: the largest number of examples to take, the first ones in the epoch's order.

        Raises:
          DataError: `store` has no documents, or only one and next-sentence prediction needs two.
        """
        self.store, self._config = store, config
        self._stage = stage or stages.of(config)[0]
        self._component, self._most = component, most
        self._patterns = config.masking.static_patterns
        self._epochs, self._lock = {}, threading.Lock()
        _require_documents(store, config, split)
        first = self._epoch(0)
        self.num_rows, self.num_examples = first.num_rows, len(first.members)
        labels = first.examples.is_random
        self.random_share = None if labels is None else float(labels.mean())

    def pattern(self, epoch: int) -> int:
        """The epoch whose examples and masks `epoch` repeats."""
        return epoch % self._patterns if self._patterns else epoch

    def index(self, epoch: int) -> Index:
        """The examples of an epoch."""
        return self._epoch(epoch).examples

    def examples(self, epoch: int, rows: np.ndarray) -> np.ndarray:
        """Ids of the examples in `rows` [n] of an epoch: [n, E] int32, -1 in unused slots."""
        _, members, first = built = self._epoch(epoch)
        rows = rows % built.num_rows
        if first is None:
            return members[rows][:, None]
        slots = first[rows][:, None] + np.arange(self._config.examples.max_per_row)
        ids = members[np.minimum(slots, len(members) - 1)]
        return np.where(slots < first[rows + 1][:, None], ids, np.int32(-1))

    def describe(self) -> str:
        """The size of epoch 0 and how full its rows are, as text."""
        epoch, length = self._epoch(0), self._stage.phase.sequence_length
        tokens = int(epoch.examples.lengths()[epoch.members].sum())
        text = f"{len(epoch.members):,} examples an epoch, "
        if epoch.first is not None:
            per_row = len(epoch.members) / epoch.num_rows
            alone = tokens / (len(epoch.members) * length)
            text += f"{per_row:.2f} packed into a row, {alone:.1%} full alone, "
        text += f"rows {tokens / (epoch.num_rows * length):.1%} full"
        if self.random_share is None or not self._config.objective.nsp:
            return text
        text += f', {self.random_share:.1%} of the next-sentence labels "random"'
        if self.random_share > MANY_RANDOM:
            text += " (WARNING: near 50% where documents have sentences enough for two segments)"
        return text

    def _epoch(self, epoch: int) -> _Epoch:
        with self._lock:
            if epoch not in self._epochs:
                built = self._build(epoch)
                # Threads that read ahead enter the next epoch while others finish this one.
                kept = sorted(self._epochs)[-1:]
                self._epochs = {e: self._epochs[e] for e in kept} | {epoch: built}
            return self._epochs[epoch]

    def _build(self, epoch: int) -> _Epoch:
        config, phase, numbers = self._config, self._stage.phase, (self._stage.phase_index, epoch)
        rng = generator(config, numbers[0], self.pattern(epoch), _EXAMPLES, self._component)
        index = build_index(
            self.store, config.examples, sequence_length=phase.sequence_length, rng=rng
        )
        order = np.arange(len(index), dtype=np.int32)
        generator(config, *numbers, _ORDER, self._component).shuffle(order)
        order = order[: self._most]
        if config.examples.max_per_row == 1:
            return _Epoch(index, order, None)
        lengths, predictions = index.lengths()[order], phase.max_predictions_per_seq
        most = mask_counts.largest_counts(phase.sequence_length, config.masking, predictions)
        members, first = packing.pack(
            order,
            lengths,
            most[lengths],
            sequence_length=phase.sequence_length,
            max_predictions=predictions,
            max_per_row=config.examples.max_per_row,
        )
        return _Epoch(index, members, first)


def require_labels(corpora: list[Epochs], config: Config) -> None:
    """Raises DataError if nearly all next-sentence labels are "random": they teach nothing."""
    if not config.objective.nsp or sum(part.num_examples for part in corpora) < FEWEST_LABELS:
        return
    weights = list(config.weights.values())
    shares: list[Any] = [corpus.random_share for corpus in corpora]
    share = np.average(shares, weights=weights)
    if share > MOST_RANDOM:
        raise DataError(
            f'{share:.1%} of the next-sentence labels are "random", because documents have one '
            "sentence, or sentences as long as an example: such labels teach nothing; keep the "
            "sentences of a text in one document and prepare again, or set config.objective.nsp=0 "
            "and config.examples.builder=full_sentences"
        )


def generator(config: Config, *numbers: int) -> np.random.Generator:
    """The host's generator for the numbers of one use: a function of them and of `config.seed`."""
    seeds = np.random.SeedSequence((config.seed, *numbers))
    return np.random.Generator(np.random.Philox(seeds))


def _require_documents(store: Store, config: Config, split: str) -> None:
    name, fix = _SPLITS[split]
    count = len(store.documents) - 1
    needed = 2 if config.objective.nsp else 1
    if count < needed:
        why = " (next-sentence prediction pairs two; objective.nsp=0 turns it off)"
        kind = NothingHeldOut if split == "heldout" else DataError
        raise kind(
            f"the {name} split has {count} document{'s' * (count != 1)} where {needed} "
            f"{'are' if needed > 1 else 'is'} needed{why * (needed > 1)}: {fix}"
        )
