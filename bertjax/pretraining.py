"""Pretraining as a job: a store of text, masks, masked-LM and next-sentence terms."""

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.experimental import multihost_utils

from bertjax import config as config_lib
from bertjax import evaluate as evaluation
from bertjax import initial, kernels, keys, loop, models, objectives, optimizer, sharding, storage
from bertjax import workdir as workdir_lib
from bertjax.config.stages import Stage
from bertjax.convert.pretrained import Pretrained
from bertjax.data import mask_weights, masking, pipeline, prepare, store, stores
from bertjax.data.tfrecord import batches as stored
from bertjax.data.tokenizer_base import Tokenizer
from bertjax.distill import student, teacher, terms
from bertjax.distill.teacher import Teacher
from bertjax.errors import DataError, UsageError
from bertjax.job import Batch, HeldoutBatches, Terms, Verdict
from bertjax.metrics import flops
from bertjax.metrics.progress import say
from bertjax.models import compute_type
from bertjax.models.placement import Placement
from bertjax.processes import compilation_cache, distributed


@dataclasses.dataclass(frozen=True)
class Pretraining:
    """The job (`job.Job`) of masked-LM and next-sentence training on the stores of `directory`.

    Attributes:
      config: resolved, as `open` returns it.
      tokenizer: None where no batch is masked.
      directory: W; None where no batch is read.
      teacher: what the model learns from beside the text.
    """

    config: config_lib.Config
    tokenizer: Tokenizer = None  # type: ignore[assignment]
    directory: Path = None  # type: ignore[assignment]
    teacher: Teacher | None = None

    @property
    def frozen(self) -> dict:
        return {"teacher": self.teacher.params} if self.teacher else {}

    @property
    def identity(self) -> dict[str, str]:
        return {"teacher": self.teacher.sha256} if self.teacher else {}

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
        model = self.config.model
        outputs: dict = models.apply(
            model, params, batch, dropout_key=dropout_key, placement=placement
        )
        if self.teacher:
            hidden = outputs["hidden"]
            outputs["decoder"] = terms.decoder(self.config, model, params, hidden, batch, placement)
        return outputs

    def start(self, params: dict) -> tuple[dict, list[str]]:
        """As `initial.read` and `initial.fit`, or `student.start`, which say what is raised."""
        lines = terms.notes(self.config, self.teacher) if self.teacher else []
        if self.teacher and self.config.teacher.layers:
            assert self.teacher.source is not None
            source = self.teacher.source
            params, said = student.start(self.config, source, params, self.tokenizer)
            return params, said + lines
        if self.config.init_from is None:
            return params, lines
        source = initial.read(self.config)
        params, missing = initial.fit(self.config, source, params, self.tokenizer)
        random = f"; at random: {', '.join(missing)}" if missing else ""
        return params, [f"weights of {self.config.init_from}{random}", *lines]

    def batches(self, stage: Stage) -> pipeline.Batches | stored.Batches:
        if self.config.data.holds_examples:
            return stored.Batches(self.config, self.directory, self.tokenizer, stage)
        opened = stores.open_split(self.config, self.directory, "train")
        return pipeline.Batches(opened, self.tokenizer, self.config, stage)

    def heldout(self, stage: Stage) -> HeldoutBatches:
        if self.config.data.holds_examples:
            return stored.HeldoutBatches(self.config, self.directory, self.tokenizer, stage)
        opened = stores.open_split(self.config, self.directory, "heldout")
        return pipeline.HeldoutBatches(opened, self.tokenizer, self.config, stage)

    def shapes(self, stage: Stage) -> dict[str, tuple[int, ...]]:
        if self.config.data.holds_examples:
            return stored.batch_shapes(stage.phase)
        return pipeline.batch_shapes(self.config, stage.phase)

    def prepare(self, stage: Stage, *, heldout: bool = False) -> Callable[[Batch], Batch]:
        """How a stage masks, if its examples are not masked; raises as `mask_weights.read`."""
        if self.config.data.holds_examples:
            return stored.as_masked
        rule, share = self.config.masking, self.config.evaluation.masked_lm_prob
        if heldout and share:
            rule = dataclasses.replace(rule, masked_lm_prob=share)
        return functools.partial(
            masking.mask_tokens,
            keys.mask(self.config.seed, stage.phase_index),
            tokenizer=self.tokenizer,
            masking=rule,
            max_predictions_per_seq=stage.phase.max_predictions_per_seq,
            num_components=len(self.config.weights),
            weights=mask_weights.read(self.config, self.directory),
        )

    def targets(self, frozen: dict, batch: Batch, placement: Placement) -> Batch:
        """Of a teacher: as `terms.targets`."""
        if self.teacher is None:
            return batch
        return terms.targets(self.config, self.teacher, frozen["teacher"], batch, placement)

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
        if self.teacher:
            weights |= terms.weights(self.config, self.teacher, batch)
        return weights

    def sums(self, outputs: dict, batch: Batch) -> dict[str, jax.Array]:
        """Losses in nats and correct predictions, of whatever the model's head gives logits for."""
        args = outputs["masked_lm_logits"], batch["masked_lm_ids"], batch["masked_lm_weights"]
        sums = {"mlm_loss": objectives.loss(*args), "mlm_accuracy": objectives.correct(*args)}
        if "next_sentence_logits" in outputs and "next_sentence_labels" in batch:
            logits, labels = outputs["next_sentence_logits"], batch["next_sentence_labels"]
            args = logits, labels, _is_real(batch)
            sums |= {"nsp_loss": objectives.loss(*args), "nsp_accuracy": objectives.correct(*args)}
        if self.teacher:
            sums |= terms.sums(self.config, self.teacher, outputs, batch)
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
        own = flops.model_flops_per_step(
            self.config.model,
            phase.batch_size,
            phase.sequence_length,
            phase.max_predictions_per_seq,
        )
        return own + terms.model_flops(self.config, self.teacher, phase) if self.teacher else own


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
    kernels.check(config, sharding.make_mesh(config.mesh))  # before hours of preparation
    programs = workdir_lib.programs(config, directory)
    with distributed.alone(directory, "pretrain"), compilation_cache.kept(programs):
        loop.run(open(config, directory, build=True), directory, started)


