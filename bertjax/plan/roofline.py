"""A predicted step time from a compiled program and a chip's data sheet. Never a measurement."""

import dataclasses
from typing import NamedTuple

from bertjax.metrics.chips import Chip
from bertjax.plan import hlo_cost
from bertjax.plan.hlo import Collective, Program

# What measured steps took of their roofline on GPUs (benchmarks/RESULTS.md, "GPUs that are not there").
GPU_FACTOR = 1.43


class Measured(NamedTuple):
    """A step that was measured, and the roofline of its program, in seconds."""

    device: str
    step: str
    roofline: float
    measured: float

    @property
    def predicted(self) -> float:
        """As of a GPU that is not there."""
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
    """The measured steps that predictions for a chip rest on; () where none was."""
    return MEASURED if chip and chip.nvlink else ()


def assumptions(chip: Chip | None) -> list[str]:
    """What predictions for a chip suppose, in lines for people."""
    if known := measured(chip):
        steps = "; ".join(
            f"{m.step} {1e3 * m.predicted:.1f}, {1e3 * m.measured:.1f}" for m in known
        )
        return [
            "a prediction from data sheets, not a measurement",
            "every kernel takes the longer of its FLOPs at the bfloat16 peak and its bytes at the "
            f"full HBM bandwidth, and all together {GPU_FACTOR} times that, fitted to {len(known)} "
            f"steps on one {known[0].device}; predicted and measured in ms: {steps}",
            "of other GPUs and of several nothing was measured",
            "launching a kernel is free: small models take longer",
            "programs can have the share of the memory that JAX takes: 3/4, or as the environment "
            "variable XLA_CLIENT_MEM_FRACTION says",
            "every collective takes its bytes at the full bandwidth of NVLink, and nothing else runs "
            "meanwhile; latency is free",
            _LEFT_OUT,
        ]
    return [
        "a prediction from data sheets, not a measurement: expect a real step to take longer",
        "every instruction takes the longer of its FLOPs at the chip's bfloat16 peak and its bytes "
        "at the full HBM bandwidth; vector arithmetic (dropout, softmax, GELU) is free",
        "every collective takes its bytes at the full bandwidth of as many sides of the slice as "
        "its group needs, and nothing else runs meanwhile; latency is free",
        _LEFT_OUT,
    ]


_LEFT_OUT = "no time for the input pipeline, checkpoints, evaluation or restarts"


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Seconds of one step on every device.

    Attributes:
      compute: all FLOPs at the peak.
      memory: all bytes at the HBM bandwidth.
      local: the roofline of every instruction alone, added up; at least either of those.
      ici: collectives between the chips of a slice, or between the GPUs of a host.
      dcn: collectives between slices.
      factor: on `local`, from measured steps; 1 where none was.
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
    """The roofline of a program; None where it sends what the chip's bandwidth is not known for.

    Args:
      sides: of the slice, in chips; () of GPUs.
      hidden_flops: of kernels that the program only names, beside the bytes that they move.
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

    Between slices too, of which each device is one: the host's runtime does it, and says not how.
    """
    size, n = collective.bytes, collective.devices
    if collective.kind == "all-reduce":
        return 2 * size * (n - 1) / n
    if collective.kind == "collective-permute":
        return size
    return size * (n - 1) / n


def egress(chip: Chip, sides: tuple[int, ...], devices: int) -> float | None:
    """Bytes/s that a chip can send to a group of `devices`, over as many sides as it spans.

    A side that is closed to a ring has a wire to either neighbor; at the end of an open one,
    which a ring goes back and forth on, there is only one. A GPU has all its NVLinks to a switch.
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
