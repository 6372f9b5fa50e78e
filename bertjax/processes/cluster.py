"""How a process finds out that it is one of several: variables, launchers, TPU hosts."""

import importlib.util
import os

from bertjax.errors import UsageError

# What bertjax reads, and what a launcher therefore sets, for every process of one run.
ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"

# Set inside a step of `srun` and under `mpirun`; JAX finds the coordinator from there on its own.
_LAUNCHER_COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")


def explicit() -> tuple[str, int, int]:
    """The coordinator's address, the number of processes, the index of this one.

    Raises:
      UsageError: only some of the three variables are set, or they are no numbers.
    """
    try:
        return os.environ[ADDRESS], int(os.environ[COUNT]), int(os.environ[INDEX])
    except (KeyError, ValueError) as error:
        given = ", ".join(f"{n}={os.environ.get(n, 'unset')}" for n in (ADDRESS, COUNT, INDEX))
        raise UsageError(
            f"{given}: set all three (host:port, number of processes, index of this one), or none"
        ) from error


def is_launched() -> bool:
    """Whether Slurm, Open MPI or a TPU slice started several processes."""
    counts = [int(os.environ.get(name, "1")) for name in _LAUNCHER_COUNTS]
    return max(counts) > 1 or "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")


def is_tpu_vm() -> bool:
    """Whether this host has TPU chips that JAX will use."""
    platforms = os.environ.get("JAX_PLATFORMS", "tpu").split(",")
    chips = any(os.path.exists(path) for path in ("/dev/accel0", "/dev/vfio/0"))
    return "tpu" in platforms and chips and importlib.util.find_spec("libtpu") is not None
