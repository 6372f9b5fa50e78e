"""Starts and ends the processes of one run, and handles the signals that stop the run."""

import collections
import contextlib
import itertools
import os
import re
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
from jax._src import distributed as jax_distributed  # the key-value store has no public name
from jax.experimental import multihost_utils

from bertjax import errors
from bertjax.errors import BertjaxError, Preempted, one_line
from bertjax.processes import cluster, lock, peers

_START_SECONDS = 300.0  # the limit for the start of all processes

# JAX's own heartbeats are only a backup: peers.py and the watchdog find a lost process sooner and
# report it in one line.
_HEARTBEAT_SECONDS = 900
_SHUTDOWN_SECONDS = 60

# A lost peer may cause an error here before the news of the loss arrives, so wait this long.
_NEWS_SECONDS = 5.0
_WAIT_SECONDS = 86_400  # the limit of a barrier; a lost process ends this one at once anyway

# The runtime's error statuses for trouble that a restart may cure, such as a lost network or host.
_TRANSIENT = r"(UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED)\b|.*(Gloo|heartbeat|coordination)"

_peers: peers.Peers | None = None  # the other processes, if there are any
_owned = False  # whether this process is the run's own, and ends with it (see `processes`)

# JAX identifies a barrier by its name, and a question about signals by its number; neither may
# repeat in the life of a process, even over several runs. All processes of a run count alike.
_barriers: collections.Counter[str] = collections.Counter()
_stop_questions = itertools.count(1)
_sigterm_reported = False  # whether JAX has reported a SIGTERM; its listener reports only one


def initialize() -> None:
    """Joins the other processes of this run, if there are any. Call it before any other JAX call.

    A run has several processes if JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID are
    set, if Slurm or Open MPI started more than one, or on the hosts of a TPU slice (GKE, or a TPU
    VM whose metadata server lists the workers).

    Raises:
      UsageError: only some of the three variables are set, or a count or index is not a number.
    """
    global _owned
    if any(name in os.environ for name in (cluster.ADDRESS, cluster.COUNT, cluster.INDEX)):
        _connect(*cluster.explicit())
    elif cluster.is_launched():
        _connect()
    elif cluster.is_tpu_vm():
        try:
            _connect()
        except ValueError as error:
            if "coordinator_address" not in str(error):  # else no cluster was found: a single host
                raise
    _owned = True
    _watch_peers()


def _connect(*found: Any) -> None:
    line = f"not all processes appeared within {_START_SECONDS:.0f} s; start them all again"
    late = threading.Timer(_START_SECONDS, leave, (errors.RESTART, line))
    late.daemon = True
    late.start()
    try:
        jax.distributed.initialize(
            *found,
            # JAX aborts at its timeout, so the timer above must fire first.
            initialization_timeout=round(2 * _START_SECONDS),
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
        )  # type: ignore[misc]
    except jax.errors.JaxRuntimeError as error:  # such as a taken port or a lost coordinator
        leave(errors.RESTART, f"cannot join the other processes: {one_line(error, first=True)}")
    finally:
        late.cancel()


def _watch_peers() -> None:
    global _peers
    state: Any = jax_distributed.global_state
    if state.client is not None and state.num_processes > 1:
        host = state.coordinator_address.rsplit(":", 1)[0].strip("[]")
        try:
            _peers = peers.Peers(state.client, state.process_id, host)
            wait_for_all("peers", _START_SECONDS)
        except (OSError, jax.errors.JaxRuntimeError) as error:
            reason = f"not all processes reach process 0 at {host}: {one_line(error, first=True)}"
            leave(errors.RESTART, reason)


def wait_for_all(what: str, seconds: float = _WAIT_SECONDS) -> None:
    """Returns when every process of this run has reached the same point, called `what`.

    The barrier does not use devices, because their first wait gives up after half a minute. If a
    process is lost, the others end while they wait.
    """
    state: Any = jax_distributed.global_state
    if state.client is not None and state.num_processes > 1:
        _barriers[what] += 1
        name = f"bertjax/{what}/{_barriers[what]}"
        state.client.wait_at_barrier(name, timeout_in_ms=round(1000 * seconds))


def _listen_again() -> None:
    """Makes JAX listen for SIGTERM again after it has reported one.

    JAX listens only once in the life of a process. The keys below are from
    xla/pjrt/distributed/preemption/preemption_sync_manager.cc.
    """
    global _sigterm_reported
    if not _sigterm_reported:
        return
    state: Any = jax_distributed.global_state
    state.preemption_sync_manager.shutdown()
    state.preemption_sync_manager = None
    wait_for_all("the last signal is over")
    if state.process_id == 0:
        for key in ("RECEIVED_PREEMPTION_NOTICE", "PREEMPTION_CURRENT_COUNTER/"):
            state.client.key_value_delete(key)
    wait_for_all("no signal is known")
    state.initialize_preemption_sync_manager()
    _sigterm_reported = False


