"""Times MRPC training steps: bertjax and PyTorch in turns, one process (`finetune_torch speed`)."""

import dataclasses
import time
from pathlib import Path

from benchmarks import finetune_peer as peer

# isort: split
import jax
import numpy as np

from bertjax import train
from bertjax.config import stages
from bertjax.finetune.job import Finetuning

SETTLE_SECONDS = 1.0  # the other side's threads spin for a while after their work
OURS, GROUPED = "bertjax, 128", "bertjax, buckets and groups"
THEIRS, DYNAMIC = "PyTorch, 128", "PyTorch, longest of the batch"


def measure(args, directory: Path) -> dict:
    """Seconds of every block of every side, examples in a block, and shares of padding.

    The batches are made beforehand. `GROUPED` has bertjax's default batches; the other three sides
    share the same random batches.
    """
    job, _ = peer.opened(args, directory, dropout=0.1)
    plain = dataclasses.replace(job.config.finetune, buckets=False, group_lengths=False)
    random = dataclasses.replace(job, config=dataclasses.replace(job.config, finetune=plain))
    grouped, padded = (batches_of(each, args.steps) for each in (job, random))
    dynamic = [cut(batch) for batch in padded]
    state, mesh = peer.start(job, {})
    other = peer.Peer(job, jax.device_get(state["params"]), directory / "peer")
    step = Ours(job, mesh, state)
    for batch in grouped + padded:
        step.compile(batch)
    tensors = {THEIRS: padded, DYNAMIC: dynamic}
    tensors = {name: [other.inputs(batch) for batch in found] for name, found in tensors.items()}
    sides = {
        OURS: lambda number: step(padded[number]),
        THEIRS: lambda number: other.step(number, tensors[THEIRS][number]),
        GROUPED: lambda number: step(grouped[number]),
        DYNAMIC: lambda number: other.step(number, tensors[DYNAMIC][number]),
    }
    batches = {OURS: padded, THEIRS: padded, GROUPED: grouped, DYNAMIC: dynamic}
    for run in sides.values():
        run(0)  # the first step allocates
    return {
        "seconds": alternate(sides, args.steps, args.block),
        "examples": args.block * len(padded[0]["example_ids"]),
        "padding": {name: padding(found) for name, found in batches.items()},
        "lengths": {name: lengths(found) for name, found in batches.items()},
        "compile_seconds": step.compile_seconds,
    }


def batches_of(job: Finetuning, steps: int) -> list[dict]:
    [stage] = stages.of(job.config)
    batches = job.batches(stage)
    return [batches.batch(step) for step in range(steps)]


def cut(batch: dict) -> dict:
    """A batch without the columns that are padding in every row."""
    longest = int(batch["attention_mask"].sum(1).max())
    return {name: x[:, :longest].copy() if x.ndim == 2 else x for name, x in batch.items()}


def padding(batches: list[dict]) -> float:
    """The share of padding among the tokens of batches."""
    real = sum(int(batch["attention_mask"].sum()) for batch in batches)
    return 1 - real / sum(batch["attention_mask"].size for batch in batches)


def lengths(batches: list[dict]) -> dict[int, int]:
    """Number of batches by length."""
    found, counts = np.unique([b["input_ids"].shape[1] for b in batches], return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


class Ours:
    """bertjax's training step, with its state."""

    def __init__(self, job: Finetuning, mesh, state: dict) -> None:
        [stage] = stages.of(job.config)
        self._jitted = train.compile_step(job, mesh, job.prepare(stage), stage.micro_batches)
        self._job, self._state, self._programs = job, state, {}
        self.compile_seconds = 0.0

    def compile(self, batch: dict) -> None:
        form = train.form_of(batch)
        if form not in self._programs:
            began = time.monotonic()
            lowered = self._jitted.lower(self._state, self._job.frozen, batch)
            self._programs[form] = lowered.compile()
            self.compile_seconds += time.monotonic() - began

    def __call__(self, batch: dict) -> float:
        program = self._programs[train.form_of(batch)]
        self._state, metrics = program(self._state, self._job.frozen, batch)
        jax.block_until_ready(self._state)
        return float(metrics["loss"])


def alternate(sides: dict, steps: int, block: int) -> dict[str, list[float]]:
    """Seconds of every whole block in `steps` steps; sides take turns, and the first one changes."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    order = list(sides)
    for first in range(0, steps - block + 1, block):
        for name in order:
            time.sleep(SETTLE_SECONDS)
            began = time.perf_counter()
            losses = [sides[name](number) for number in range(first, first + block)]
            seconds[name].append(round(time.perf_counter() - began, 4))
            assert np.isfinite(losses).all(), f"{name}: loss {losses}"
        order = order[1:] + order[:1]
        done = "  ".join(f"{name} {found[-1]:.2f} s" for name, found in seconds.items())
        print(f"steps {first + 1} to {first + block}: {done}", flush=True)
    return seconds
