"""Predicts a step time from a compiled program and a chip's data sheet; nothing is measured."""

import dataclasses
from typing import NamedTuple

from bertjax.metrics.chips import Chip
from bertjax.plan import hlo_cost
from bertjax.plan.hlo import Collective, Program

# Measured step time over roofline on GPUs (benchmarks/RESULTS.md, "GPUs that are not there").
GPU_FACTOR = 1.43


class Measured(NamedTuple):
    """A measured step and the roofline of its program, both in seconds."""

    device: str
    step: str
    roofline: float
    measured: float

    @property
    def predicted(self) -> float:
        """Seconds that `predict` gives for this roofline."""
        return GPU_FACTOR * self.roofline


_H100 = "NVIDIA H100 80GB HBM3"
MEASURED = (
    Measured(_H100, "BERT-Base 256 x 128, xla attention", 0.0465, 0.0693),
    Measured(_H100, "the same, layers scanned", 0.0810, 0.1070),
    Measured(_H100, "BERT-Base 256 x 128, cudnn attention", 0.0391, 0.0605),
    Measured(_H100, "the same, layers scanned", 0.0641, 0.0872),
    Measured(_H100, "BERT-Large 128 x 128, cudnn attention", 0.0615, 0.0885),
    Measured(_H100, "BERT-Large 32 x 512, cudnn attention", 0.0642, 0.0960),
    Measured(_H100, "BERT-Large 16 x 512, xla attention", 0.0532, 0.0743),
)


def measured(chip: Chip | None) -> tuple[Measured, ...]:
    """The measured steps that predictions for a chip rest on; () if there are none."""
    return MEASURED if chip and chip.nvlink else ()


def assumptions(chip: Chip | None) -> list[str]:
    """The assumptions of predictions for a chip, as lines of text."""
    if known := measured(chip):
        steps = "; ".join(
            f"{m.step} {1e3 * m.predicted:.1f}, {1e3 * m.measured:.1f}" for m in known
        )
        return [
            "a prediction from data sheets, not a measurement",
            "every kernel takes the time for its FLOPs at the bfloat16 peak or for its bytes at "
            f"full HBM bandwidth, whichever is longer; a step takes {GPU_FACTOR} times the sum, a "
            f"factor fitted to {len(known)} steps on one {known[0].device}; predicted and measured "
            f"in ms: {steps}",
            "other GPUs, and several GPUs together, were not measured",
            "launching a kernel is free: small models take longer",
            "programs can use the share of the memory that JAX takes: 3/4, or the value of the "
            "environment variable XLA_CLIENT_MEM_FRACTION",
            "every collective sends its bytes at the full bandwidth of NVLink, and nothing else "
            "runs meanwhile; latency is free",
            _LEFT_OUT,
        ]
    return [
        "a prediction from data sheets, not a measurement: expect a real step to take longer",
        "every instruction takes the time for its FLOPs at the chip's bfloat16 peak or for its "
        "bytes at full HBM bandwidth, whichever is longer; vector arithmetic (dropout, softmax, "
        "GELU) is free",
        "every collective sends its bytes at the full bandwidth of the sides of the slice that its "
        "group spans, and nothing else runs meanwhile; latency is free",
        _LEFT_OUT,
    ]


_LEFT_OUT = "no time for the input pipeline, checkpoints, evaluation or restarts"


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Seconds of one step on every device.

    Attributes:
      compute: all FLOPs at the peak.
      memory: all bytes at the HBM bandwidth.
      local: the sum of all instructions' rooflines; no less than `compute` or `memory`.
      ici: collectives between the chips of a slice, or between the GPUs of a host.
      dcn: collectives between slices.
      factor: multiplies `local`; from measured steps, or 1 without any.
    """

    compute: float
    memory: float
    local: float
    ici: float
    dcn: float
    factor: float = 1.0

    @property
    def step(self) -> float:
        """The whole step: nothing overlaps with a collective."""
        return self.factor * self.local + self.ici + self.dcn


def predict(
    program: Program, chip: Chip, sides: tuple[int, ...], hidden_flops: float = 0.0
) -> Prediction | None:
    """The predicted step of a program; None if a bandwidth that it needs is unknown.

    Args:
      sides: lengths of the slice's sides, in chips; () for GPUs.
      hidden_flops: FLOPs of kernels whose bytes the program shows, but not their FLOPs.
    """
    compute = local = hidden_flops / chip.peak_flops
    memory = 0.0
    for computation, instruction, times in program.executed():
        flops = times * hlo_cost.flops(program, computation, instruction) / chip.peak_flops
        moved = times * hlo_cost.hbm_bytes(program, computation, instruction) / chip.hbm
        compute, memory, local = compute + flops, memory + moved, local + max(flops, moved)
    seconds = {True: 0.0, False: 0.0}
    for collective in program.collectives():
        bandwidth = chip.dcn if collective.over_dcn else egress(chip, sides, collective.devices)
        if bandwidth is None:
            return None
        if bandwidth:
            seconds[collective.over_dcn] += collective.count * sent(collective) / bandwidth
    factor = GPU_FACTOR if measured(chip) else 1.0
    return Prediction(compute, memory, local, seconds[False], seconds[True], factor)


def sent(collective: Collective) -> float:
    """Bytes that a device sends in one execution, by the ring algorithms (Thakur et al. 2005).

    Transfers between slices count the same way, with each slice as a device: the host's runtime
    does not document its algorithm.
    """
    size, n = collective.bytes, collective.devices
    if collective.kind == "all-reduce":
        return 2 * size * (n - 1) / n
    if collective.kind == "collective-permute":
        return size
    return size * (n - 1) / n


def egress(chip: Chip, sides: tuple[int, ...], devices: int) -> float | None:
    """Bytes/s that a chip can send to a group of `devices`, over as many sides as it spans.

    On a side that is closed to a ring, a chip has wires to two neighbors. On an open side a ring
    goes back and forth, and the chip at the end has only one wire. A GPU has all its NVLinks to a
    switch.
    """
    if chip.nvlink:
        return chip.nvlink
    if chip.link is None:
        return None
    wires, reached = 0, 1
    cubes = all(side % 4 == 0 for side in sides if side > 1)
    for side in sides:
        if reached < devices and side > 1:
            wires, reached = wires + (2 if cubes and side >= chip.torus else 1), reached * side
    return wires * chip.link
