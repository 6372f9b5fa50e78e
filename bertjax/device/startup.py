"""Measures load time, first call and memory of a model, in a process that runs only this model.

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

_CALLS = 3  # per process, because the second call may need more memory than the first


class Start(NamedTuple):
    """The measurements of one process, or of several processes with the same model.

    Attributes:
      load_seconds: from the file to a model that takes batches; the file is in the page cache.
      first_call_seconds: the first call after loading.
      peak_bytes: the peak resident memory of the process.
      idle_bytes: that peak before the model was loaded, with its runtime imported.
    """

    load_seconds: float
    first_call_seconds: float
    peak_bytes: int
    idle_bytes: int


def median(starts: Sequence[Start]) -> Start:
    """Medians of several processes' times, and the largest of their memory figures."""
    return Start(
        statistics.median(s.load_seconds for s in starts),
        statistics.median(s.first_call_seconds for s in starts),
        max(s.peak_bytes for s in starts),
        max(s.idle_bytes for s in starts),
    )


def measure(place: str, hints: Hints, batch: Batch, threads: int) -> Start:
    """Runs the process and returns its measurements.

    Raises:
      DataError: the process fails; the message has its last line or its exit code.
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
        raise DataError(f"{place}: fails in a process of its own: {one_line(said[0])}")
    return Start(**json.loads(found.stdout.splitlines()[-1]))


def _main() -> None:
    asked = json.load(sys.stdin)
    batch = {name: np.array(rows) for name, rows in asked["batch"].items()}
    print(json.dumps(_start(asked, batch)._asdict()))


def _start(asked: dict[str, Any], batch: Batch) -> Start:
    """Loads and runs the model that `measure` asks for."""
    exported = programs.is_export(asked["place"])
    if exported:
        import onnxruntime  # noqa: F401  # imported before the clock starts
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
    """The peak resident memory of this process so far.

    On Linux this is VmHWM, because `ru_maxrss` starts with the parent's memory there.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # bytes on macOS, KiB elsewhere


if __name__ == "__main__":
    _main()
