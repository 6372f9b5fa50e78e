"""Pretraining as a job: a store of text, masks, masked-LM and next-sentence terms."""

import dataclasses
import functools
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.experimental import multihost_utils

from bertjax import config as config_lib
from bertjax import evaluate as evaluation
from bertjax import initial, keys, loop, models, objectives, optimizer, sharding, storage, train
from bertjax.config.stages import Stage
from bertjax.data import corpus, identity, mask_weights, masking, pipeline, prepare, store
from bertjax.data import tokenizer as tokenizer_lib
from bertjax.data.tokenizer_base import Tokenizer
from bertjax.errors import DataError, UsageError
from bertjax.job import Batch, Terms, Verdict
from bertjax.metrics import flops
from bertjax.models.placement import Placement
from bertjax.processes import distributed


@dataclasses.dataclass(frozen=True)
class Pretraining:
    """The job (`job.Job`) of masked-LM and next-sentence training on the stores of `directory`.

    Attributes:
      config: resolved, as `open` returns it.
      tokenizer: None where no batch is masked.
      directory: W; None where no batch is read.
    """

    config: config_lib.Config
    tokenizer: Tokenizer = None  # type: ignore[assignment]
    directory: Path = None  # type: ignore[assignment]
    frozen: dict = dataclasses.field(default_factory=dict)

    @property
    def program(self) -> str:
        return repr(self.config)

    def settings(self, frozen: dict) -> optimizer.Settings:
        return optimizer.settings(self.config)

    def init(self, key: jax.Array) -> dict:
        return models.init(self.config.model, key)

    def apply(
        self, params: dict, batch: Batch, *, dropout_key: jax.Array | None, placement: Placement
    ) -> dict:
        return models.apply(
            self.config.model, params, batch, dropout_key=dropout_key, placement=placement
        )

    def start(self, params: dict) -> tuple[dict, list[str]]:
        """As `initial.read` and `initial.fit`, which say what is raised."""
        if self.config.init_from is None:
            return params, []
        source = initial.read(self.config)
        params, missing = initial.fit(self.config, source, params, self.tokenizer)
        random = f"; at random: {', '.join(missing)}" if missing else ""
        return params, [f"weights of {self.config.init_from}{random}"]

    def batches(self, stage: Stage) -> pipeline.Batches:
        stores = open_stores(self.config, self.directory, "train")
        return pipeline.Batches(stores, self.tokenizer, self.config, stage)

    def heldout(self, stage: Stage) -> pipeline.HeldoutBatches:
        stores = open_stores(self.config, self.directory, "heldout")
        return pipeline.HeldoutBatches(stores, self.tokenizer, self.config, stage)

    def shapes(self, stage: Stage) -> dict[str, tuple[int, ...]]:
        return pipeline.batch_shapes(self.config, stage.phase)

    def prepare(self, stage: Stage) -> Callable[[Batch], Batch]:
        """How a stage masks; raises as `mask_weights.read`."""
        return functools.partial(
            masking.mask_tokens,
            keys.mask(self.config.seed, stage.phase_index),
            tokenizer=self.tokenizer,
            masking=self.config.masking,
            max_predictions_per_seq=stage.phase.max_predictions_per_seq,
            num_components=len(self.config.weights),
            weights=mask_weights.read(self.config, self.directory),
        )

    def targets(self, frozen: dict, batch: Batch) -> Batch:
        return batch

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        """The predictions, and the examples that have a next-sentence label.

        Examples whose id is negative are padding and weigh nothing (masking leaves them whole, so
        they have no masked-LM weights). In packed rows every example has its own next-sentence
        loss: labels and ids are `[B, E]` then, and logits `[B, E, 2]`.
        """
        predictions = jnp.sum(batch["masked_lm_weights"])
        weights = {"mlm_loss": predictions, "mlm_accuracy": predictions}
        if "next_sentence_labels" in batch:
            examples = jnp.sum(_is_real(batch))
            weights |= {"nsp_loss": examples, "nsp_accuracy": examples}
        return weights

    def sums(self, outputs: dict, batch: Batch) -> dict[str, jax.Array]:
        """Losses in nats and correct predictions, of whatever the model's head gives logits for."""
        args = outputs["masked_lm_logits"], batch["masked_lm_ids"], batch["masked_lm_weights"]
        sums = {"mlm_loss": objectives.loss(*args), "mlm_accuracy": objectives.correct(*args)}
        if "next_sentence_logits" in outputs and "next_sentence_labels" in batch:
            logits, labels = outputs["next_sentence_logits"], batch["next_sentence_labels"]
            args = logits, labels, _is_real(batch)
            sums |= {"nsp_loss": objectives.loss(*args), "nsp_accuracy": objectives.correct(*args)}
        return sums

    def rows(self, outputs: dict, batch: Batch) -> dict:
        """Nothing: all figures are means."""
        return {}

    def figures(self, totals: Terms, rows: dict) -> dict[str, float]:
        """The means, and `perplexity` = exp(mlm_loss)."""
        values = {name: float(value) for name, value in objectives.means(totals).items()}
        return values | {"perplexity": math.exp(min(values["mlm_loss"], 700.0))}

    def judge(self, evaluations: dict[int, dict[str, float]]) -> Verdict:
        """Training goes on, and the last weights count."""
        return Verdict()

    def flops(self, stage: Stage) -> int:
        phase = stage.phase
        return flops.model_flops_per_step(
            self.config.model,
            phase.batch_size,
            phase.sequence_length,
            phase.max_predictions_per_seq,
        )


