"""A predicted step time from a compiled program and a chip's data sheet. Never a measurement."""

import dataclasses

from bertjax.metrics.chips import Chip
from bertjax.plan import hlo_cost
from bertjax.plan.hlo import Collective, Program

ASSUMPTIONS = (
    "a prediction from data sheets, not a measurement: expect a real step to take longer",
    "every instruction takes the longer of its FLOPs at the chip's bfloat16 peak and its bytes at "
    "the full HBM bandwidth; vector arithmetic (dropout, softmax, GELU) is free",
    "every collective takes its bytes at the full bandwidth of as many sides of the slice as its "
    "group needs, and nothing else runs meanwhile; latency is free",
    "no time for the input pipeline, checkpoints, evaluation or restarts",
)


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Seconds of one step on every device.

    Attributes:
      compute: all FLOPs at the peak.
      memory: all bytes at the HBM bandwidth.
      local: the roofline of every instruction alone, added up; at least either of those.
      ici: collectives between the chips of a slice.
      dcn: collectives between slices.
    """

    compute: float
    memory: float
    local: float
    ici: float
    dcn: float

    @property
    def step(self) -> float:
        """The whole step: nothing overlaps with a collective."""
        return self.local + self.ici + self.dcn


def predict(
    program: Program, chip: Chip, sides: tuple[int, ...], hidden_flops: float = 0.0
) -> Prediction | None:
    """The roofline of a program; None where it sends what the chip's bandwidth is not known for.

    Args:
      sides: of the slice, in chips.
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
    return Prediction(compute, memory, local, ici=seconds[False], dcn=seconds[True])


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
    which a ring goes back and forth on, there is only one.
    """
    if chip.link is None:
        return None
    wires, reached = 0, 1
    cubes = all(side % 4 == 0 for side in sides if side > 1)
    for side in sides:
        if reached < devices and side > 1:
            wires, reached = wires + (2 if cubes and side >= chip.torus else 1), reached * side
    return wires * chip.link
