"""The interface between a training task and the code that trains, evaluates and plans it.

`loop.run` trains any `Job`. `pretraining.Pretraining` is an example, and shows how little code a
new job needs.
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
    """The global batches of one stage; batch number `step` depends only on `step`."""

    def batch(self, step: int, rows: slice | np.ndarray = slice(None)) -> dict[str, np.ndarray]:
        """The rows of a batch that this process holds; `step` counts from the stage's start."""

    def describe(self) -> str:
        """A part of a log line about the batches."""


class HeldoutBatches(Protocol):
    """The batches of an evaluation, the same every time."""

    batch_size: int
    num_batches: int

    def batch(self, step: int, rows: slice | np.ndarray = slice(None)) -> dict[str, np.ndarray]:
        """See `Batches.batch`; `step` is below `num_batches`."""


class Verdict(NamedTuple):
    """The decision from a run's evaluations so far.

    Attributes:
      best: the step whose weights count and whose checkpoint is kept; None takes the last step.
      stop: whether training ends here.
    """

    best: int | None = None
    stop: bool = False


class Job(Protocol):
    """A training task. It must be a dataclass, because `plan` replaces its config.

    Attributes:
      config: the resolved config, in which all fields that depend on the data are filled in
        (vocabulary size, labels, steps).
      frozen: arrays that are read but never trained, donated or saved; {} for none. They are
        parameters on their devices, or host numbers that may differ between runs of one program.
    """

    @property
    def config(self) -> Config: ...

    @property
    def frozen(self) -> dict: ...

    @property
    def identity(self) -> dict[str, str]:
        """A hash for each group of frozen parameters, by name; {} for none.

        Every checkpoint stores the hashes, and a run resumes only with the same hashes.
        """

    @property
    def program(self) -> str:
        """A key for compiled programs: all they depend on except the mesh and a batch's form."""

    def settings(self, frozen: dict) -> Settings:
        """The schedule and the seed of the step: constants, or values from `frozen`."""

    def init(self, key: jax.Array) -> dict:
        """Fresh parameters."""

    def apply(self, params: dict, batch: Batch, *, dropout_key: Any, placement: Any) -> dict:
        """The model's outputs for a prepared batch; `dropout_key` as in `models.apply`."""

    def start(self, params: dict) -> tuple[dict, list[str]]:
        """The parameters that training starts from, and lines to log; `params` are fresh ones."""

    def batches(self, stage: Stage) -> Batches:
        """The training batches of a stage."""

    def heldout(self, stage: Stage) -> HeldoutBatches:
        """The held-out batches for a stage; raises NothingHeldOut if there are none."""

    def shapes(self, stage: Stage) -> dict[str, tuple[int, ...]]:
        """The shape of every array of a stage's largest batch, all of them int32."""

    def prepare(self, stage: Stage, *, heldout: bool = False) -> Callable[[Batch], Batch]:
        """A function for a training or a held-out batch inside the jit: masking, or the identity."""

    def targets(self, frozen: dict, batch: Batch, placement: Any) -> Batch:
        """The batch plus outputs of the frozen parameters; called for each micro-batch."""

    def weights(self, batch: Batch) -> dict[str, Any]:
        """`{term: weight}`, the denominators of the terms, from the batch only."""

    def sums(self, outputs: dict, batch: Batch) -> dict[str, Any]:
        """`{term: sum}`; training uses the terms that end in `_loss`, weighted by the config."""

    def rows(self, outputs: dict, batch: Batch) -> dict[str, Any]:
        """Arrays `[B, ...]` for each held-out example that `figures` needs; {} if it needs none."""

    def figures(self, totals: Terms, rows: dict[str, list[np.ndarray]]) -> dict[str, float]:
        """The figures that an evaluation reports.

        Args:
          totals: sums and weights over all held-out batches.
          rows: the results of `rows`, as lists of one array per batch.
        """

    def judge(self, evaluations: dict[int, dict[str, float]]) -> Verdict:
        """The decision from a run's figures by step; it depends on nothing else."""

    def flops(self, stage: Stage) -> int:
        """The FLOPs of one step of a stage, by the model's definition."""
