"""Laws of bertjax.distributed, on real processes and real signals."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading

import pytest

from bertjax import distributed
from bertjax.distributed import StopSignals
from bertjax.errors import UsageError

LOOP = """
    import sys, time
    from bertjax import distributed
    distributed.initialize()
    with distributed.StopSignals() as signals:
        for step in range(1000):
            print(step, flush=True)
            if signals.should_stop(step):
                print("stopped", step, signals.requested, flush=True)
                {after}
                sys.exit(42)
            time.sleep(0.01)
"""


def start(code, **env):
    command = [sys.executable, "-c", textwrap.dedent(code)]
    env = os.environ | env
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=env, stdout=pipe, stderr=pipe, text=True)


def finish(child):
    out, err = child.communicate(timeout=60)
    return child.returncode, out.splitlines(), err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_loop_after_the_step(number):
    child = start(LOOP.format(after="pass"))
    child.stdout.readline()
    child.send_signal(number)
    code, out, err = finish(child)
    assert code == 42
    assert out[-1].startswith("stopped")
    assert out[-1].endswith(signal.Signals(number).name)
    assert err.count("\n") == 1
    assert err.startswith(signal.Signals(number).name)


def test_a_second_ctrl_c_leaves_at_once():
    child = start(LOOP.format(after="time.sleep(30)"))  # a save that takes long
    child.stdout.readline()
    child.send_signal(signal.SIGINT)
    while not child.stdout.readline().startswith("stopped"):
        pass
    child.send_signal(signal.SIGINT)
    code, _, err = finish(child)
    assert code == 130
    assert err.splitlines()[-1].startswith("second Ctrl-C")


def test_a_second_sigterm_does_not_cut_the_save_short():
    child = start(LOOP.format(after="time.sleep(0.5)"))
    child.stdout.readline()
    child.send_signal(signal.SIGTERM)
    while not child.stdout.readline().startswith("stopped"):
        pass
    child.send_signal(signal.SIGTERM)
    assert finish(child)[0] == 42


def test_handlers_are_put_back():
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    with StopSignals():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == before


def test_no_handlers_outside_the_main_thread():
    seen = []

    def body():
        with StopSignals() as signals:
            seen.append((signal.getsignal(signal.SIGTERM), signals.should_stop(0)))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [(before, False)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_two_processes_stop_at_the_same_step(number):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    children = [
        start(
            LOOP.format(after="pass"),
            JAX_COORDINATOR_ADDRESS=address,
            JAX_NUM_PROCESSES="2",
            JAX_PROCESS_ID=str(index),
        )
        for index in range(2)
    ]
    for child in children:
        child.stdout.readline()
    children[1].send_signal(number)
    results = [finish(child) for child in children]
    assert [code for code, _, _ in results] == [42, 42]
    stops = [out[-1].split() for _, out, _ in results]
    assert stops[0][:2] == stops[1][:2]
    assert stops[0][0] == "stopped"
    assert stops[1][2] == signal.Signals(number).name


@pytest.mark.parametrize(
    "given",
    [
        {"JAX_COORDINATOR_ADDRESS": "127.0.0.1:1"},
        {
            "JAX_COORDINATOR_ADDRESS": "127.0.0.1:1",
            "JAX_NUM_PROCESSES": "two",
            "JAX_PROCESS_ID": "0",
        },
    ],
)
def test_half_a_cluster_is_a_usage_error(monkeypatch, given):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="set all three"):
        distributed.initialize()
