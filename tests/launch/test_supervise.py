"""launch/supervise.sh: what is restarted, when it gives up, and what it does when told to stop."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_cloud import wait_until

SUPERVISE = str(Path(__file__).parents[2] / "launch" / "supervise.sh")
EXITS = "echo x >> runs; exit $(sed -n $(wc -l < runs)p codes)"  # the next line of `codes`


def supervise(folder, *args, unit="0.001", **variables):
    return subprocess.run(
        [SUPERVISE, *args],
        cwd=folder,
        env=os.environ | {"SUPERVISE_UNIT": unit} | variables,
        text=True,
        capture_output=True,
        timeout=60,
    )


def start(folder, *args):
    return subprocess.Popen(
        [SUPERVISE, *args],
        cwd=folder,
        text=True,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"SUPERVISE_UNIT": "60"},
    )


def exits(folder, *codes, command=EXITS, options=()):
    (folder / "codes").write_text("".join(f"{code}\n" for code in codes))
    (folder / "runs").unlink(missing_ok=True)
    run = supervise(folder, *options, "--", "bash", "-c", command)
    return run, len((folder / "runs").read_text().split())


@pytest.mark.parametrize("code", [0, 1, 2, 41, 43, 64, 65, 70, 74, 126, 130])
def test_what_a_restart_does_not_help_stops_with_its_code(tmp_path, code):
    run, runs = exits(tmp_path, code)
    assert (run.returncode, runs) == (code, 1)
    assert re.fullmatch(
        rf"\d{{4}}-\d\d-\d\dT[\d:]+Z supervise: attempt=1 code={code} seconds=\d+ step=0: not restarted\n",
        run.stderr,
    )


def test_preempted_lost_or_killed_is_started_again(tmp_path):
    run, runs = exits(tmp_path, 42, 127, 137, 255, 0, options=["--failures=9"])
    assert (run.returncode, runs) == (0, 5)
    attempts = re.findall(r"attempt=(\d) code=(\d+) .*: again in (\S+) s", run.stderr)
    assert attempts == [
        ("1", "42", "0.001"),
        ("2", "127", "0.002"),
        ("3", "137", "0.004"),
        ("4", "255", "0.008"),
    ]


def test_a_command_killed_by_a_signal_counts_with_128_and_its_number(tmp_path):
    run = supervise(tmp_path, "--failures=2", "--", "bash", "-c", "kill -9 $$")
    assert run.returncode == 70
    assert run.stderr.count("code=137") == 2


def test_the_rule_alone_can_be_asked_for(tmp_path):
    answers = {
        code: supervise(tmp_path, f"--would-restart={code}").returncode == 0
        for code in [*range(0, 256, 5), 42, 126, 127, 129, 130, 131, 255, 256]
    }
    expected = {code: code == 42 or (127 <= code <= 255 and code != 130) for code in answers}
    assert answers == expected


def test_a_crash_loop_is_given_up(tmp_path):
    run, runs = exits(tmp_path, *[139] * 9, options=["--failures=4"])
    assert (run.returncode, runs) == (70, 4)
    assert "4 failures within 60 minutes without progress, given up" in run.stderr


METRICS = r"""echo "{{\"step\": {}, \"loss\": 2.5}}" >> W/metrics.jsonl"""


@pytest.mark.parametrize(
    "progress",
    [METRICS.format("$(wc -l < runs)"), "mkdir -p W/checkpoints/$(wc -l < runs)00"],
    ids=["metrics", "checkpoints"],
)
def test_progress_forgives_failures_and_shortens_the_pause(tmp_path, progress):
    (tmp_path / "W").mkdir()
    command = EXITS.replace("exit", f"{progress}; exit")
    run, runs = exits(
        tmp_path, *[42] * 6, 0, command=command, options=["--failures=2", "--workdir=W"]
    )
    assert (run.returncode, runs) == (0, 7)
    assert set(re.findall(r"again in (\S+) s", run.stderr)) == {"0.001"}


@pytest.mark.parametrize(
    "again", [METRICS.format(7), "mkdir -p W/checkpoints/7.tmp W/checkpoints/7"]
)
def test_a_step_reached_before_is_no_progress(tmp_path, again):
    (tmp_path / "W" / "checkpoints" / "7").mkdir(parents=True)
    command = EXITS.replace("exit", f"{again}; exit")
    run, runs = exits(tmp_path, *[42] * 6, command=command, options=["--failures=3", "--workdir=W"])
    assert (run.returncode, runs) == (70, 3)


def test_the_workdir_is_found_in_the_command_and_in_a_bucket(tmp_path):
    (tmp_path / "gcloud").write_text(
        '#!/bin/sh\n[ "$*" = "storage ls gs://b/W/checkpoints/" ] || exit 1\n'
        "echo gs://b/W/checkpoints/; echo gs://b/W/checkpoints/900/; echo gs://b/W/checkpoints/1200/\n"
    )
    (tmp_path / "gcloud").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    forms = (["--workdir=gs://b/W"], ["--workdir", "gs://b/W"], ["-workdir=gs://b/W", "--x"])
    for flags in forms:
        run = supervise(tmp_path, "--", "true", *flags, PATH=path)
        assert "step=1200" in run.stderr, flags


PATIENT = """
import signal, sys, time
def leave(number, _):
    print(signal.Signals(number).name, flush=True)
    sys.exit(int(sys.argv[1]))
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, leave)
print("up", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
@pytest.mark.parametrize("code", [42, 0])
def test_a_signal_reaches_the_command_once_and_nothing_is_restarted(tmp_path, name, code):
    process = start(tmp_path, "--", sys.executable, "-c", PATIENT, str(code))
    assert process.stdout.readline() == "up\n"
    process.send_signal(getattr(signal, name))
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (code, f"{name}\n")
    assert f"told to stop by {name}" in err


def test_a_signal_ends_the_pause_with_the_last_code(tmp_path):
    process = start(tmp_path, "--", "bash", "-c", "exit 42")
    assert "again in 60 s" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=5)
    assert process.returncode == 42