def evaluate(config: config_lib.Config, directory: Path) -> dict[str, float]:
    """As `evaluate.newest`, of a run in `directory`; raises as `open`.

    Where the teacher of the run is not there, the figures are those of the model alone.
    """
    try:
        source = teacher.read(config)
    except (UsageError, DataError) as error:
        say(f"figures without a teacher: {error}")
        config, source = config.without_teacher, None
    return evaluation.newest(_open(config, source, directory), directory)


def open(
    config: config_lib.Config, directory: Path, *, build: bool, abstract: bool = False
) -> Pretraining:
    """The job of a config that fits `W/store`, which is made first where it is missing and may be.

    Its config is resolved: what it leaves unset of `model.vocab_size` and of where the text is, as
    the store has it. With `build`, the caller holds W's lock; with `abstract`, a teacher has no
    weights: for a plan, whose devices are not here.

    Raises:
      DataError: no store (and `build` is False), or one that was made of another text, by another
        tokenizer or for another mixture than the config asks for; the message names the fields.
      UsageError: `model.vocab_size` is smaller than the tokenizer's, the model has no head to
        predict masked tokens with, or its teacher does not fit (`teacher.open`).
    """
    return _open(config, teacher.read(config), directory, build=build, abstract=abstract)


def _open(
    config: config_lib.Config,
    source: Pretrained | None,
    directory: Path,
    *,
    build: bool = False,
    abstract: bool = False,
) -> Pretraining:
    """As `open`, beside the teacher `source`."""
    if not config.model.has_masked_lm:
        raise UsageError(
            f"config.model.head={config.model.head!r}: predicts no masked tokens; "
            "take pretraining or masked_lm"
        )
    config = student.prepared(config, source)
    mesh = None if abstract else sharding.make_mesh(config.mesh)
    if source is not None and mesh is not None:
        teacher.check_on(config, source, teacher.PRETRAINING, mesh)
    if build:
        _prepare_if_missing(config, directory)
    manifests, tokenizer = stores.read(config, directory)
    if jax.process_index() == 0:  # other hosts need not have the text
        stores.require_same(config, directory, manifests)
    config = stores.resolved(config, manifests, tokenizer)
    if not abstract:  # a plan's devices are not here
        model = compute_type.resolved(config.model, jax.devices()[0])
        config = dataclasses.replace(config, model=model)
    if source is None:
        return Pretraining(config, tokenizer, directory)
    if mesh is None:
        taught = teacher.abstract(config, source, teacher.PRETRAINING)
    else:
        taught = teacher.open(config, source, tokenizer, teacher.PRETRAINING, mesh)
    return Pretraining(config, tokenizer, directory, taught)


def _prepare_if_missing(config: config_lib.Config, directory: Path) -> None:
    place = storage.path(directory) / "store"
    if jax.process_index() == 0 and not store.components(place):
        initial.check(config, directory)
        prepare.prepare(config, directory, locked=True)
    distributed.wait_for_all("store")  # which process 0 may take hours to make
    multihost_utils.sync_global_devices("store")  # connects devices while all are here
    if jax.process_index() != 0 and not store.components(place):
        raise DataError(
            f"{place}: not seen by process {jax.process_index()}, though process 0 has it; "
            "with several hosts take a --workdir that all see: gs://..., or a shared disk"
        )
