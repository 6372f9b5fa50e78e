"""(config, store, step) -> host batch, and Grain to read ahead.

The batch of a step is a function of the step: whole, it is assembled in one vectorised read, so
starting anywhere is an index and nothing needs saving. The nominal length of an epoch is the
number of examples of epoch 0, cut to whole batches: the draws of another epoch may give a few
more examples, of which the last in its order are left out, or a few fewer, and then its first
ones come twice. (A share of some 1 / sqrt(examples) either way.)
"""

import threading

import grain
import numba
import numpy as np

from bertjax.config import Config, Phase
from bertjax.data import examples
from bertjax.errors import DataError

_PAIRS, _ORDER = range(2)  # what a generator is for


class Batches:
    """The training batches of one phase.

    Epochs are built when a batch first needs them and the two latest are kept: 25 bytes an
    example each (index and order), and building one holds 21 bytes a sentence of address space
    for a moment. Safe to use from several threads.

    With `masking.static_patterns=k`, epoch e has the examples of epoch e % k and says so in
    `epochs`, so their masks repeat as well; only the order is new.
    """

    def __init__(self, store, tokenizer, config: Config, phase: Phase, phase_index: int):
        """Builds epoch 0 for its number of examples.

        Args:
          store: `tokens`, `sentences`, `documents` of the train split.
          tokenizer: gives `cls_id`, `sep_id`, `pad_id` and `vocab_size`.
          phase: sequence length L and batch size B.
          phase_index: place of `phase` in the run; each phase draws its own examples.

        Raises:
          DataError: one document where next-sentence prediction needs two, or fewer examples
            than the batch has rows.
        """
        self.sequence_length, self.batch_size = phase.sequence_length, phase.batch_size
        self._config, self._phase_index = config, phase_index
        self._store, self._tokenizer = store, tokenizer
        self._patterns = config.masking.static_patterns
        self._epochs, self._lock = {}, threading.Lock()
        _require_documents(store, config, "train", "add documents")
        self.num_examples = len(self._epoch(0)[0])
        if self.num_examples < self.batch_size:
            raise DataError(
                f"the train documents give {self.num_examples} examples of "
                f"{self.sequence_length} tokens, fewer than batch_size={self.batch_size}: "
                "lower the phase's batch_size or add documents"
            )
        self.batches_per_epoch = self.num_examples // self.batch_size

    def batch(self, step: int, rows: slice = slice(None)) -> dict[str, np.ndarray]:
        """The batch of `step`, counted from the start of the phase.

        Args:
          rows: the part of the global batch that this process holds.

        Returns:
          int32: `input_ids` ([CLS] A [SEP] B [SEP] and padding), `token_type_ids`,
          `attention_mask` [B, L]; `next_sentence_labels` (1 = random), `example_ids`,
          `epochs` [B].

        Raises:
          DataError: a token id beyond the vocabulary.
        """
        epoch, step_in_epoch = divmod(step, self.batches_per_epoch)
        index, order = self._epoch(epoch)
        places = step_in_epoch * self.batch_size + np.arange(self.batch_size)[rows]
        batch = _assemble(self._store, self._tokenizer, index, order[places % len(index)],
                          self.sequence_length)  # fmt: skip
        return batch | {"epochs": np.full(len(places), self._pattern(epoch), np.int32)}

    def _pattern(self, epoch):
        return epoch % self._patterns if self._patterns else epoch

    def _epoch(self, epoch):
        with self._lock:
            if epoch not in self._epochs:
                index = _index(self._store, self._config, self.sequence_length,
                               self._phase_index, self._pattern(epoch))  # fmt: skip
                order = _order(self._config, self._phase_index, epoch, len(index))
                # Threads that read ahead cross into the next epoch while others finish this.
                kept = sorted(self._epochs)[-1:]
                self._epochs = {e: self._epochs[e] for e in kept} | {epoch: (index, order)}
            return self._epochs[epoch]