def test_a_command_that_takes_its_time_to_save_is_waited_for(tmp_path):
    slow = PATIENT.replace("sys.exit", "time.sleep(0.5); sys.exit")
    process = start(tmp_path, "--", sys.executable, "-c", slow, "42")
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    process.send_signal(signal.SIGCONT)  # anything else that interrupts a wait
    process.communicate(timeout=30)
    assert process.returncode == 42


def wait_until_up(state):
    wait_until(lambda: "up" in (state / "train.log").read_text())


def test_detached_it_is_reported_stopped_and_never_doubled(tmp_path):
    state = f"--state={tmp_path}/run"

    def report(verb="--report"):
        return supervise(tmp_path, state, verb).stdout.strip()

    assert report() == "supervise: not started"
    patient = ["--detach", "--", sys.executable, "-c", PATIENT, "42"]
    assert supervise(tmp_path, state, *patient).stdout == "supervise: running\n"
    second = supervise(tmp_path, state, *patient)
    assert second.returncode == 64
    assert "something runs there already" in second.stderr
    wait_until_up(tmp_path / "run")
    assert report("--stop") == report() == "supervise: stopped, exit code 42"
    log = (tmp_path / "run" / "train.log").read_text()
    assert log.startswith("up\nSIGTERM\n")
    assert (tmp_path / "run" / "attempts.log").read_text() in log
    assert supervise(tmp_path, state, "--", "true").returncode == 0
    assert report() == "supervise: stopped, exit code 0"


def test_a_supervisor_that_was_killed_leaves_its_command_in_possession(tmp_path):
    state = f"--state={tmp_path}/run"
    supervise(tmp_path, state, "--detach", "--", sys.executable, "-c", PATIENT, "42")
    wait_until_up(tmp_path / "run")
    os.kill(int((tmp_path / "run" / "pid").read_text()), signal.SIGKILL)
    assert supervise(tmp_path, state, "--report").stdout == "supervise: running\n"
    assert supervise(tmp_path, state, "--", "true").returncode == 64
    assert supervise(tmp_path, state, "--stop").stdout == "supervise: died\n"
    assert (tmp_path / "run" / "train.log").read_text() == "up\nSIGTERM\n"


def test_looks_do_not_disturb_each_other_nor_a_start(tmp_path):
    state = f"--state={tmp_path}/run"
    supervise(tmp_path, state, "--", "true")
    look = ["flock", "--shared", "--no-fork", tmp_path / "run" / "lock", "sleep"]  # a long report
    with subprocess.Popen([*look, "60"]) as looking:
        wait_until(lambda: locked(looking))
        assert supervise(tmp_path, state, "--report").stdout == "supervise: stopped, exit code 0\n"
        looking.kill()
    with subprocess.Popen([*look, "0.5"]) as looking:
        wait_until(lambda: locked(looking))
        run = supervise(tmp_path, state, "--", "bash", "-c", "exit 41")
    assert run.returncode == 41


def locked(process):
    """Whether a `flock` has its lock: it becomes its command then."""
    return Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n"


def test_a_start_in_the_background_that_comes_to_nothing_is_said(tmp_path):
    state = f"--state={tmp_path}/run"
    by_name = subprocess.run(
        ["bash", "supervise.sh", state, "--detach", "--", "touch", tmp_path / "ran"],
        cwd=Path(SUPERVISE).parent,
        text=True,
        capture_output=True,
        timeout=30,
    )
    assert by_name.returncode == 0
    wait_until((tmp_path / "ran").exists)
    wait_until(lambda: "stopped" in supervise(tmp_path, state, "--report").stdout)
    (tmp_path / "setsid").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "setsid").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    run = supervise(tmp_path, state, "--detach", "--", "true", PATH=path)
    assert (run.returncode, run.stdout) == (70, "supervise: not started\n")


@pytest.mark.parametrize(
    "args",
    [
        ["--"],
        ["--failures=0", "--", "true"],
        ["--nonsense"],
        ["true"],
        ["--report"],
        ["--would-restart=x"],
    ],
)
def test_misuse_is_one_line_and_64(tmp_path, args):
    run = supervise(tmp_path, *args)
    assert (run.returncode, run.stderr.count("\n")) == (64, 1)


def test_a_dry_run_runs_nothing(tmp_path):
    run = supervise(tmp_path, "--", "touch", "a file", DRY_RUN="1")
    assert (run.returncode, run.stdout) == (0, "'touch' 'a file'\n")
    assert not (tmp_path / "a file").exists()


def test_json_lines_as_the_package_writes_them_are_understood(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 31, "loss": 1.0}) + "\n")
    assert "step=31:" in supervise(tmp_path, "--workdir=.", "--", "true").stderr