def _is_real(batch: Batch) -> jax.Array:
    return (batch["example_ids"] >= 0).astype(jnp.float32)


def pretrain(config: config_lib.Config, directory: Path, started: float | None = None) -> None:
    """Pretrains in `directory` to the last step, from wherever that directory stands.

    Prepares the text first where `directory/store` is missing.

    Args:
      started: when this run began, by `time.monotonic`; now, if not given.

    Raises:
      Preempted: a signal asked to stop; the state is saved and the same call goes on.
      NonFiniteError: too many updates in a row were not finite.
      UsageError, DataError, StorageError: as the config, the corpus, the checkpoints and the
        disk give reason to.
    """
    started = time.monotonic() if started is None else started
    train.check(config, sharding.make_mesh(config.mesh))  # before hours of preparation
    with distributed.alone(directory, "pretrain"):
        store_path = storage.path(directory) / "store"
        if jax.process_index() == 0 and not storage.is_directory(store_path):
            initial.check(config, directory)
        loop.run(open(config, directory, build=True), directory, started)


def evaluate(config: config_lib.Config, directory: Path) -> dict[str, float]:
    """As `evaluate.newest`, of a run in `directory`; raises as `open`."""
    return evaluation.newest(open(config, directory, build=False), directory)


def open(config: config_lib.Config, directory: Path, *, build: bool) -> Pretraining:
    """The job of a config that fits `W/store`, which is made first where it is missing and may be.

    Its config is resolved: what it leaves unset of `model.vocab_size` and of where the text is, as
    the store has it. With `build`, the caller holds W's lock.

    Raises:
      DataError: no store (and `build` is False), or one that was made of another text, by another
        tokenizer or for another mixture than the config asks for; the message names the fields.
      UsageError: `model.vocab_size` is smaller than the tokenizer's, or the model has no head to
        predict masked tokens with.
    """
    if not config.model.has_masked_lm:
        raise UsageError(
            f"config.model.head={config.model.head!r}: predicts no masked tokens; "
            "take pretraining or masked_lm"
        )
    if build:
        _prepare_if_missing(config, directory)
    places = _store_directories(config, directory)
    manifests = {name: store.read_manifest(place) for name, place in places.items()}
    tokenizer = tokenizer_lib.load(storage.path(directory) / "tokenizer")
    _check_tokenizer(tokenizer, manifests, places, directory)
    if jax.process_index() == 0:  # other hosts need not have the text
        _require_same(config, storage.path(directory) / "store", manifests)
    return Pretraining(_resolved(config, manifests, tokenizer), tokenizer, directory)


