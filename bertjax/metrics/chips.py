"""What a device can do: the one table of peaks, memories and links, by kind of device."""

import dataclasses

import jax

_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One JAX device.

    Peaks of TPUs are from cloud.google.com/tpu/docs, a page for each generation (v2 and v3 show
    two devices for each chip), those of GPUs from NVIDIA's data sheets of A100, H100, H200 and B200.
    HBM that programs can have is what the compiler names when a program needs more (libtpu
    0.0.52); of GPUs it is what the driver reports. Bandwidths are from the same pages of the TPU
    and data sheets, or where none says so from "How to Scale Your Model" (Austin et al. 2025).

    Attributes:
      peak_flops: dense bfloat16 products, FLOP/s, without sparsity.
      hbm_limit: bytes that programs can have, of a GPU all that it has (`plan.gpus.memory_share` of
        them are JAX's); 0 of chips that no step time is predicted for.
      hbm: bytes/s of the memory, or 0 as well.
      link: bytes/s of one direction of one wire between chips (a chip's bandwidth by its ports, 4
        or 6, and by the two directions); None where nobody says.
      dcn: bytes/s of a chip's share of its pod's data-center network (v5e: 6.4 Tb/s for 256
        chips); None where nobody says.
      torus: length from which a side is closed to a ring, in slices made of whole cubes (all
        sides divide by 4).
      nvlink: bytes/s of one direction, from a GPU to the others of its host; None of TPUs, and of
        GPUs that no step time is predicted for.
    """

    peak_flops: float
    hbm_limit: float = 0.0
    hbm: float = 0.0
    link: float | None = None
    dcn: float | None = None
    torus: int = 4
    nvlink: float | None = None


_V5E = Chip(197e12, 15.75 * _GIB, 819e9, 50e9, 3.125e9, torus=16)
_V5P = Chip(459e12, 95.73 * _GIB, 2765e9, 100e9, 6.25e9)  # dcn: Scale Your Model
_V6E = Chip(918e12, 31.24 * _GIB, 1638e9, 100e9, 12.5e9, torus=16)  # dcn: the same

# By the start of `device_kind`; the longest match counts.
CHIPS = {
    "TPU v2": Chip(45e12 / 2),
    "TPU v3": Chip(123e12 / 2),
    "TPU v4": Chip(275e12, 30.75 * _GIB, 1200e9, 45e9),  # link: Scale Your Model
    "TPU v5 lite": _V5E,
    "TPU v5e": _V5E,
    "TPU v5": _V5P,
    "TPU v5p": _V5P,
    "TPU v6 lite": _V6E,
    "TPU v6e": _V6E,
    "NVIDIA A100": Chip(312e12),
    "NVIDIA A100-SXM4-40GB": Chip(312e12, 39.42 * _GIB, 1555e9, nvlink=300e9),
    "NVIDIA A100-SXM4-80GB": Chip(312e12, 79.15 * _GIB, 2039e9, nvlink=300e9),
    "NVIDIA H100": Chip(989.4e12),
    "NVIDIA H100 80GB HBM3": Chip(989.4e12, 79.11 * _GIB, 3350e9, nvlink=450e9),
    "NVIDIA H100 PCIe": Chip(756e12),
    "NVIDIA H100 NVL": Chip(835e12),
    "NVIDIA H200": Chip(989.4e12, 139.72 * _GIB, 4800e9, nvlink=450e9),
    "NVIDIA H200 NVL": Chip(835e12),
    "NVIDIA B200": Chip(2250e12, 178.35 * _GIB, 8000e9, nvlink=900e9),
}


def chip(device: jax.Device) -> Chip | None:
    """What a device can do; None where it is not in the table."""
    kinds = [kind for kind in CHIPS if device.device_kind.startswith(kind)]
    return CHIPS[max(kinds, key=len)] if kinds else None
