"""Compares a batch of 256 at once, as 8 x 32, and on 8 devices: parameters, time and memory.

The model has 4 layers, hidden 256, float32 and no dropout; tokens are random, with a different
number of predictions in every micro-batch. Each way takes 5 steps from the same start. A difference
is relative to the batch at once on one device: for each tensor, the norm of the difference over the
norm. The control is that batch with its rows in another order, which shows the effect of rounding
alone. Then come seconds per step, measured in turns, and the temporaries of the compiled step. A
CPU shows 8 fake devices.

    python -m benchmarks.accumulation
"""

import os
import statistics
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import jax
import numpy as np

from bertjax import config as config_lib
from bertjax import sharding, train
from bertjax.pretraining import Pretraining

MODEL = config_lib.Model(
    vocab_size=4096,
    hidden_size=256,
    num_hidden_layers=4,
    num_attention_heads=4,
    intermediate_size=1024,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)
ROWS, LENGTH, PREDICTIONS, STEPS, ROUNDS = 256, 32, 10, 5, 5
RUNS = {  # name: (devices, micro-batches, mesh)
    "1 x 256": (1, 1, {}),
    "1 x 256, other order": (1, 1, {}),
    "8 x 32": (1, 8, {}),
    "8 devices": (8, 1, {}),
    "8 devices, 8 x 32": (8, 8, {}),
    "2 x 2 x 2 devices, 4 x 64": (8, 4, {"fsdp": 2, "tensor": 2}),
}


def make_batch(step: int) -> dict:
    """A masked batch; micro-batch `m` of 8 has `m + 3` predictions in each row."""
    rng = np.random.default_rng(step)
    lengths = rng.integers(LENGTH // 4, LENGTH + 1, (ROWS, 1))
    attended = (np.arange(LENGTH) < lengths).astype(np.int32)
    predicted = np.arange(PREDICTIONS) < (np.arange(ROWS) % 8 + 3)[:, None]
    ids = rng.integers(5, MODEL.vocab_size, (ROWS, LENGTH + PREDICTIONS)).astype(np.int32)
    return {
        "input_ids": ids[:, :LENGTH] * attended,
        "token_type_ids": (np.arange(LENGTH) > LENGTH // 2).astype(np.int32) * attended,
        "attention_mask": attended,
        "next_sentence_labels": rng.integers(0, 2, ROWS).astype(np.int32),
        "example_ids": np.arange(ROWS, dtype=np.int32),
        "masked_lm_positions": np.tile(np.arange(PREDICTIONS, dtype=np.int32), (ROWS, 1)),
        "masked_lm_ids": ids[:, LENGTH:],
        "masked_lm_weights": predicted.astype(np.float32),
    }


class Run:
    """One way to compute the same steps."""

    def __init__(self, optimizer: str, num_devices: int, micro_batches: int, mesh: dict):
        phase = config_lib.Phase(steps=100, sequence_length=LENGTH, batch_size=ROWS)
        config = config_lib.Config(
            model=MODEL,
            phases={"phase1": phase},
            optimizer=config_lib.Optimizer(name=optimizer, learning_rate=1e-3, warmup_steps=2),
            mesh=config_lib.Mesh(**mesh),
        )
        self.mesh = sharding.make_mesh(config.mesh, jax.devices()[:num_devices])
        job = Pretraining(config)
        self.state, _ = train.start(job, train.abstract_state(job, self.mesh), {})
        step = train.compile_step(job, self.mesh, lambda batch: batch, micro_batches)
        self.compiled = step.lower(self.state, {}, self._place(make_batch(0))).compile()

    def _place(self, batch):
        return sharding.to_global(self.mesh, batch, ROWS)

    def step(self, number: int, order=slice(None)) -> float:
        """Takes one step with the rows in the given order; returns its seconds."""
        batch = self._place({k: v[order] for k, v in make_batch(number).items()})
        started = time.perf_counter()
        self.state, metrics = self.compiled(self.state, {}, batch)
        jax.block_until_ready(metrics)
        return time.perf_counter() - started


def compare(got, expected) -> str:
    """Table cells: how far the parameters `got` are from `expected`."""
    bias = [tree["blocks"]["key"]["bias"] for tree in (got, expected)]
    query = np.linalg.norm(expected["blocks"]["query"]["bias"])
    norm = np.linalg.norm
    errors = {
        jax.tree_util.keystr(path, simple=True, separator="/"): (norm(a - b), norm(b))
        for (path, a), b in zip(
            jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(expected), strict=True
        )
    }
    whole = np.hypot.reduce([e for e, _ in errors.values()]) / np.hypot.reduce(
        [n for _, n in errors.values()]
    )
    del errors["blocks/key/bias"]
    worst = max(errors, key=lambda name: errors[name][0] / errors[name][1])
    largest = max(
        np.abs(a - b).max()
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True)
    )
    return (
        f"{whole:.1e} | {errors[worst][0] / errors[worst][1]:.1e} ({worst}) "
        f"| {norm(bias[0] - bias[1]) / query:.1e} | {norm(bias[1]):.1e} of {query:.1e} "
        f"| {largest:.1e}"
    )


def main():
    print(
        f"jax {jax.__version__}, {jax.devices()[0].device_kind}, {STEPS} steps of {ROWS} x {LENGTH}"
    )
    print(
        "| optimizer | run | all parameters | worst tensor | key biases, of the query's norm "
        "| norm of key biases | largest element |\n|" + "---|" * 7
    )
    for optimizer in ("adamw", "lamb"):
        for name, settings in RUNS.items():
            run = Run(optimizer, *settings)
            order = np.random.default_rng(0).permutation(ROWS) if "order" in name else slice(None)
            for step in range(STEPS):
                run.step(step, order)
            params = jax.device_get(run.state["params"])
            if name == "1 x 256":
                expected = params
            else:
                print(f"| {optimizer} | {name} | {compare(params, expected)} |", flush=True)
    pair = {name: Run("adamw", *RUNS[name]) for name in ("1 x 256", "8 x 32")}
    seconds = {name: [] for name in pair}
    for step in range(ROUNDS + 1):
        for name, run in pair.items():
            seconds[name].append(run.step(step))
    print("| run | seconds a step (median of 5, in turns) | temporaries MB |\n|---|---|---|")
    for name, run in pair.items():
        temporaries = run.compiled.memory_analysis().temp_size_in_bytes / 1e6
        print(f"| {name} | {statistics.median(seconds[name][1:]):.2f} | {temporaries:.0f} |")


if __name__ == "__main__":
    main()
