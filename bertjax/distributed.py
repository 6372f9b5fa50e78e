"""Start-up of the processes of one run, and the signals that ask it to stop."""

import os
import signal
import threading

import jax
from jax.experimental import multihost_utils

from bertjax import errors
from bertjax.errors import UsageError

# What bertjax reads, and what a launcher therefore sets, for every process of one run.
ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"

# Set inside a step of `srun` and under `mpirun`; JAX finds the coordinator from there on its own.
_LAUNCHER_COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")


def initialize():
    """Joins the other processes of this run, if there are any. Call it before any other JAX call.

    Several processes are meant where JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
    JAX_PROCESS_ID are set, or where Slurm, Open MPI or a GKE TPU slice started more than one.

    Raises:
      UsageError: only some of the three variables are set, or they are no numbers.
    """
    if any(name in os.environ for name in (ADDRESS, COUNT, INDEX)):
        jax.distributed.initialize(*_explicit())
    elif _launched():
        jax.distributed.initialize()


def _explicit() -> tuple[str, int, int]:
    try:
        return os.environ[ADDRESS], int(os.environ[COUNT]), int(os.environ[INDEX])
    except (KeyError, ValueError) as error:
        given = ", ".join(f"{n}={os.environ.get(n, 'unset')}" for n in (ADDRESS, COUNT, INDEX))
        raise UsageError(
            f"{given}: set all three (host:port, number of processes, index of this one), or none"
        ) from error


def _launched() -> bool:
    counts = [int(os.environ.get(name, "1")) for name in _LAUNCHER_COUNTS]
    return max(counts) > 1 or "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")


class StopSignals:
    """While entered, SIGTERM and Ctrl-C ask the run to stop instead of ending it.

        with StopSignals() as signals:
            for step in ...:
                ...
                if signals.should_stop(step): save, then raise Preempted

    The first signal sets `requested` to its name. A second Ctrl-C leaves at once with exit code
    130. Outside the main thread, where Python allows no handlers, nothing is installed.

    With several processes JAX listens for SIGTERM itself, and agrees with the others on the step
    to stop at; a Python handler would take the signal away from it. So Ctrl-C is passed on to JAX
    as a SIGTERM.
    """

    def __init__(self):
        self.requested: str | None = None
        self._interrupts = 0
        self._previous = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            numbers = [signal.SIGINT]
            if not jax.distributed.is_initialized():
                numbers.append(signal.SIGTERM)
            self._previous = {number: signal.signal(number, self._handle) for number in numbers}
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def should_stop(self, step: int) -> bool:
        """True if the run should save and stop after `step`, the same step in every process.

        With several processes every one of them must ask at every step.
        """
        if not jax.distributed.is_initialized():
            return self.requested is not None
        if multihost_utils.reached_preemption_sync_point(step):
            self.requested = self.requested or signal.SIGTERM.name
            return True
        return False

    def _handle(self, number, _):
        if number == signal.SIGINT:
            self._interrupts += 1
        if self._interrupts > 1:
            _say("second Ctrl-C: leaving at once, nothing more is saved")
            os._exit(errors.INTERRUPTED)
        if self.requested is None:
            self.requested = signal.Signals(number).name
            _say(f"{self.requested}: stopping after this step; a second Ctrl-C leaves at once")
            if jax.distributed.is_initialized():
                os.kill(os.getpid(), signal.SIGTERM)


def _say(line: str):
    # print() may not be entered again from a signal handler that interrupted it.
    os.write(2, f"{line}\n".encode())
