"""Laws of bertjax.processes.watchdog."""

import threading
import time

import pytest

from bertjax.processes.watchdog import Watchdog


def test_silence_prints_the_stacks_and_says_how_long(capfd):
    stuck = threading.Event()
    said = []

    def on_stuck(line):
        said.append(line)
        stuck.set()

    with Watchdog(0.3, on_stuck) as watchdog:
        for _ in range(10):
            time.sleep(0.1)
            watchdog.beat()
        assert not stuck.is_set()  # a second in all, never 0.3 s at once
        assert stuck.wait(5)
    assert said == ["no step in 0 s, 0 allowed"]
    assert "test_silence_prints_the_stacks" in capfd.readouterr().err


def test_compiling_is_no_silence():
    said = []
    with Watchdog(0.2, said.append) as watchdog:
        with watchdog.off(), watchdog.off():
            time.sleep(0.6)
        watchdog.beat()
    time.sleep(0.4)  # and after its end it says nothing
    assert said == []


def test_below_zero_watches_nothing():
    said = []
    with Watchdog(-1, said.append):
        time.sleep(0.3)
    assert said == []


@pytest.mark.parametrize(("step_seconds", "limit"), [(0.01, 300), (29, 300), (60, 600)])
def test_the_default_is_ten_median_steps_and_at_least_five_minutes(
    monkeypatch, step_seconds, limit
):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    watchdog = Watchdog(0, print)
    assert watchdog.limit == 3600  # nobody knows how long a first step takes
    for step in range(50):
        clock[0] += step_seconds * (7 if step % 5 == 0 else 1)  # slow now and then
        watchdog.beat()
        for _ in range(9):  # of an evaluation, which is no step
            clock[0] += 0.1
            watchdog.alive()
    assert watchdog.limit == pytest.approx(limit)
    with watchdog.patient():
        assert watchdog.limit == 3600  # as disks and networks take
    assert watchdog.limit == pytest.approx(limit)
    with watchdog.off():
        pass
    assert watchdog.limit == 3600  # what was compiled may take longer than what ran before


def test_a_limit_that_was_asked_for_holds_everywhere():
    watchdog = Watchdog(5, print)
    with watchdog.patient():
        assert watchdog.limit == 5
    assert watchdog.limit == 5
