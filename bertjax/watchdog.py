"""Ends a process that makes no progress, so that a launcher can start it again."""

import contextlib
import faulthandler
import statistics
import sys
import threading
import time
from collections import deque

STEPS, LEAST_SECONDS = 10, 300.0  # the default: ten median steps, at least five minutes


class Watchdog:
    """Calls `on_stuck` from a thread of its own where no `beat` comes in time.

        with Watchdog(seconds, on_stuck) as watchdog:
            for step in ...:
                with watchdog.off():
                    compile
                watchdog.beat()

    Args:
      seconds: the longest time between two beats; 0 takes ten times the median time of the last
        hundred, at least 300 s; below 0 watches nothing.
      on_stuck: called with one line, after the stacks of all threads were printed to stderr.
    """

    def __init__(self, seconds: float, on_stuck):
        self._seconds, self._on_stuck = seconds, on_stuck
        self._beats = deque(maxlen=100)
        self._last = time.monotonic()
        self._paused = 0
        self._ended = threading.Event()

    def __enter__(self):
        if self._seconds >= 0:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *_):
        self._ended.set()

    @property
    def limit(self) -> float:
        """Seconds without a beat that are too many now."""
        if self._seconds:
            return self._seconds
        return max(LEAST_SECONDS, STEPS * statistics.median(self._beats or [0.0]))

    def beat(self):
        """A step is done."""
        now = time.monotonic()
        self._beats.append(now - self._last)
        self._last = now

    @contextlib.contextmanager
    def off(self):
        """While entered, nothing takes too long: a compilation waits for nobody."""
        self._paused += 1
        try:
            yield
        finally:
            self._last = time.monotonic()
            self._paused -= 1

    def _watch(self):
        while not self._ended.wait(min(self.limit / 10, 5.0)):
            silent = time.monotonic() - self._last
            if not self._paused and silent > self.limit:
                faulthandler.dump_traceback(sys.stderr, all_threads=True)
                self._on_stuck(f"no step in {silent:.0f} s, {self.limit:.0f} allowed")
                return
