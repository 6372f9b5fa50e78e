"""The stages of a run: consecutive steps that share one compiled program."""

import dataclasses
import math
from pathlib import Path

from bertjax.config.fields import Config, Phase
from bertjax.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Stage:
    """Steps of a phase with one batch size.

    Attributes:
      name: the name of the phase.
      phase_index: the index of the phase among the phases with steps.
      phase: the phase, with the batch size of this stage.
      first_step: the number of the run's steps before this stage.
      steps: the number of steps in this stage.
      first_row: the number of the phase's rows that earlier stages read.
    """

    name: str
    phase_index: int
    phase: Phase
    first_step: int
    steps: int
    first_row: int

    @property
    def end_step(self) -> int:
        """The number of the run's steps up to the end of this stage."""
        return self.first_step + self.steps

    @property
    def micro_batches(self) -> int:
        """The number of parts of a batch whose gradients are computed one after the other."""
        size = self.phase.batch_size
        return size // math.gcd(size, self.phase.micro_batch_size or size)


def of(config: Config) -> list[Stage]:
    """The stages of all phases with steps, in order; a ramp starts a stage at every doubling."""
    stages, step = [], 0
    for index, (name, phase) in enumerate(config.active_phases.items()):
        row = 0
        for steps, batch_size in _sizes(phase):
            stage = dataclasses.replace(phase, batch_size=batch_size)
            stages.append(Stage(name, index, stage, step, steps, row))
            step, row = step + steps, row + steps * batch_size
    return stages


def at(config: Config, step: int) -> Stage:
    """The stage that runs `step`; past the end, the last stage."""
    return next(stage for stage in reversed(of(config)) if stage.first_step <= step)


def resuming(config: Config, step: int, workdir: Path) -> str:
    """One line about a run that resumes at `step`.

    Raises:
      UsageError: the config ends before `step`, so the existing weights were trained on the
        schedule of a longer run. A launcher stops on exit code 0 as on 64, but the commands that
        follow (evaluate, convert) must not mistake these weights for this config's result.
    """
    end = config.num_steps
    if step > end:
        raise UsageError(
            f"{workdir}: nothing to train: its checkpoint is at step {step:,}, this config ends at "
            f"{end:,}; raise the steps of config.phases, take another --workdir to start over, or "
            f"evaluate the checkpoint: bertjax evaluate --workdir={workdir}"
        )
    return f"resuming at step {step:,} of {end:,}" + (": nothing is left to train" * (step == end))


def _sizes(phase: Phase) -> list[tuple[int, int]]:
    """`(steps, batch size)` of each stage; a ramp doubles the batch after equal step counts."""
    if not phase.ramp_from:
        return [(phase.steps, phase.batch_size)]
    doublings = (phase.batch_size // phase.ramp_from).bit_length() - 1
    ends = [phase.ramp_steps * (i + 1) // doublings for i in range(doublings)] + [phase.steps]
    sizes = [phase.ramp_from << i for i in range(doublings + 1)]
    spans = zip([0, *ends], ends, sizes, strict=False)
    return [(end - start, size) for start, end, size in spans if end > start]
