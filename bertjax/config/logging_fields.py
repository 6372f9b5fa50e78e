"""The fields of a config that say what a run writes down, and where."""

import dataclasses

from bertjax.config.rules import Count, NotNegative, Positive
from bertjax.config.tree import field

TRACKERS = ("wandb", "mlflow")


@dataclasses.dataclass(frozen=True)
class Logging:
    every_steps: Positive = field(10, "steps between lines of metrics.jsonl")
    tensorboard: bool = field(True, "also write TensorBoard event files")
    trackers: str = field(
        "",
        "experiment trackers that get the figures too, comma-separated: wandb, mlflow (extras of "
        "those names); one that fails is left out, and the run goes on",
    )
    profile_start: Count = field(
        0, "first step of an XProf trace in W/tensorboard (./profile for a W on gs://); 0 for none"
    )
    profile_steps: Positive = field(3, "steps in the trace")
    peak_flops_per_device: NotNegative = field(
        0.0, "peak FLOP/s for utilization; 0 looks the device up (unknown devices report none)"
    )

    @property
    def tracker_names(self) -> tuple[str, ...]:
        """`trackers`, apart."""
        names = (name.strip() for name in self.trackers.split(","))
        return tuple(dict.fromkeys(name for name in names if name))
