"""Laws of bertjax.metrics.goodput."""

import time

import pytest

from bertjax.metrics.goodput import CATEGORIES, Goodput


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves when it is told to."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def wait(seconds):
        now[0] += seconds

    return wait


def run(clock, steps):
    """A start: 5 s of start-up, 20 of compiling, then steps of 2 s and a wait of 0.5 each."""
    ledger = Goodput(started=time.monotonic())
    clock(5)
    ledger.begin_steps()
    with ledger.spend("compile"):
        clock(20)
    for _ in range(steps):
        with ledger.spend("data"):
            clock(0.5)
        clock(2)
    return ledger


def line(step, ledger):
    return {"step": step} | {f"goodput/{name}": s for name, s in ledger.seconds.items()}


def test_the_time_to_the_first_step_is_that_of_this_start_and_said_once(clock):
    before = run(clock, 10)
    ledger = Goodput(started=time.monotonic())
    clock(2)
    ledger.go_on([line(10, before)], 8)
    with ledger.spend("restore"):
        clock(3)
    assert "first_step" not in ledger.ledger
    said = ledger.first_step()
    assert said == "; 5.0 s from the command to the first step (init 2.0, restore 3.0)"
    clock(7)
    assert ledger.first_step() == ""
    assert ledger.ledger == ledger.seconds | {"first_step": 5.0}


def test_every_second_is_in_one_category(clock):
    ledger = run(clock, 10)
    with ledger.spend("evaluation"):
        clock(1)
        with ledger.spend("compile"):
            clock(3)
        clock(1)
    expected = {"init": 5, "compile": 23, "step": 20, "data": 5, "evaluation": 2}
    assert ledger.seconds == dict.fromkeys(CATEGORIES, 0.0) | expected
    clock(1)
    assert sum(ledger.seconds.values()) == 56  # the whole time since the start
    assert ledger.summary().startswith("time 56 s: compile 41.1%  step 37.5%")


def test_what_was_lost_to_a_kill_is_replay_and_nothing_is_counted_twice(clock):
    first = run(clock, 10)
    kept = line(10, first)
    clock(8)  # four more steps, then a kill
    lines = [{"step": 1, "loss": 9.0}, kept, line(14, first)]
    second = Goodput(started=time.monotonic())
    second.go_on(lines, step=10)
    seconds = second.seconds
    assert seconds["replay"] == 8
    assert seconds["step"] == 20
    assert sum(seconds.values()) == 5 + 20 + 25 + 8


def test_a_start_without_a_loss_adds_up(clock):
    first = line(10, run(clock, 10))
    second = run(clock, 4)
    second.go_on([first], step=10)
    assert second.seconds["replay"] == 0
    assert second.seconds["step"] == 28
    assert second.seconds["compile"] == 40


def test_a_kill_before_the_first_checkpoint_replays_all(clock):
    first = run(clock, 3)
    second = Goodput(started=time.monotonic())
    second.go_on([line(3, first)], step=0)
    assert second.seconds["replay"] == 3 * 2.5
    assert second.seconds["step"] == 0
    assert second.seconds["compile"] == 20
