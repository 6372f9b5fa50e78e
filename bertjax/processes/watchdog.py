"""Ends a process that makes no progress, so that a launcher can start it again."""

import contextlib
import faulthandler
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

STEPS, LEAST_SECONDS = 10, 300.0  # the default limit: ten median steps, at least five minutes
PATIENT_SECONDS = 3600.0  # the limit for work without a usual time: a first step, a slow save


class Watchdog:
    """Calls `on_stuck` from a background thread if no `beat` comes in time.

        with Watchdog(seconds, on_stuck) as watchdog:
            with watchdog.off():
                compile
            for step in ...:
                watchdog.beat()
                with watchdog.patient():
                    save

    Args:
      seconds: the longest allowed time between two beats. 0 allows ten times the median time of the
        last hundred steps, at least 300 s, or at least an hour while patient. A negative value
        turns the watchdog off.
      on_stuck: called with one line, after the stacks of all threads were printed to stderr.
    """

    def __init__(self, seconds: float, on_stuck: Callable[[str], object]) -> None:
        self._seconds, self._on_stuck = seconds, on_stuck
        self._beats = deque(maxlen=100)
        self._last = time.monotonic()
        self._paused = self._patient = 0
        self._ended = threading.Event()

    def __enter__(self) -> "Watchdog":
        if self._seconds >= 0:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    @property
    def limit(self) -> float:
        """The seconds without a beat that are allowed now."""
        if self._seconds:
            return self._seconds
        usual = STEPS * statistics.median(self._beats or [0.0])
        patient = self._patient or not self._beats
        return max(PATIENT_SECONDS if patient else LEAST_SECONDS, usual)

    def beat(self) -> None:
        """Reports a finished step."""
        self._beats.append(time.monotonic() - self._last)
        self.alive()

    def alive(self) -> None:
        """Reports progress that says nothing about the time of a step."""
        self._last = time.monotonic()

    @contextlib.contextmanager
    def off(self) -> Iterator[None]:
        """While entered, no limit holds, for example during a compilation.

        Afterwards, the step times start anew, because the compiled program may be slower or faster:
        the first step is patient.
        """
        self._paused += 1
        try:
            yield
        finally:
            self._beats.clear()
            self.alive()
            self._paused -= 1

    @contextlib.contextmanager
    def patient(self) -> Iterator[None]:
        """While entered, the longer limit for disks and networks holds."""
        self.alive()
        self._patient += 1
        try:
            yield
        finally:
            self.alive()
            self._patient -= 1

    def _watch(self) -> None:
        while not self._ended.wait(min(self.limit / 10, 5.0)):
            silent = time.monotonic() - self._last
            if not self._paused and silent > self.limit:
                faulthandler.dump_traceback(sys.stderr, all_threads=True)
                self._on_stuck(f"no step in {silent:.0f} s, {self.limit:.0f} allowed")
                return
