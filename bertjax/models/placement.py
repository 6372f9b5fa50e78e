"""The interface through which the model places arrays on devices; the model knows no mesh."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any, Protocol

import jax

from bertjax.config import rules
from bertjax.errors import UsageError

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


def can_run(field: str, value: str, needs: dict[str, bool]) -> bool:
    """Whether all that a kernel needs is so.

    Args:
      field, value: of `config.model`; a `value` other than `auto` asks for the kernel by its name.
      needs: what it needs, for people, and whether it is so.

    Raises:
      UsageError: something is not so, and the kernel is asked for by its name.
    """
    lacking = [need for need, met in needs.items() if not met]
    if lacking and value != rules.AUTO:
        raise UsageError(
            f"config.model.{field}={value!r}: needs {' and '.join(lacking)}; "
            f"or set config.model.{field}=xla"
        )
    return not lacking
