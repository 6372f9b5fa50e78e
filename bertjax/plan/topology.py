"""TPU slices that need not be there: their devices by name, and what a chip of them can do."""

import dataclasses
import os
import re

import jax

from bertjax.errors import UsageError, one_line
from bertjax.metrics import flops


@dataclasses.dataclass(frozen=True)
class Chip:
    """One JAX device.

    HBM that programs can have, in bytes, is what the compiler names when a program needs more
    (libtpu 0.0.52). Bandwidths in bytes/s are from cloud.google.com/tpu/docs, a page for each
    generation: `link` is one direction of one of the wires between chips (the bandwidth of a chip
    by its ports, 4 or 6, and by the two directions), and `dcn` a chip's share of its pod's
    data-center network (v5e: 6.4 Tb/s for 256 chips). Where no page says so it is from "How to
    Scale Your Model" (Austin et al. 2025), and None where neither does. `torus` is the length from
    which a side is closed to a ring, in slices made of whole cubes (all sides divide by 4).
    """

    hbm_limit: float
    hbm: float
    link: float | None = None
    dcn: float | None = None
    torus: int = 4


_GIB = 2**30
CHIPS = {  # as metrics.PEAK_FLOPS
    "TPU v4": Chip(30.75 * _GIB, 1200e9, 45e9),  # link: Scale Your Model
    "TPU v5 lite": Chip(15.75 * _GIB, 819e9, 50e9, 3.125e9, torus=16),
    "TPU v5": Chip(95.73 * _GIB, 2765e9, 100e9, 6.25e9),  # dcn: Scale Your Model
    "TPU v6 lite": Chip(31.24 * _GIB, 1638e9, 100e9, 12.5e9, torus=16),  # dcn: the same
}
GENERATIONS = "v4:2x2x1 (4x4x4, ...), v5e:2x2 (16x16, ...), v5p:2x2x1 (8x8x8, ...), v6e:2x2 (16x16)"

# What libtpu asks of a machine that has no TPU, and of one whose TPU is at work for another process.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v4-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_LOG_DIR": "disabled",
}


def chip(device) -> Chip | None:
    """What a device can do; None where it is not in the table."""
    return flops.by_kind(CHIPS, device)


def devices(name: str) -> list:
    """The devices of a TPU topology, for compilation only; nothing of it need be there.

    Args:
      name: GENERATION:SIDES, as `v5e:16x16`; `v5e:16x16*2` is two such slices. Sides are in chips.

    Raises:
      UsageError: libtpu is not installed, or knows no such topology.
    """
    if not re.fullmatch(r"\w+:\d+(x\d+)*(\*[1-9]\d*)?", name):
        raise UsageError(
            f"--topology={name}: not GENERATION:SIDES; for example {GENERATIONS}, "
            "with *2 behind it for two slices"
        )
    os.environ.update(_ENVIRONMENT)
    from jax.experimental import topologies

    sides, _, slices = name.lower().partition("*")
    options = {"num_slices": int(slices)} if slices not in ("", "1") else {}
    if sides.startswith("v4"):
        options["chip_config_name"] = "megacore"  # one device a chip, as on the slice itself
    if sides.endswith(":1x1"):  # part of a host, which has at least four otherwise
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        return topologies.get_topology_desc(sides, platform="tpu", **options).devices
    except jax.errors.JaxRuntimeError as error:
        raise UsageError(
            f"--topology={name}: {one_line(error, longest=200, first=True)}; for example {GENERATIONS}"
        ) from None
    except (ImportError, RuntimeError, OSError) as error:  # as JAX words a libtpu that is not there
        raise UsageError(
            f"--topology={name}: needs the TPU compiler, libtpu: pip install 'bertjax[tpu]' "
            f"({one_line(error, longest=200, first=True)})"
        ) from None


def sides(devices: list) -> tuple[int, ...]:
    """Lengths in chips of the sides of a TPU slice, longest first; () where devices have none."""
    coordinates = [d.coords for d in devices if getattr(d, "coords", None) is not None]
    return tuple(sorted((1 + max(axis) for axis in zip(*coordinates, strict=True)), reverse=True))
