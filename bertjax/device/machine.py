"""Describes the measured machine: its processor, the cores this process may use, its load."""

import datetime
import importlib.metadata
import os
import platform
import re
from pathlib import Path
from typing import Any

from bertjax import processor

# Instruction sets that decide how fast int8 products are and how they round. Linux's names: x86,
# then ARM.
_SETS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8", "asimd", "asimddp", "i8mm")
_PACKAGES = ("onnxruntime", "jax")


def describe() -> dict[str, Any]:
    """The description that goes with every measurement.

    `processor`, `instruction_sets` (those of `_SETS` that it has), `cores` (as `cores`), `date`
    (ISO 8601, UTC), `load_average` (1, 5 and 15 minutes) and `versions` of the runtimes.
    """
    text = processor.cpuinfo()
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.M)
    now = datetime.datetime.now(datetime.UTC)
    return {
        "processor": model[1] if model else platform.processor() or platform.machine(),
        "instruction_sets": instruction_sets(text),
        "cores": cores(),
        "date": now.isoformat(timespec="seconds"),
        "load_average": [round(x, 2) for x in os.getloadavg()],
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def instruction_sets(cpuinfo: str) -> list[str]:
    """Those of `_SETS` that the first processor of a /proc/cpuinfo has."""
    flags = processor.flags(cpuinfo)
    return [name for name in _SETS if name in flags]


def cores(root: Path = Path("/sys/fs/cgroup"), groups: Path = Path("/proc/self/cgroup")) -> int:
    """Cores that this process can keep busy: its CPU affinity, limited by its cgroups' quota.

    A quota of 1.5 cores counts as 1, because a second thread would be stopped half of the time.
    """
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count() or 1
    return max(1, int(min([allowed, *_quotas(root, groups)])))


def _quotas(root: Path, groups: Path) -> list[float]:
    """Limits, in cores, of this process's cgroup and of those around it (versions 2 and 1)."""
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        lines = []
    tops = {root: "/", root / "cpu": "/"}  # in a container, its own group is the top
    for line in lines:
        _, controllers, own = line.split(":", 2)
        if not controllers:
            tops[root] = own
        elif "cpu" in controllers.split(","):
            tops[root / "cpu"] = own
    found = []
    for top, own in tops.items():
        place = top / own.strip("/")
        for folder in (place, *place.parents):
            if folder.is_relative_to(top):
                found += _quota(folder)
    return found


def _quota(folder: Path) -> list[float]:
    """The limit that one folder sets; [] where it sets none."""
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        return [int(quota) / int(period)] if int(quota) > 0 else []
    except (OSError, ValueError):  # no such file, or "max"
        return []
