"""Masked-LM and next-sentence figures on held-out documents, with fixed examples and masks."""

import functools
import math
from pathlib import Path

import jax
from rich import console, progress

from bertjax import config as config_lib
from bertjax import models, objectives, sharding, train, workdir
from bertjax.checkpoints import manager
from bertjax.config import stages
from bertjax.data import pipeline


class Evaluation:
    """The held-out figures of one phase's sequence length: call it with parameters.

    The examples are `pipeline.HeldoutBatches`, the masks those of epoch 0: nothing changes from
    one call to the next but the parameters.
    """

    def __init__(self, config: config_lib.Config, mesh, corpora, tokenizer, stage):
        self.batches = pipeline.HeldoutBatches(corpora, tokenizer, config, stage)
        self._mesh = mesh
        self._jitted = jit_measure(config, mesh, train.masker(config, tokenizer, stage))
        self._measure = None
        self._rows = sharding.local_rows(mesh, self.batches.batch_size)

    def compile(self, params):
        """Compiles for parameters like these, once; the first call would do it otherwise."""
        if self._measure is None:
            self._measure = self._jitted.lower(params, self._batch(0)).compile()

    def __call__(self, params, on_batch=lambda: None) -> dict[str, float]:
        """Means over all held-out examples; `on_batch` is called after each batch.

        Returns:
          `mlm_loss` (nats), `mlm_accuracy`, `perplexity` = exp(mlm_loss) and, where the model
          has the head, `nsp_loss` and `nsp_accuracy`.
        """
        self.compile(params)
        totals = None
        for step in range(self.batches.num_batches):
            terms = self._measure(params, self._batch(step))
            totals = terms if totals is None else jax.tree.map(_add, totals, terms)
            on_batch()
        values = {k: float(v) for k, v in objectives.means(totals).items()}
        return values | {"perplexity": math.exp(min(values["mlm_loss"], 700.0))}

    def _batch(self, step):
        batch = self.batches.batch(step, self._rows)
        return sharding.to_global(self._mesh, batch, self.batches.batch_size)


def jit_measure(config: config_lib.Config, mesh, mask):
    """`(params, host batch) -> {term: (sum, weight)}`, jitted; `mask` as of `train.train_step`."""

    def measure(params, batch):
        batch = mask(batch)
        placement = sharding.Placement(mesh)
        outputs = models.apply(config.model, params, batch, placement=placement)
        return objectives.measure(outputs, batch)

    return jax.jit(measure)


@functools.partial(jax.jit, donate_argnums=0)
def _add(total, term):
    return total + term


def evaluate(config: config_lib.Config, directory: Path) -> dict[str, float]:
    """The figures of the newest whole checkpoint of `directory`, for the phase that it ended in.

    Raises:
      DataError: no store, no held-out documents, or no whole checkpoint.
    """
    config, tokenizer = workdir.open_corpus(config, directory, build=False)
    # The kernel that trained need not run on the machine that evaluates.
    config = config.with_model(attention="auto")
    mesh = sharding.make_mesh(config.mesh)
    sharding.check(config, mesh, training=False)
    abstract = sharding.abstract(mesh, {"params": models.abstract_params(config.model)})
    step, state = manager.read_newest(directory / "checkpoints", abstract)
    heldout = workdir.open_stores(config, directory, "heldout")
    run = Evaluation(config, mesh, heldout, tokenizer, stages.at(config, max(step - 1, 0)))
    with progress.Progress(console=console.Console(stderr=True)) as bar:
        task = bar.add_task(f"evaluate step {step}", total=run.batches.num_batches)
        return {"step": step, **run(state["params"], lambda: bar.advance(task))}