class HeldoutBatches:
    """Held-out examples, each once, the same ones in the same order and epoch 0 every time.

    At most `evaluation.num_examples` of them, spread over all documents. Rows that fill the
    last of the `num_batches` batches repeat an example but have `example_ids` -1: masking gives
    them no predictions, and what counts sequences must leave them out.
    """

    def __init__(self, store, tokenizer, config: Config, phase: Phase, phase_index: int):
        """As `Batches`, of the held-out split; B is `evaluation.batch_size`.

        Raises:
          DataError: no documents, or one where next-sentence prediction needs two.
        """
        _require_documents(store, config, "held-out", "raise data.heldout_fraction")
        self.sequence_length, self.batch_size = phase.sequence_length, config.evaluation.batch_size
        self._store, self._tokenizer = store, tokenizer
        self._index = _index(store, config, self.sequence_length, phase_index, 0)
        order = _order(config, phase_index, 0, len(self._index))
        self._order = order[: config.evaluation.num_examples]
        self.num_examples = len(self._order)
        self.num_batches = -(-self.num_examples // self.batch_size)

    def batch(self, step: int, rows: slice = slice(None)) -> dict[str, np.ndarray]:
        """Batch number `step` of `num_batches`, in the form of `Batches.batch`."""
        places = step * self.batch_size + np.arange(self.batch_size)[rows]
        ids = self._order[np.minimum(places, self.num_examples - 1)]
        batch = _assemble(self._store, self._tokenizer, self._index, ids, self.sequence_length)
        batch["example_ids"][places >= self.num_examples] = -1
        return batch | {"epochs": np.zeros(len(places), np.int32)}


def iterate(
    batches, start: int, stop: int, *, rows: slice = slice(None), prefetch: int
) -> grain.DatasetIterator:
    """Batches `start` to `stop - 1` in order, `prefetch` of them assembled ahead by threads.

    Reading ahead starts at once. Call `close()` on the iterator to end its threads early.
    """
    dataset = grain.MapDataset.range(start, stop).map(lambda step: batches.batch(step, rows))
    options = grain.ReadOptions(num_threads=min(prefetch, 4), prefetch_buffer_size=prefetch)
    iterator = iter(dataset.to_iter_dataset(options))
    iterator.start_prefetch()
    return iterator


def _require_documents(store, config, split, fix):
    count = len(store.documents) - 1
    needed = 2 if config.objective.nsp else 1
    if count < needed:
        why = " (next-sentence prediction pairs two; objective.nsp=0 turns it off)"
        raise DataError(
            f"the {split} split has {count} document{'s' * (count != 1)} where {needed} "
            f"{'are' if needed > 1 else 'is'} needed{why * (needed > 1)}: {fix}"
        )


def _rng(config, phase_index, epoch, purpose):
    seeds = np.random.SeedSequence((config.seed, phase_index, epoch, purpose))
    return np.random.Generator(np.random.Philox(seeds))


def _index(store, config, sequence_length, phase_index, epoch):
    return examples.build_index(
        store,
        sequence_length=sequence_length,
        short_seq_prob=config.examples.short_seq_prob,
        rng=_rng(config, phase_index, epoch, _PAIRS),
    )


def _order(config, phase_index, epoch, count):
    """A permutation of the example ids, 4 bytes each."""
    order = np.arange(count, dtype=np.int32)
    _rng(config, phase_index, epoch, _ORDER).shuffle(order)
    return order


def _assemble(store, tokenizer, index, ids, sequence_length):
    """The rows of the examples `ids` [B] of `index`: all of a batch but `epochs`."""
    shape = len(ids), sequence_length
    input_ids, token_type_ids, attention_mask = (np.empty(shape, np.int32) for _ in range(3))
    largest = _fill(
        np.asarray(store.tokens),
        index.a_start[ids], index.a_length[ids], index.b_start[ids], index.b_length[ids],
        tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id,
        input_ids, token_type_ids, attention_mask,
    )  # fmt: skip
    if largest >= tokenizer.vocab_size:  # a device would clamp it in silence
        raise DataError(
            f"the store has token id {largest}, but the vocabulary has {tokenizer.vocab_size} "
            "tokens: the store is damaged or another tokenizer made it; run `bertjax prepare` again"
        )
    return {
        "input_ids": input_ids,
        "token_type_ids": token_type_ids,
        "attention_mask": attention_mask,
        "next_sentence_labels": index.is_random[ids].astype(np.int32),
        "example_ids": ids.astype(np.int32),
    }


@numba.njit(cache=True, nogil=True)
def _fill(
    tokens, a_start, a_length, b_start, b_length, cls_id, sep_id, pad_id,
    input_ids, token_type_ids, attention_mask,
):  # fmt: skip
    """Writes every element of the last three, and returns the largest token id read."""
    largest = 0
    for row in range(len(a_start)):
        a, b = a_start[row], b_start[row]
        first_sep = 1 + a_length[row]
        last_sep = first_sep + 1 + b_length[row]
        ids = input_ids[row]
        ids[0], ids[first_sep], ids[last_sep] = cls_id, sep_id, sep_id
        ids[last_sep + 1 :] = pad_id
        for i in range(1, first_sep):
            token = tokens[a + i - 1]
            ids[i], largest = token, max(largest, token)
        for i in range(first_sep + 1, last_sep):
            token = tokens[b + i - first_sep - 1]
            ids[i], largest = token, max(largest, token)
        token_type_ids[row] = 0
        token_type_ids[row, first_sep + 1 : last_sep + 1] = 1
        attention_mask[row, : last_sep + 1] = 1
        attention_mask[row, last_sep + 1 :] = 0
    return largest
