"""A job without BERT: a line through ten numbers, fitted by the same loop as pretraining.

As a program, `toy_job.py DIRECTORY ...` trains in each directory in turn. The variables of a
launcher set the number of processes. SIGTERM stops each training once; then it is resumed.
"""

import dataclasses
import os
import signal
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bertjax import config as config_lib
from bertjax import loop, optimizer
from bertjax.errors import Preempted
from bertjax.job import Verdict
from bertjax.processes import distributed

SLOPES = np.linspace(-2, 2, 10).astype(np.float32)
STEPS, ROWS = 60, 16


def config(**fields):
    return config_lib.Config(
        phases={"fit": config_lib.Phase(STEPS, 8, ROWS, max_predictions_per_seq=1)},
        optimizer=config_lib.Optimizer(
            name="adamw", learning_rate=0.3, warmup_steps=5, weight_decay=0.0, clip_norm=0.0
        ),
        checkpoints=config_lib.Checkpoints(every_steps=25),
        evaluation=config_lib.Evaluation(every_steps=20),
        logging=config_lib.Logging(every_steps=1, tensorboard=False),
        **fields,
    )


class Points:
    """Batches of points on the line. From step 30 on, they have one more input, always zero.

    So the loop sees batches of two shapes.
    """

    batch_size, num_batches = ROWS, 2

    def __init__(self, seed):
        self._seed = seed

    def batch(self, step, rows=slice(None)):
        rng = np.random.default_rng([self._seed, step])
        inputs = rng.normal(size=(ROWS, 10)).astype(np.float32)
        batch = {"inputs": inputs, "targets": inputs @ SLOPES + 1}
        if step >= 30:
            batch["inputs"] = np.pad(inputs, ((0, 0), (0, 1)))
        return {name: array[rows] for name, array in batch.items()}

    def describe(self):
        return "points on a line"


@dataclasses.dataclass
class Line:
    """Args:
    stop_at: the evaluation, counted from 1, at which the process gets a SIGTERM.
    """

    config: config_lib.Config = dataclasses.field(default_factory=config)
    frozen: dict = dataclasses.field(default_factory=dict)
    stop_at: int = 0
    teacher: str = ""  # the hash of the teacher

    @property
    def identity(self):
        return {"teacher": self.teacher} if self.teacher else {}

    @property
    def program(self):
        return repr(self.config)

    def settings(self, frozen):
        return optimizer.settings(self.config)

    def init(self, key):
        return {"line": {"dense": {"kernel": jnp.zeros((10, 1)), "bias": jnp.zeros(1)}}}

    def apply(self, params, batch, *, dropout_key, placement):
        line = params["line"]["dense"]
        return {"values": (batch["inputs"][:, :10] @ line["kernel"] + line["bias"])[:, 0]}

    def start(self, params):
        return params, ["the line starts at zero"]

    def batches(self, stage):
        return Points(seed=0)

    def heldout(self, stage):
        return Points(seed=1)

    def shapes(self, stage):
        return {"inputs": (ROWS, 11), "targets": (ROWS,)}

    def prepare(self, stage, *, heldout=False):
        return lambda batch: batch

    def targets(self, frozen, batch, placement):
        return batch

    def weights(self, batch):
        return {"square_loss": jnp.float32(len(batch["targets"]))}

    def sums(self, outputs, batch):
        return {"square_loss": jnp.sum((outputs["values"] - batch["targets"]) ** 2)}

    def rows(self, outputs, batch):
        return {}

    def judge(self, evaluations):
        return Verdict()

    def figures(self, totals, rows):
        self.stop_at -= 1
        if self.stop_at == 0 and jax.process_index() == jax.process_count() - 1:
            os.kill(os.getpid(), signal.SIGTERM)
            if jax.process_count() > 1:
                time.sleep(5)  # JAX checks for signals once a second
        total, weight = totals["square_loss"]
        return {"error": float(total / weight) ** 0.5}

    def flops(self, stage):
        return 3 * 2 * 11 * ROWS


def train(directory, stop_at=0):
    """Trains; returns whether the run came to its end."""
    try:
        with distributed.alone(directory, "fit"):
            loop.run(Line(stop_at=stop_at), directory)
    except Preempted:
        return False
    return True


if __name__ == "__main__":
    with distributed.processes():
        for name in sys.argv[1:]:
            assert not train(Path(name), stop_at=2)
            assert train(Path(name))
