"""(config, stores, step) -> host batch, and Grain to read ahead.

The batch of a step is a function of the step: whole, it is assembled in one vectorized read, so
starting anywhere is an index and nothing needs saving. Rows are numbered through a whole phase,
and a batch may hold the end of one epoch and the start of the next.
"""

from typing import Any

import grain
import numpy as np

from bertjax.config import Config, Phase, stages
from bertjax.config.stages import Stage
from bertjax.data import remote
from bertjax.data import rows as row_lib
from bertjax.data.epochs import Epochs, generator, require_labels
from bertjax.data.mixture import Mixture
from bertjax.data.tokenizer_base import Tokenizer
from bertjax.errors import DataError

_MIXTURE = 2  # what a generator is for; `epochs` has 0 and 1


class Batches:
    """The training batches of one stage. Safe to use from several threads.

    Attributes:
      num_rows: rows of an epoch, of all components.
    """

    def __init__(
        self, corpora: list, tokenizer: Tokenizer, config: Config, stage: Stage | None = None
    ) -> None:
        """Builds epoch 0 of every component, for its number of rows.

        Args:
          corpora: the stores of the train split, one for each component of `config.mixture`
            (one without a mixture): `tokens`, `sentences`, `documents`.
          tokenizer: gives `cls_id`, `sep_id`, `pad_id` and `vocab_size`.
          stage: sequence length L, batch size B, and the rows that earlier stages have read; None
            takes the run's first.

        Raises:
          DataError: no documents, or one where next-sentence prediction needs two; or nearly all
            its labels are alike.
        """
        stage = stage or stages.of(config)[0]
        self._corpora = [
            Epochs(corpus, config, stage, component=number) for number, corpus in enumerate(corpora)
        ]
        require_labels(self._corpora, config)
        self._sizes = np.array([corpus.num_rows for corpus in self._corpora])
        self.num_rows = int(self._sizes.sum())
        self._mixture = Mixture(
            list(config.weights.values()),
            lambda block: generator(config, stage.phase_index, block, _MIXTURE),
        )
        self._assembler = _Assembler(self._corpora, tokenizer, config, stage)
        self._names, self._stage = list(config.weights), stage

    def batch(self, step: int, rows: slice | np.ndarray = slice(None)) -> dict[str, np.ndarray]:
        """The batch of `step`, counted from the start of the stage.

        Args:
          rows: the part of the global batch that this process holds.

        Returns:
          int32: `input_ids` ([CLS], then each part of the example and a [SEP], then padding),
          `token_type_ids`, `attention_mask` [B, L]; `mask_epochs` [B], the epoch whose masks a row
          has: the passes over its corpus before this one (with static masking, `Epochs.pattern`
          of them); of a mixture, `components` [B], the number of its corpus; `example_ids` [B]
          and, for pairs, `next_sentence_labels` [B] (1 = random).

          With `examples.max_per_row` = E > 1, `example_ids` and `next_sentence_labels` are
          [B, E], -1 and 0 where a row has fewer; `cls_positions` [B, E]; `segment_ids` [B, L] is
          1 to E, 0 for padding; `position_ids` [B, L] start anew in each example.

        Raises:
          DataError: a token id beyond the vocabulary.
        """
        size = self._stage.phase.batch_size
        numbers = self._stage.first_row + step * size + np.arange(size)[rows]
        components, numbers = self._mixture.locate(numbers)
        epochs, numbers = np.divmod(numbers, self._sizes[components])
        return self._assembler.batch(components, epochs, numbers)

    def describe(self) -> str:
        """How many examples an epoch has and how full the rows are, for people."""
        texts = [corpus.describe() for corpus in self._corpora]
        named = zip(self._names, texts, strict=True)
        return "; ".join(f"{name}: {text}" if name else text for name, text in named)


