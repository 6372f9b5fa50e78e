"""NVIDIA GPUs that need not be present: their data for XLA's compiler, and their devices."""

import dataclasses
import math
import os
import re

import jax

from bertjax.errors import UsageError, one_line
from bertjax.metrics import chips

PER_HOST = 8  # GPUs that NVSwitch connects, in every HGX and DGX with the GPUs below


@dataclasses.dataclass(frozen=True)
class Gpu:
    """A GPU's data for the compiler, except memory and bandwidth, which `chips` has.

    Sources: NVIDIA's architecture white papers (A100, H100, Blackwell) and the table of compute
    capabilities in the CUDA C++ programming guide.

    Attributes:
      kind: the device's name as the driver reports it.
      capability: compute capability.
      cores: streaming multiprocessors (SMs).
      lanes: float32 units of an SM.
      clock: boost clock in GHz.
      l2: bytes of L2 cache.
      shared: bytes of shared memory of an SM.
    """

    kind: str
    capability: tuple[int, int]
    cores: int
    lanes: int
    clock: float
    l2: int
    shared: int


_MIB, _KIB = 2**20, 2**10
GPUS = {
    "a100-40gb": Gpu("NVIDIA A100-SXM4-40GB", (8, 0), 108, 64, 1.41, 40 * _MIB, 164 * _KIB),
    "a100": Gpu("NVIDIA A100-SXM4-80GB", (8, 0), 108, 64, 1.41, 40 * _MIB, 164 * _KIB),
    "h100": Gpu("NVIDIA H100 80GB HBM3", (9, 0), 132, 128, 1.98, 50 * _MIB, 228 * _KIB),
    "h200": Gpu("NVIDIA H200", (9, 0), 132, 128, 1.98, 50 * _MIB, 228 * _KIB),
    "b200": Gpu("NVIDIA B200", (10, 0), 148, 128, 1.965, 126 * _MIB, 228 * _KIB),
}
NAMES = f"{', '.join(GPUS)}, followed by x2 to x{PER_HOST} for several GPUs of one host"


def parse(name: str) -> tuple[str, int] | None:
    """`(key of GPUS, number)` of a topology such as `h100` or `h100x8`; None for other names.

    Raises:
      UsageError: more GPUs than one host has; bandwidths between hosts are in no table here.
    """
    found = re.fullmatch(rf"({'|'.join(GPUS)})(?:x(\d+))?", name.lower())
    if not found:
        return None
    number = int(found[2] or 1)
    if not 1 <= number <= PER_HOST:
        raise UsageError(
            f"--topology={name}: {number} GPUs; take 1 to {PER_HOST}, which one host can have"
        )
    return found[1], number


def devices(name: str) -> list[jax.Device]:
    """The GPUs of a name that `parse` accepts, for compilation only.

    Raises:
      UsageError: JAX's CUDA plugin is not installed, or refuses.
    """
    from jax.experimental import topologies

    found = parse(name)
    assert found is not None
    key, number = found
    if not jax.config.jax_platforms:  # type: ignore[attr-defined]
        # Otherwise JAX looks for a driver, and drops the plugin if there is none.
        jax.config.update("jax_platforms", "cpu")
    try:
        return topologies.get_topology_desc(
            key, platform="cuda", target_config=target_config(GPUS[key]), topology=f"1x1x{number}"
        ).devices
    except (NotImplementedError, ImportError, RuntimeError, OSError) as error:
        raise UsageError(
            f"--topology={name}: needs the CUDA compiler: pip install 'bertjax[cuda]' "
            f"({one_line(error, longest=200, first=True)})"
        ) from None


def memory_share() -> float:
    """The share of a GPU's memory that JAX takes: 3/4, or the value of JAX's environment variable.

    Raises:
      UsageError: the variable is not a share.
    """
    for name in ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"):  # the older name
        if text := os.environ.get(name):
            if not re.fullmatch(r"0?\.\d+|1(\.0*)?", text):
                raise UsageError(f"{name}={text}: not a share of the memory; for example .9")
            return float(text)
    return 0.75


def larger_share(chip: chips.Chip | None, needed: float | None) -> float | None:
    """A larger share of a GPU's memory that holds `needed` bytes; None if there is none.

    The share is at most 0.92: the rest is left to CUDA, cuDNN and NCCL.
    """
    if chip is None or not chip.nvlink or needed is None:
        return None
    share = math.ceil(100 * needed / chip.hbm_limit) / 100
    return share if memory_share() < share <= 0.92 else None


def target_config(gpu: Gpu) -> str:
    """XLA's GpuTargetConfigProto as text (xla/stream_executor/device_description.proto).

    Limits of threads, blocks and registers are the same for all compute capabilities from 8.0 on. A
    block may have all shared memory of an SM except 1 KiB, which CUDA keeps.
    """
    chip = chips.CHIPS[gpu.kind]
    major, minor = gpu.capability
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  threads_per_core_limit: 2048
  block_dim_limit_x: {2**31 - 1}
  block_dim_limit_y: {2**16 - 1}
  block_dim_limit_z: {2**16 - 1}
  registers_per_core_limit: {2**16}
  registers_per_block_limit: {2**16}
  shared_memory_per_block: {48 * _KIB}
  shared_memory_per_block_optin: {gpu.shared - _KIB}
  shared_memory_per_core: {gpu.shared}
  core_count: {gpu.cores}
  fpus_per_core: {gpu.lanes}
  clock_rate_ghz: {gpu.clock}
  l2_cache_size: {gpu.l2}
  memory_bandwidth: {chip.hbm:.0f}
  device_memory_size: {chip.hbm_limit:.0f}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "{gpu.kind}"
"""