def first_decides(value: int) -> int:
    """Returns process 0's value in every process."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def wait_for_news() -> None:
    """Waits while the process that failed first reports why; its report ends this process."""
    if _peers is not None:
        time.sleep(2 * _NEWS_SECONDS)


@contextlib.contextmanager
def processes() -> Iterator[None]:
    """Joins the other processes, and ends together with them.

    A single process ends as Python does. Several processes end in order when the run is done or was
    asked to stop. On any other error, this process tells the others the reason, and all of them end
    at once. They skip JAX's exit barrier then, where each process would wait for the rest.
    """
    global _owned
    initialize()
    try:
        yield
    except BaseException as error:
        if _peers is None:
            raise
        if not isinstance(error, Preempted):
            _leave_with(error)
        _peers.finish(error.exit_code)
        raise
    finally:
        _owned = False
    if _peers is not None:
        _peers.finish(errors.DONE)


def is_owned() -> bool:
    """Whether this process is the run's own, so that it may be ended; not somebody's notebook."""
    return _owned


def leave(code: int, reason: str) -> NoReturn:
    """Ends this process and the others at once, with one line. Does not return."""
    os.write(2, f"bertjax: {reason}\n".encode())
    if _peers is not None:
        _peers.leave(code, reason)
    lock.release_all()
    os._exit(code)


def restart(reason: str) -> NoReturn:
    """Ends this process with the exit code that asks for a restart; one line says why."""
    leave(errors.RESTART, reason)


@contextlib.contextmanager
def alone(directory: Path, command: str) -> Iterator[None]:
    """While entered, only this run writes W: process 0 holds the lock. Raises as `lock.Lock`.

    If another start takes W over, a process that is the run's own ends at once. In somebody else's
    process, the next write to W (`lock.require`) or the end of the block raises UsageError.
    """
    held = lock.Lock(directory, command, restart if _owned else None)
    with held if jax.process_index() == 0 else contextlib.nullcontext():
        yield
        lock.require(directory)


def _leave_with(error: BaseException) -> NoReturn:
    if isinstance(error, BertjaxError):
        leave(error.exit_code, str(error))
    if isinstance(error, KeyboardInterrupt):
        leave(errors.INTERRUPTED, "interrupted")
    time.sleep(_NEWS_SECONDS)  # if a lost peer caused the error, the news ends this process now
    if isinstance(error, jax.errors.JaxRuntimeError) and re.match(_TRANSIENT, str(error)):
        leave(errors.RESTART, one_line(error, first=True))
    traceback.print_exception(error)
    leave(errors.IO if isinstance(error, OSError) else errors.INTERNAL, f"{error}")


class StopSignals:
    """While entered, SIGTERM and Ctrl-C ask the run to stop instead of killing it.

        with StopSignals() as signals:
            for step in ...:
                ...
                if signals.should_stop(): save, then raise Preempted

    The first signal sets `requested` to its name. A second Ctrl-C exits at once with exit code 130;
    in a process that is not the run's own (a notebook) it raises KeyboardInterrupt. The previous
    handlers are restored at the end. Outside the main thread, where Python allows no handlers,
    nothing is installed.

    With several processes, JAX listens for SIGTERM itself and all processes agree on the step to
    stop at. A Python handler would take the signal away from JAX, so there is none for SIGTERM, and
    Ctrl-C sends this process a SIGTERM.
    """

    def __init__(self) -> None:
        self.requested: str | None = None
        self._interrupts = 0
        self._previous = {}

    def __enter__(self) -> "StopSignals":
        _listen_again()
        if threading.current_thread() is threading.main_thread():
            numbers = [signal.SIGINT]
            if not jax.distributed.is_initialized():
                numbers.append(signal.SIGTERM)
            self._previous = {number: signal.signal(number, self._handle) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def should_stop(self) -> bool:
        """Whether the run should save and stop here; the answer is the same in every process.

        With several processes, all of them must ask equally often and at the same places, because
        JAX agrees on the number of the call.
        """
        if not jax.distributed.is_initialized():
            return self.requested is not None
        if multihost_utils.reached_preemption_sync_point(next(_stop_questions)):
            global _sigterm_reported
            _sigterm_reported = True
            self.requested = self.requested or signal.SIGTERM.name
            return True
        return False

    def _handle(self, number: int, _: object) -> None:
        if number == signal.SIGINT:
            self._interrupts += 1
        if self._interrupts > 1 and not _owned:
            raise KeyboardInterrupt
        if self._interrupts > 1:
            leave(errors.INTERRUPTED, "second Ctrl-C: leaving at once, nothing more is saved")
        if self.requested is None:
            self.requested = signal.Signals(number).name
            if _owned:
                _say(f"{self.requested}: stopping after this step; a second Ctrl-C leaves at once")
            if jax.distributed.is_initialized():
                os.kill(os.getpid(), signal.SIGTERM)


def _say(line: str) -> None:
    # A signal handler may have interrupted print(), which must not be re-entered.
    os.write(2, f"{line}\n".encode())