class HeldoutBatches:
    """Held-out examples, each once, the same ones in the same order and epoch 0 every time.

    At most `evaluation.num_examples` of them, spread over all documents, and over the components
    of a mixture by weight; the same ones packed or not. Rows that fill the last of the
    `num_batches` batches repeat a row but have `example_ids` -1: masking gives them no
    predictions, and what counts sequences must leave them out.
    """

    def __init__(
        self, corpora: list, tokenizer: Tokenizer, config: Config, stage: Stage | None = None
    ) -> None:
        """As `Batches`, of the held-out split; B is `evaluation.batch_size`.

        Raises:
          DataError: no documents, or one where next-sentence prediction needs two.
        """
        stage = stage or stages.of(config)[0]
        weights = np.array(list(config.weights.values()))
        most = np.ceil(weights / weights.sum() * config.evaluation.num_examples).astype(int)
        self._corpora = [
            Epochs(corpus, config, stage, split="heldout", component=number, most=most[number])
            for number, corpus in enumerate(corpora)
        ]
        self._assembler = _Assembler(self._corpora, tokenizer, config, stage)
        self.batch_size = config.evaluation.batch_size
        self.num_examples = sum(corpus.num_examples for corpus in self._corpora)
        self._ends = np.cumsum([corpus.num_rows for corpus in self._corpora])
        self.num_batches = -(-int(self._ends[-1]) // self.batch_size)

    def batch(self, step: int, rows: slice | np.ndarray = slice(None)) -> dict[str, np.ndarray]:
        """Batch number `step` of `num_batches`, in the form of `Batches.batch`."""
        numbers = step * self.batch_size + np.arange(self.batch_size)[rows]
        real = numbers < self._ends[-1]
        numbers = np.minimum(numbers, self._ends[-1] - 1)
        components = np.searchsorted(self._ends, numbers, "right")
        numbers = numbers - np.concatenate([[0], self._ends])[components]
        batch = self._assembler.batch(components, np.zeros_like(numbers), numbers)
        batch["example_ids"][~real] = -1
        return batch


def iterate(
    batches: Any, start: int, stop: int, *, rows: slice | np.ndarray = slice(None), prefetch: int
) -> grain.DatasetIterator:
    """Batches `start` to `stop - 1` in order, `prefetch` of them assembled ahead by threads.

    Reading ahead starts at once. Call `close()` on the iterator to end its threads early.
    """
    dataset = grain.MapDataset.range(start, stop).map(lambda step: batches.batch(step, rows))
    options = grain.ReadOptions(num_threads=min(prefetch, 4), prefetch_buffer_size=prefetch)
    iterator = iter(dataset.to_iter_dataset(options))
    iterator.start_prefetch()
    return iterator


def batch_shapes(config: Config, phase: Phase) -> dict[str, tuple[int, ...]]:
    """The shape of every array of a phase's batches, all of them int32."""
    return _shapes(config, phase.batch_size, phase.sequence_length)


def _shapes(config: Config, size: int, length: int) -> dict[str, tuple[int, ...]]:
    packed = config.examples.max_per_row > 1
    slots = (size, config.examples.max_per_row) if packed else (size,)
    tokens = ("input_ids", "token_type_ids", "attention_mask")
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(tokens, (size, length)) | {
        "example_ids": slots,
        "mask_epochs": (size,),
    }
    if len(config.weights) > 1:
        shapes["components"] = (size,)
    if config.examples.has_next_sentence:
        shapes["next_sentence_labels"] = slots
    if packed:
        shapes |= {"segment_ids": (size, length), "position_ids": (size, length)}
        shapes["cls_positions"] = slots
    return shapes


class _Assembler:
    """Makes a batch of rows that are given by component, epoch and number."""

    def __init__(
        self, corpora: list[Epochs], tokenizer: Tokenizer, config: Config, stage: Stage
    ) -> None:
        self._corpora, self._tokenizer, self._config = corpora, tokenizer, config
        shapes = _shapes(config, 1, stage.phase.sequence_length)
        self._rows = {name: row for name, (_, *row) in shapes.items()}
        self._is_pair = config.examples.has_next_sentence

    def batch(
        self, components: np.ndarray, epochs: np.ndarray, numbers: np.ndarray
    ) -> dict[str, np.ndarray]:
        """The rows `numbers` [B] of `epochs` [B] of `components` [B]."""
        batch = self._empty(len(numbers))
        for component in _distinct(components):
            corpus, mine = self._corpora[component], components == component
            for epoch in _distinct(epochs[mine]):
                places = np.flatnonzero(mine & (epochs == epoch))
                self._fill(batch, places, corpus, epoch, numbers[places])
                batch["mask_epochs"][places] = corpus.pattern(epoch)
        if "components" in batch:
            batch["components"][:] = components
        return batch

    def _empty(self, size: int) -> dict[str, np.ndarray]:
        return {name: np.empty((size, *row), np.int32) for name, row in self._rows.items()}

    def _fill(
        self,
        batch: dict[str, np.ndarray],
        places: np.ndarray,
        corpus: Epochs,
        epoch: int,
        numbers: np.ndarray,
    ) -> None:
        """Writes the rows `places` [n] of a batch: the rows `numbers` [n] of an epoch."""
        index, examples = corpus.index(epoch), corpus.examples(epoch, numbers)
        tokens, parts, numbers = corpus.store.tokens, index, examples
        starts = parts.part_start
        if isinstance(tokens, remote.Tokens):
            parts, numbers = index.select(examples)
            tokens, starts = tokens.gather(parts.part_start, parts.part_length)
        tokenizer = self._tokenizer
        unused = np.empty((0, 0), np.int32)
        ranges = np.asarray(tokens), starts, parts.part_length, parts.first_part
        row_lib.touch(*ranges, numbers)
        largest = row_lib.write(
            *ranges,
            numbers,
            places,
            self._is_pair,
            tokenizer.cls_id,
            tokenizer.sep_id,
            tokenizer.pad_id,
            batch["input_ids"],
            batch["token_type_ids"],
            batch["attention_mask"],
            batch.get("segment_ids", unused),
            batch.get("position_ids", unused),
            batch.get("cls_positions", unused),
        )
        if largest >= tokenizer.vocab_size:  # a device would clamp it in silence
            raise DataError(
                f"the store has token id {largest}, but the vocabulary has {tokenizer.vocab_size} "
                "tokens: the store is damaged or another tokenizer made it; run `bertjax prepare` "
                "again"
            )
        slots = batch["example_ids"][0].shape
        batch["example_ids"][places] = examples.reshape(-1, *slots)
        if index.is_random is not None:
            labels = index.is_random[examples] & (examples >= 0)
            batch["next_sentence_labels"][places] = labels.reshape(-1, *slots)


def _distinct(values: np.ndarray) -> np.ndarray:
    """The different ones of `values` [n], ascending; of a batch there is nearly always one."""
    return values[:1] if (values == values[0]).all() else np.unique(values)
