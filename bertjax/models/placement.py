"""The interface through which the model places arrays on devices; the model knows no mesh."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any, Protocol

import jax

Kernel = Callable[..., Any]  # of arrays, to an array or several


class Placement(Protocol):
    """Where arrays lie while the model uses them; `sharding.Placement` implements it for a mesh."""

    @property
    def device(self) -> jax.Device:
        """A device that the model will run on; this machine need not have it."""

    @property
    def unsplit(self) -> str | None:
        """None if each device can run a kernel on its own share, else the setting to change."""

    def __call__(self, name: str, array: jax.Array) -> jax.Array:
        """Places `array`, which the model calls `name`."""

    def per_shard(self, kernel: Kernel, names: tuple[str, ...]) -> Kernel:
        """The kernel, run by each device on its own share of the arrays.

        Args:
          names: the name of each argument of the kernel, as in `__call__`; results are placed like
            the first argument.
        """


@dataclasses.dataclass(frozen=True)
class Unplaced:
    """A placement that does nothing: for one device, or if the partitioner places the arrays.

    Attributes:
      device: a device that the model will run on; by default one of this machine's.
      unsplit: see `Placement`. Set it for several devices, because no device then knows its share
        of a kernel's arrays.
    """

    device: jax.Device = dataclasses.field(default_factory=lambda: jax.devices()[0])
    unsplit: str | None = None

    def __call__(self, name: str, array: jax.Array) -> jax.Array:
        return array

    def per_shard(self, kernel: Kernel, names: tuple[str, ...]) -> Kernel:
        return kernel


def is_ampere(device: jax.Device) -> bool:
    """Whether it is NVIDIA's, of compute capability 8.0 or later; AMD's say gfx... there."""
    major = re.match(r"(\d+)\.", getattr(device, "compute_capability", "8.0"))
    return device.platform == "gpu" and major is not None and int(major[1]) >= 8