def _prepare_if_missing(config: config_lib.Config, directory: Path) -> None:
    place = storage.path(directory) / "store"
    if jax.process_index() == 0 and not store.components(place):
        prepare.prepare(config, directory, locked=True)
    distributed.wait_for_all("store")  # which process 0 may take hours to make
    multihost_utils.sync_global_devices("store")  # connects devices while all are here
    if jax.process_index() != 0 and not store.components(place):
        raise DataError(
            f"{place}: not seen by process {jax.process_index()}, though process 0 has it; "
            "with several hosts take a --workdir that all see: gs://..., or a shared disk"
        )


def _check_tokenizer(
    tokenizer: Tokenizer, manifests: dict[str, dict], places: dict[str, Path], directory: Path
) -> None:
    for name, manifest in manifests.items():
        if tokenizer.sha256 != manifest["tokenizer_sha256"]:
            raise DataError(
                f"{places[name]}: made with another tokenizer than {directory}/tokenizer holds; "
                "run bertjax prepare again"
            )


def _require_same(config: config_lib.Config, directory: Path, manifests: dict[str, dict]) -> None:
    """Raises where a config asks for other stores than there are; says what could not be told."""
    found = identity.Findings()
    for part in corpus.of(config):
        identity.compare(part.place, part.data, manifests[part.name], found)
    # One tokenizer made all of them.
    identity.compare_tokenizer(config.tokenizer, next(iter(manifests.values())), found)
    if found.differences:
        raise DataError(
            f"{directory}: not what the config asks for: {'; '.join(found.differences)}; "
            "run bertjax prepare again with this config, or take another --workdir"
        )
    for note in found.notes:
        print(f"{directory}: {note}", file=sys.stderr, flush=True)


def _resolved(
    config: config_lib.Config, manifests: dict[str, dict], tokenizer: Tokenizer
) -> config_lib.Config:
    """The config with what it leaves open, or says and nobody reads, as the stores have it."""
    size = config.model.vocab_size or tokenizer.vocab_size
    if size < tokenizer.vocab_size:
        raise UsageError(
            f"config.model.vocab_size={size}: the store has token ids up to "
            f"{tokenizer.vocab_size - 1}; set it to {tokenizer.vocab_size}, or to 0"
        )
    cut = tokenizer_lib.resolved(config.tokenizer, tokenizer)
    config = dataclasses.replace(config.with_model(vocab_size=size), tokenizer=cut)
    if not config.mixture:
        return dataclasses.replace(config, data=identity.filled(config.data, manifests[""]))
    mixture = {
        name: dataclasses.replace(part, data=identity.filled(part.data, manifests[name]))
        for name, part in config.mixture.items()
    }
    return dataclasses.replace(config, mixture=mixture)


def open_stores(config: config_lib.Config, directory: Path, split: str) -> list[store.Store]:
    """One split ("train" or "heldout") of everything that a run reads.

    Returns:
      A store for each component of `config.mixture`, in its order (by name); one without a
      mixture.

    Raises:
      DataError: a store is missing or damaged, or `W/store` was made for another mixture.
    """
    places = _store_directories(config, directory).values()
    return [store.open_store(place, split) for place in places]


def _store_directories(config: config_lib.Config, workdir: Path) -> dict[str, Path]:
    """Where the store of each component is; refused where W/store was made of others."""
    directory = storage.path(workdir) / "store"
    held, wanted = store.components(directory), [part.name for part in corpus.of(config)]
    if held and not set(wanted) <= set(held):
        raise DataError(
            f"{directory}: holds {_named(held)}, the config reads {_named(wanted)}; "
            "run bertjax prepare again with this config, or take another --workdir"
        )
    return {name: directory / name for name in wanted}


def _named(components: list[str]) -> str:
    return "one corpus" if components == [""] else f"a mixture of {', '.join(components)}"
