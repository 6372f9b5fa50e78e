"""TPU slices and GPUs that need not be present: their devices by name."""

import os
import re
from typing import Any

import jax

from bertjax.errors import UsageError, one_line
from bertjax.plan import gpus

GENERATIONS = "v4:2x2x1 (4x4x4, ...), v5e:2x2 (16x16, ...), v5p:2x2x1 (8x8x8, ...), v6e:2x2 (16x16)"

# libtpu needs these on a machine without a TPU, and on one whose TPU another process uses.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v4-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_LOG_DIR": "disabled",
}


def devices(name: str) -> list[jax.Device]:
    """The devices of a topology, for compilation only; the hardware need not be present.

    Args:
      name: GENERATION:SIDES of a TPU slice, such as `v5e:16x16`, with sides in chips; `v5e:16x16*2`
        is two such slices. Or the GPUs of one host, such as `h100` or `h100x8`.

    Raises:
      UsageError: no such topology, or its compiler is not installed.
    """
    return gpus.devices(name) if gpus.parse(name) else _slice(name)


def _slice(name: str) -> list[jax.Device]:
    """As `devices`, for TPU slices."""
    if not re.fullmatch(r"\w+:\d+(x\d+)*(\*[1-9]\d*)?", name):
        raise UsageError(
            f"--topology={name}: not GENERATION:SIDES; for example {GENERATIONS}, "
            f"followed by *2 for two slices; or GPUs: {gpus.NAMES}"
        )
    os.environ.update(_ENVIRONMENT)
    from jax.experimental import topologies

    sides, _, slices = name.lower().partition("*")
    options: dict[str, Any] = {"num_slices": int(slices)} if slices not in ("", "1") else {}
    if sides.startswith("v4"):
        options["chip_config_name"] = "megacore"  # one device a chip, as on the slice itself
    if sides.endswith(":1x1"):  # part of a host; a whole host has at least four chips
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        return topologies.get_topology_desc(sides, platform="tpu", **options).devices
    except jax.errors.JaxRuntimeError as error:
        raise UsageError(
            f"--topology={name}: {one_line(error, longest=200, first=True)}; for example {GENERATIONS}"
        ) from None
    except (ImportError, RuntimeError, OSError) as error:  # JAX raises these without libtpu
        raise UsageError(
            f"--topology={name}: needs the TPU compiler, libtpu: pip install 'bertjax[tpu]' "
            f"({one_line(error, longest=200, first=True)})"
        ) from None


def sides(devices: list[jax.Device]) -> tuple[int, ...]:
    """Lengths in chips of a TPU slice's sides, longest first; () without coordinates."""
    coordinates = [d.coords for d in devices if getattr(d, "coords", None) is not None]
    return tuple(sorted((1 + max(axis) for axis in zip(*coordinates, strict=True)), reverse=True))
