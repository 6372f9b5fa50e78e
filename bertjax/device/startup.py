"""A process that loads and runs one model only: the time to load it, its first call, its memory.

`python -m bertjax.device.startup` is that process. It reads a JSON object on stdin and writes one.
"""

import dataclasses
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bertjax.convert.pretrained import Hints
from bertjax.device import programs
from bertjax.device.programs import Batch
from bertjax.errors import DataError, one_line

_CALLS = 3  # of a process: the memory of the first may grow in the second


class Start(NamedTuple):
    """What one process, or several of the same model, measured.

    Attributes:
      load_seconds: from the file to a model that takes batches; the file is in the page cache.
      first_call_seconds: the first call after it.
      peak_bytes: the most memory the process had resident.
      idle_bytes: what of it there was before the model, with its runtime imported.
    """

    load_seconds: float
    first_call_seconds: float
    peak_bytes: int
    idle_bytes: int


def median(starts: Sequence[Start]) -> Start:
    """Medians of several processes' times, and the most memory that any of them had."""
    return Start(
        statistics.median(s.load_seconds for s in starts),
        statistics.median(s.first_call_seconds for s in starts),
        max(s.peak_bytes for s in starts),
        max(s.idle_bytes for s in starts),
    )


def measure(place: str, hints: Hints, batch: Batch, threads: int) -> Start:
    """Starts the process, waits for its end.

    Raises:
      DataError: the process fails: with its own line, or killed.
    """
    arrays = {name: array.tolist() for name, array in batch.items()}
    asked = {
        "place": place,
        "hints": dataclasses.asdict(hints),
        "batch": arrays,
        "threads": threads,
    }
    here = str(Path(__file__).parents[2])  # also where the package is not installed
    path = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    found = subprocess.run(
        [sys.executable, "-m", "bertjax.device.startup"],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
    )
    if found.returncode:
        said = found.stderr.strip().splitlines()[-1:] or [f"exit code {found.returncode}"]
        raise DataError(f"{place}: a process that runs it alone fails: {one_line(said[0])}")
    return Start(**json.loads(found.stdout.splitlines()[-1]))


def _main() -> None:
    asked = json.load(sys.stdin)
    batch = {name: np.array(rows) for name, rows in asked["batch"].items()}
    print(json.dumps(_start(asked, batch)._asdict()))


def _start(asked: dict[str, Any], batch: Batch) -> Start:
    """Loads and runs the model that `measure` asks for."""
    exported = programs.is_export(asked["place"])
    if exported:
        import onnxruntime  # noqa: F401  # its import is no part of the model's load
    else:
        import jax

        import bertjax.convert  # noqa: F401
        from bertjax.convert import stablehlo  # noqa: F401

        jax.devices()
    idle, start = peak_bytes(), time.perf_counter()
    if exported:
        program = programs.open_export(asked["place"], asked["threads"])
    else:
        program, _ = programs.open_source(asked["place"], Hints(**asked["hints"]))
    loaded = time.perf_counter()
    program.run(batch)
    called = time.perf_counter()
    for _ in range(_CALLS - 1):
        program.run(batch)
    return Start(loaded - start, called - loaded, peak_bytes(), idle)


def peak_bytes() -> int:
    """The most memory that this process had resident so far.

    Linux: VmHWM. `ru_maxrss` there begins with what the parent had when it started this process.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # bytes there, KiB elsewhere


if __name__ == "__main__":
    _main()
