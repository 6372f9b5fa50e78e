"""launch/local.py: signals at every moment of a run of several processes on one machine."""

import importlib.util
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import fake_cloud
import pytest

LOCAL = str(Path(__file__).parents[2] / "launch" / "local.py")

# Instead of bertjax: preempted the first time, then trains until it is told to save.
TRAINING = """
import pathlib, signal, sys, time
def save(number, _):
    print("saved after", signal.Signals(number).name, "x" * 100_000)  # more than a pipe holds
    pathlib.Path("saved").touch()
    sys.exit(42)
first = pathlib.Path("first")
if not first.exists():
    first.touch()
    sys.exit(42)
signal.signal(signal.SIGTERM, save)
print("up")
time.sleep(60)
"""


def load():
    spec = importlib.util.spec_from_file_location("local", LOCAL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.BERTJAX = (sys.executable,)
    return module


@pytest.fixture
def process(tmp_path):
    (tmp_path / "training.py").write_text(TRAINING)
    path = [str(Path(__file__).parent), str(Path(fake_cloud.__file__).parent)]
    code = (
        f"import sys; sys.path[:0] = {path}; import test_local; sys.exit(test_local.load().main())"
    )
    command = [sys.executable, "-c", code, "--num_processes=1", "--restarts=2", "--", "training.py"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def read_until(process, text):
    while text not in (line := process.stdout.readline()):
        assert line


def test_told_to_stop_between_two_attempts_nothing_is_started_again(process):
    read_until(process, "2 restarts left")
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (42, "")


def test_a_closed_terminal_lets_all_save(process, tmp_path):
    read_until(process, "up")
    process.stdout.close()  # nobody reads any more
    process.send_signal(signal.SIGHUP)
    assert process.wait(30) == 42
    fake_cloud.wait_until((tmp_path / "saved").exists, seconds=1)


def test_a_signal_while_processes_start_reaches_them():
    arguments = Namespace(num_processes=2, cpu_devices=None, gpus_per_process=None)
    attempt = load().Attempt(arguments, ["-c", "import time; time.sleep(60)"])
    assert attempt.wait([signal.SIGTERM]) == [-signal.SIGTERM] * 2


@pytest.mark.parametrize("victim", [0, 1])
def test_whichever_process_fails_the_one_that_hangs_is_killed(tmp_path, victim):
    (tmp_path / "training.py").write_text(
        "import os, sys, time\n"
        f"if os.environ['JAX_PROCESS_ID'] == '{victim}': sys.exit(42)\n"
        "time.sleep(60)\n"
    )
    module = load()
    module._GRACE_SECONDS = 0.5
    arguments = Namespace(num_processes=2, cpu_devices=0, gpus_per_process=0)
    attempt = module.Attempt(arguments, [str(tmp_path / "training.py")])
    started = time.monotonic()
    codes = attempt.wait([])
    assert codes[victim] == 42
    assert codes[1 - victim] == -signal.SIGKILL
    assert time.monotonic() - started < 30
