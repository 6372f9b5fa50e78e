"""The seam between what is trained and how: what the loop, the step, the evaluation and the plan ask.

`loop.run` trains any `Job`. Pretraining is one (`pretraining.Pretraining`); its file shows how little
another one has to say.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from bertjax.config import Config
from bertjax.config.stages import Stage
from bertjax.optimizer import Settings

Batch = dict[str, Any]  # name -> array [B, ...]
Terms = dict[str, tuple[Any, Any]]  # name -> (sum, weight)


class Batches(Protocol):
    """The global batches of one stage: batch number `step` is a function of `step` alone."""

    def batch(self, step: int, rows: slice | np.ndarray = slice(None)) -> dict[str, np.ndarray]:
        """The rows of a batch that this process holds; `step` counts from the stage's start."""

    def describe(self) -> str:
        """What the batches hold, for people: a part of a line."""


class HeldoutBatches(Protocol):
    """What an evaluation reads: the same batches every time."""

    batch_size: int
    num_batches: int

    def batch(self, step: int, rows: slice | np.ndarray = slice(None)) -> dict[str, np.ndarray]:
        """As `Batches.batch`, for `step` below `num_batches`."""


class Verdict(NamedTuple):
    """What the evaluations of a run so far decide.

    Attributes:
      best: the step whose weights count, and whose checkpoint stays; None: those of the last one.
      stop: training ends here.
    """

    best: int | None = None
    stop: bool = False


class Job(Protocol):
    """What is trained: a dataclass, of which `plan` replaces the config.

    Attributes:
      config: resolved: everything that the data decide (vocabulary size, labels, steps) is filled in.
      frozen: arrays that are read and never trained, donated or saved: parameters, placed on their
        devices, or numbers of the host, which may differ between runs of one program; {} for none.
    """

    @property
    def config(self) -> Config: ...

    @property
    def frozen(self) -> dict: ...

    @property
    def identity(self) -> dict[str, str]:
        """What says, of frozen parameters, that they are the same: a hash by name; {} for none.

        It is kept with every checkpoint, and a run goes on with the same ones only.
        """

    @property
    def program(self) -> str:
        """All that compiled programs depend on, the mesh and the form of a batch apart."""

    def settings(self, frozen: dict) -> Settings:
        """The schedule and the seed of the step: constants, or arguments that lie in `frozen`."""

    def init(self, key: jax.Array) -> dict:
        """Fresh parameters."""

    def apply(self, params: dict, batch: Batch, *, dropout_key: Any, placement: Any) -> dict:
        """The model's outputs for a batch that `prepare` has seen; `dropout_key` as `models.apply`."""

    def start(self, params: dict) -> tuple[dict, list[str]]:
        """The parameters that training starts from, given fresh ones, and lines that say so."""

    def batches(self, stage: Stage) -> Batches:
        """The training batches of a stage."""

    def heldout(self, stage: Stage) -> HeldoutBatches:
        """What is evaluated on, for a stage; raises NothingHeldOut where there is nothing."""

    def shapes(self, stage: Stage) -> dict[str, tuple[int, ...]]:
        """The shape of every array of a stage's largest batch, all of them int32."""

    def prepare(self, stage: Stage) -> Callable[[Batch], Batch]:
        """What happens to a host batch inside the jitted step: masking, or nothing."""

    def targets(self, frozen: dict, batch: Batch, placement: Any) -> Batch:
        """The batch with outputs of the frozen parameters added; called for each micro-batch."""

    def weights(self, batch: Batch) -> dict[str, Any]:
        """`{term: weight}`, of the batch alone: the denominators of the terms."""

    def sums(self, outputs: dict, batch: Batch) -> dict[str, Any]:
        """`{term: sum}`; terms that end in `_loss` are trained on, by their weight in the config."""

    def rows(self, outputs: dict, batch: Batch) -> dict[str, Any]:
        """Arrays `[B, ...]` that `figures` needs of every held-out example; {} where it needs none."""

    def figures(self, totals: Terms, rows: dict[str, list[np.ndarray]]) -> dict[str, float]:
        """What an evaluation reports.

        Args:
          totals: sums and weights over all held-out batches.
          rows: as `rows` gave them, a list of one array a batch.
        """

    def judge(self, evaluations: dict[int, dict[str, float]]) -> Verdict:
        """What the figures of a run say, by step: a function of these alone."""

    def flops(self, stage: Stage) -> int:
        """FLOPs that a step of a stage needs by the model's definition."""
