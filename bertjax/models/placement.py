"""What the model asks of whoever knows devices; it knows nothing else of them."""

import dataclasses
from collections.abc import Callable
from typing import Protocol

import jax

Kernel = Callable[..., jax.Array]  # of arrays that all have a batch dimension


class Placement(Protocol):
    """Where arrays lie while they are used; `sharding.Placement` says it of a mesh."""

    @property
    def device(self) -> jax.Device:
        """One of the devices that the model will run on, which need not be at hand."""

    @property
    def unsplit(self) -> str | None:
        """What to set so that a device can run a kernel on its own share; None where it can."""

    def __call__(self, name: str, array: jax.Array) -> jax.Array:
        """`array`, called `name` by the model, where it is to lie."""

    def per_shard(self, kernel: Kernel, names: tuple[str, ...]) -> Kernel:
        """The kernel, run by each device on its own share of the arrays.

        Args:
          names: of the kernel's arguments, as of `__call__`; its result lies as the first.
        """


@dataclasses.dataclass(frozen=True)
class Unplaced:
    """The placement that places nothing: of one device, or left to the partitioner.

    Attributes:
      device: one of those that are meant; by default of those at hand.
      unsplit: as of `Placement`, for several devices, where nothing says which of them runs a
        kernel on what.
    """

    device: jax.Device = dataclasses.field(default_factory=lambda: jax.devices()[0])
    unsplit: str | None = None

    def __call__(self, name: str, array: jax.Array) -> jax.Array:
        return array

    def per_shard(self, kernel: Kernel, names: tuple[str, ...]) -> Kernel:
        return kernel
