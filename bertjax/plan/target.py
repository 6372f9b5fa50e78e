"""The devices that a plan is for."""

import dataclasses

import jax

from bertjax import config as config_lib
from bertjax.metrics import chips
from bertjax.models import compute_type
from bertjax.plan import gpus, topology


@dataclasses.dataclass(frozen=True)
class Target:
    """The devices that a plan is for.

    Attributes:
      name: name of the topology, or number and kind of this machine's devices.
      hbm_limit: bytes that a program can use on one device; None if unknown.
      chip: data sheet of one device; None if no step time can be predicted for it.
    """

    name: str
    devices: list[jax.Device]
    hbm_limit: float | None
    chip: chips.Chip | None

    @classmethod
    def named(cls, name: str | None) -> "Target":
        """A topology by name; None for this machine's devices. Raises as `topology.devices`."""
        devices = jax.devices() if name is None else topology.devices(name)
        chip = chips.chip(devices[0])
        chip = chip if chip and chip.hbm else None
        limit = chip.hbm_limit if chip else None
        if chip and chip.nvlink:
            limit = chip.hbm_limit * gpus.memory_share()
        if name is None and (chip is None or chip.nvlink):
            limit = (devices[0].memory_stats() or {}).get("bytes_limit", limit)
        kind = f"{len(devices)} {devices[0].device_kind}"
        return cls(name or kind, devices, limit, chip)

    def resolved(self, config: config_lib.Config) -> config_lib.Config:
        """The config with the compute type that `auto` means on these devices."""
        model = compute_type.resolved(config.model, self.devices[0])
        return dataclasses.replace(config, model=model)
