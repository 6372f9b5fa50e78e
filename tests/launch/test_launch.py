"""launch/tpu_vm.sh and tpu_queued.sh on a fake cloud that really runs what they send to hosts."""

import json
import os
import pty
import re
import signal
import subprocess
import time

import fake_cloud
import pytest
from fake_cloud import wait_until

COMMIT = re.compile(r"\b[0-9a-f]{40}\b")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    return fake_cloud.make_checkout(tmp_path_factory.mktemp("checkout"))


@pytest.fixture
def cloud(tmp_path, checkout):
    made = fake_cloud.make_cloud(tmp_path, checkout)
    yield made
    made.end_processes()


def golden(cloud, name, *args, **variables):
    """What a dry run prints, with the parts that differ from test to test named."""
    run = cloud.script(name, *args, DRY_RUN="1", **variables)
    assert (run.returncode, cloud.calls()) == (0, []), run.stderr
    text = COMMIT.sub("COMMIT", run.stdout)
    return text.replace(str(cloud.checkout), "CHECKOUT").replace(cloud.environment["TMPDIR"], "TMP")


TPU_VM = "gcloud compute tpus tpu-vm"
WHERE = "--zone=zone-a --project=project --quiet\n"


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (
            ["create", "--spot"],
            f"{TPU_VM} create pod --accelerator-type=v4-16 --version=tpu-ubuntu2204-base --spot {WHERE}",
        ),
        (
            ["create", "--type=v4", "--topology=2x2x4", "--name=other"],
            f"{TPU_VM} create other --type=v4 --topology=2x2x4 --version=tpu-ubuntu2204-base {WHERE}",
        ),
        (
            ["setup"],
            "git -C CHECKOUT bundle create --quiet TMP/bertjax-COMMIT.bundle HEAD\n"
            f"{TPU_VM} scp TMP/bertjax-COMMIT.bundle CHECKOUT/launch/setup_host.sh pod: --worker=all {WHERE}"
            f"{TPU_VM} ssh pod --worker=all '--command=bash setup_host.sh --commit=COMMIT "
            f"--source=bertjax-COMMIT.bundle' {WHERE}",
        ),
        (
            ["run", "--", "bertjax", "pretrain", "--config.data.files=a b"],
            f"{TPU_VM} ssh pod --worker=all '--command=bertjax/launch/setup_host.sh --check=COMMIT' "
            f"--output-directory=None {WHERE}"
            f"{TPU_VM} ssh pod --worker=all '--command=cd bertjax && PATH=$PWD/.venv/bin:$PATH "
            "launch/supervise.sh --state=$HOME/bertjax-run --detach -- bertjax pretrain "
            f"'\\''--config.data.files=a b'\\''' {WHERE}",
        ),
        (
            ["logs", "--worker=3"],
            f"{TPU_VM} ssh pod --worker=3 '--command=tail -n 100 -F bertjax-run/train.log | "
            f'sed -u "s/^/$HOSTNAME: /"\' {WHERE}',
        ),
        (
            ["status"],
            f"{TPU_VM} describe pod '--format=value(state)' {WHERE}"
            f"{TPU_VM} ssh pod --worker=all '--command=bertjax/launch/supervise.sh "
            f"--state=bertjax-run --report' --output-directory=None {WHERE}",
        ),
        (
            ["stop"],
            f"{TPU_VM} ssh pod --worker=all '--command=bertjax/launch/supervise.sh "
            f"--state=bertjax-run --stop' {WHERE}",
        ),
        (["delete"], f"{TPU_VM} delete pod {WHERE}"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_dry_runs_of_tpu_vm_print_exactly_this(cloud, args, expected):
    assert golden(cloud, "tpu_vm.sh", *args) == expected


def test_a_dry_run_of_tpu_queued_prints_exactly_this(cloud):
    queued = "gcloud compute tpus queued-resources"
    described = "'--format=value(state.state,tpu.nodeSpec[0].node.description)'"
    describe = f"{queued} describe pod {described} {WHERE}"
    parts = {
        name: golden(cloud, "tpu_vm.sh", name, *(["--", "bertjax"] if name == "run" else []))
        for name in ("setup", "run", "status", "stop")
    }
    expected = (
        f"# must not be there yet\n{describe}"
        f"# a try\n{queued} create pod --node-id=pod --accelerator-type=v4-16 "
        "--runtime-version=tpu-ubuntu2204-base --valid-until-duration=180m --spot "
        f"--service-account=robot --description=MARK {WHERE}"
        f"# until it is ACTIVE\n{describe}"
        f"# the same commit on every host\n{parts['setup']}# start\n{parts['run']}"
        f"# until it is done\n{describe}{parts['status']}"
        f"# if told to stop, or a host fell out\n{parts['stop']}"
        f"# always\n{queued} delete pod --force {WHERE}"
    )
    args = ["--spot", "--hours=3", "--", "bertjax"]
    text = golden(cloud, "tpu_queued.sh", *args, CREATE_FLAGS="--service-account=robot")
    assert re.sub(r"=tpu_queued\.sh-\S+-\d+-\d+ ", "=MARK ", text) == expected


def test_a_dry_run_of_setup_host_prints_exactly_this(cloud):
    sha = "c" * 40
    args = ["--source=https://example.org/bertjax", f"--dir={cloud.root}/new"]
    text = golden(
        cloud, "setup_host.sh", f"--commit={sha}", *args, PYTHON=fake_cloud.sys.executable
    )
    lines = text.replace("'", "").replace("TMP/cloud", "HOME").splitlines()
    assert lines == [
        "git init --quiet HOME/new",
        "git -C HOME/new fetch --quiet https://example.org/bertjax COMMIT",
        "git -C HOME/new checkout --quiet --detach COMMIT",
        f"{fake_cloud.sys.executable} -m venv --clear HOME/new/.venv",
        "rm -f HOME/new/.venv/.ready",
        "HOME/new/.venv/bin/python -m pip install --quiet --constraint "
        "HOME/new/launch/constraints.txt --editable HOME/new[tpu,gcs]",
    ]


@pytest.mark.parametrize("script", ["tpu_vm.sh", "tpu_queued.sh", "setup_host.sh", "supervise.sh"])
def test_every_script_has_help_and_refuses_what_it_does_not_know(cloud, script):
    text = cloud.script(script, "--help")
    assert text.returncode == 0
    assert text.stdout.startswith(f"usage: {script}")
    assert "DRY_RUN=1" in text.stdout
    refused = cloud.script(script, "--no-such-option=1", "--", "true")
    assert (refused.returncode, refused.stderr.count("\n")) == (64, 1)


@pytest.mark.parametrize("missing", ["NAME", "ZONE", "PROJECT", "VERSION", "ACCELERATOR_TYPE"])
def test_a_missing_setting_is_named_and_nothing_is_called(cloud, missing):
    run = cloud.script("tpu_queued.sh", "--", "true", **{missing: ""})
    assert (run.returncode, run.stderr.count("\n"), cloud.calls()) == (64, 1, [])
    assert missing in run.stderr


# --- one TPU VM


def status(cloud):
    lines = cloud.script("tpu_vm.sh", "status").stdout.splitlines()
    return [line for line in lines if "bash: warning" not in line]


def wait_for_status(cloud, *workers):
    deadline = time.monotonic() + 30
    while status(cloud)[1:] != list(workers):
        assert time.monotonic() < deadline, status(cloud)
        time.sleep(0.05)


SLEEPER = [
    "bash",
    "-c",
    "trap 'exit 42' TERM; echo up $JAX_PROCESS_ID; while :; do sleep 0.05; done",
]


def test_a_tpu_vm_from_its_making_to_its_end(cloud):
    assert cloud.script("tpu_vm.sh", "create").returncode == 0
    assert cloud.exists() == ["pod.json"]
    assert cloud.script("tpu_vm.sh", "setup").returncode == 0
    assert status(cloud) == ["node: READY", "worker 0: not started", "worker 1: not started"]
    run = cloud.script("tpu_vm.sh", "run", "--", *SLEEPER)
    assert run.returncode == 0, run.stderr
    wait_for_status(cloud, "worker 0: running", "worker 1: running")
    again = cloud.script("tpu_vm.sh", "run", "--", *SLEEPER)
    assert again.returncode == 64
    assert "something runs there already" in again.stderr

    logs = cloud.start("tpu_vm.sh", "logs", "--worker=1")
    assert logs.stdout.readline() == "t1v-pod-w-1: up 1\n"
    logs.kill()

    assert cloud.script("tpu_vm.sh", "stop").returncode == 0
    stopped = [f"worker {i}: stopped, exit code 42" for i in (0, 1)]
    assert status(cloud) == ["node: READY", *stopped]
    assert cloud.script("tpu_vm.sh", "delete").returncode == 0
    assert cloud.exists() == []
    gone = cloud.script("tpu_vm.sh", "status")
    assert gone.returncode == 1
    assert "NOT_FOUND" in gone.stderr


def on_host(cloud, number, *command):
    """A command in one host's checkout."""
    return fake_cloud.git(cloud.root / "hosts" / "pod" / str(number) / "bertjax", *command)


def test_training_starts_on_every_host_at_one_commit_or_on_none(cloud):
    cloud.script("tpu_vm.sh", "create")
    cloud.script("tpu_vm.sh", "setup")
    on_host(cloud, 1, "commit", "--quiet", "--allow-empty", "--message=another")
    run = cloud.script("tpu_vm.sh", "run", "--", *SLEEPER)
    assert run.returncode == 65
    assert re.search(r"worker 0: .*ready at [0-9a-f]{40}", run.stdout)
    assert re.search(r"worker 1: .*at commit [0-9a-f]{40}, not [0-9a-f]{40}", run.stdout)
    assert status(cloud)[1:] == ["worker 0: not started", "worker 1: not started"]

    assert cloud.script("tpu_vm.sh", "setup").returncode == 0  # brings it back
    (cloud.root / "hosts/pod/0/bertjax/launch/supervise.sh").write_text("changed")
    refused = cloud.script("tpu_vm.sh", "setup")
    assert refused.returncode == 65
    assert "local changes, not touched:  M launch/supervise.sh" in refused.stderr
    assert cloud.script("tpu_vm.sh", "run", "--", *SLEEPER).returncode == 65


def test_local_changes_are_refused_before_anything_is_made(cloud, checkout):
    try:
        (checkout / "new.py").write_text("")
        for script, *args in (["tpu_vm.sh", "setup"], ["tpu_queued.sh", "--", "true"]):
            run = cloud.script(script, *args)
            assert (run.returncode, cloud.calls()) == (65, [])
            assert "?? new.py" in run.stderr
    finally:
        (checkout / "new.py").unlink()


def test_a_commit_that_the_hosts_could_not_get_is_refused_before_anything_is_made(cloud, tmp_path):
    mine = fake_cloud.make_checkout(tmp_path / "mine")
    cloud.checkout = mine
    fake_cloud.git(mine, "checkout", "--quiet", "-b", "aside")
    fake_cloud.git(mine, "commit", "--quiet", "--allow-empty", "--message=aside")
    fake_cloud.git(mine, "checkout", "--quiet", "-")
    for commit, said in {"aside": "not in the history", "nonsense": "no commit"}.items():
        run = cloud.script("tpu_vm.sh", "setup", COMMIT=commit)
        assert (run.returncode, cloud.calls()) == (64, []), commit
        assert said in run.stderr
    short = fake_cloud.git(mine, "rev-parse", "--short", "HEAD")
    assert "--commit=COMMIT --source" in golden(cloud, "tpu_vm.sh", "setup", COMMIT=short)

    fake_cloud.git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{mine}", "shallow")
    cloud.checkout = tmp_path / "shallow"
    for script, *args in (["tpu_vm.sh", "setup"], ["tpu_queued.sh", "--", "true"]):
        run = cloud.script(script, *args)
        assert (run.returncode, cloud.calls()) == (65, [])
        assert "git fetch --unshallow" in run.stderr


def test_an_old_bash_is_named():
    text = (fake_cloud.PROJECT / "launch" / "settings.sh").read_text()
    for version, code in {"3 2": 64, "4 3": 64, "4 4": 0, "5 2": 0}.items():
        script = f"old=({version})\n{text.replace('BASH_VERSINFO', 'old')}"
        run = subprocess.run(["bash", "-c", script, "x.sh"], text=True, capture_output=True)
        assert (run.returncode, "4.4 or later" in run.stderr) == (code, bool(code)), version


# --- setup_host.sh


def test_a_host_is_set_up_once_and_a_half_made_environment_anew(cloud, checkout):
    sha = fake_cloud.git(checkout, "rev-parse", "HEAD")
    home = cloud.root / "home"
    home.mkdir()
    host = json.loads((cloud.root / "environment.json").read_text()) | {"HOME": str(home)}
    args = [f"--commit={sha}", f"--source={checkout}", f"--dir={home}/bertjax"]

    def setup():
        (home / "python.log").write_text("")
        run = cloud.script("setup_host.sh", *args, **host)
        assert (run.returncode, run.stdout) == (0, f"setup_host.sh: ready at {sha}\n"), run.stderr
        steps = re.findall(r"^-m (\w+)", (home / "python.log").read_text(), re.MULTILINE)
        check = cloud.script("setup_host.sh", f"--check={sha}", f"--dir={home}/bertjax", **host)
        assert (check.returncode, check.stdout) == (0, run.stdout)
        return steps

    assert setup() == ["venv", "pip"]
    (home / "bertjax" / "W").mkdir()  # as of --workdir=W
    (home / "bertjax" / "W" / "metrics.jsonl").touch()
    assert setup() == []
    ready = home / "bertjax" / ".venv" / ".ready"
    ready.unlink()  # as after a kill in the middle of pip
    assert cloud.script("setup_host.sh", f"--check={sha}", *args[2:], **host).returncode == 65
    assert setup() == ["venv", "pip"]
    ready.write_text("0" * 40 + "\n")  # another commit's: its environment is brought up to date
    assert setup() == ["pip"]


def test_a_host_without_a_recent_python_says_so(cloud, checkout, tmp_path):
    old = tmp_path / "old-python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    sha = fake_cloud.git(checkout, "rev-parse", "HEAD")
    args = [f"--commit={sha}", f"--source={checkout}", f"--dir={tmp_path}/bertjax"]
    run = cloud.script("setup_host.sh", *args, PYTHON=str(old))
    assert (run.returncode, run.stderr.count("\n")) == (64, 1)
    assert "no Python 3.11" in run.stderr


def test_a_host_with_an_old_python_only_gets_one_by_uv(cloud, checkout, tmp_path):
    home, programs = tmp_path / "home", tmp_path / "bin"
    home.mkdir()
    for name in ("python3.14", "python3.13", "python3.12", "python3.11", "python3"):
        (programs / name).write_text(
            f'#!/bin/sh\necho "$@" >> {home}/old.log\n'
            f'case "$*" in -c*) exit 1 ;; *find*) echo {programs}/host-python ;; esac\n'
        )
        (programs / name).chmod(0o755)
    sha = fake_cloud.git(checkout, "rev-parse", "HEAD")
    args = [f"--commit={sha}", f"--source={checkout}", f"--dir={home}/bertjax"]
    dry = cloud.script("setup_host.sh", *args, HOME=str(home), DRY_RUN="1")
    assert "'install' '--quiet' '--user' 'uv==" in dry.stdout
    assert "'python3.12' '-m' 'venv'" in dry.stdout
    assert "-m" not in (home / "old.log").read_text()
    run = cloud.script("setup_host.sh", *args, HOME=str(home))
    assert run.returncode == 0, run.stderr
    asked = (home / "old.log").read_text().splitlines()[-3:]
    assert re.fullmatch(r"-m pip install --quiet --user uv==[\d.]+", asked[0])
    assert asked[1:] == ["-m uv python install --quiet 3.12", "-m uv python find 3.12"]


def test_a_commit_that_is_not_there_is_named(cloud, checkout, tmp_path):
    args = [f"--commit={'d' * 40}", f"--source={checkout}", f"--dir={tmp_path}/bertjax"]
    run = cloud.script("setup_host.sh", *args)
    assert run.returncode == 65
    assert f"has no commit {'d' * 40}" in run.stderr


# --- queued resources

WAITS = ["CREATING", "ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING"]


def train(cloud, *args, command=("true",), **variables):
    return cloud.script("tpu_queued.sh", "--spot", *args, "--", *command, **variables)


def verbs(cloud):
    """Verbs of all calls, without looking twice at the same thing."""
    return [call[3] for call in cloud.calls() if call[3] != "describe"]


def test_the_resource_is_waited_for_trained_on_and_deleted(cloud):
    cloud.plays([*WAITS, "UNREACHABLE", "ACTIVE"])
    run = train(cloud)
    assert run.returncode == 0, run.stderr
    assert re.findall(r"pod is (\w+)$", run.stderr, re.MULTILINE) == [
        *WAITS,
        "UNKNOWN",
        "ACTIVE",
        "deleted",
    ]
    assert cloud.exists() == []
    assert verbs(cloud)[:4] == ["create", "scp", "ssh", "ssh"]
    assert verbs(cloud)[-1] == "delete"
    assert "--force" in cloud.calls("delete")[0]


def test_a_preempted_resource_is_replaced_and_the_training_started_again(cloud, tmp_path):
    counted = f"echo $JAX_PROCESS_ID >> {tmp_path}/starts; [ -e {tmp_path}/preempted ] || sleep 60"
    preempt = tmp_path / "preempt"
    cloud.plays(
        [*WAITS, f"ACTIVE until {preempt}", "SUSPENDING", "SUSPENDED"], ["PROVISIONING", "ACTIVE"]
    )
    process = cloud.start("tpu_queued.sh", "--spot", "--", "bash", "-c", counted)
    starts = tmp_path / "starts"
    wait_until(lambda: starts.exists() and starts.read_text().count("\n") == 2)
    (tmp_path / "preempted").touch()
    preempt.touch()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert sorted((tmp_path / "starts").read_text().split()) == ["0", "0", "1", "1"]
    assert verbs(cloud).count("create") == verbs(cloud).count("delete") == 2
    assert cloud.exists() == []


def test_a_host_that_was_rebooted_stops_the_others_and_all_start_again(cloud, tmp_path):
    once = (
        f"trap 'exit 42' TERM; [ $JAX_PROCESS_ID = 0 ] || until [ -e {tmp_path}/again ]; do sleep 0.05; done; "
        f"mkdir {tmp_path}/rebooted-$JAX_PROCESS_ID && [ $JAX_PROCESS_ID = 0 ] && kill -9 $PPID && exit 1; "
        f"touch {tmp_path}/again"
    )
    cloud.plays(["ACTIVE"])
    run = train(cloud, "--hours=0.005", command=["bash", "-c", once])
    assert run.returncode == 0, run.stderr
    assert "worker 0: died\n" in run.stderr
    assert "worker 1: running\n" in run.stderr
    assert verbs(cloud).count("create") == verbs(cloud).count("delete") == 1


def test_lost_answers_change_nothing(cloud):
    cloud.plays(["LOST", "ACTIVE"])  # gcloud asks again by itself, for a resource and for a run
    (cloud.root / "repeats").write_text("--detach")
    run = train(cloud, command=["sleep", "0.3"], FAKE_WORKERS="1")
    assert run.returncode == 0, run.stderr
    assert "ALREADY_EXISTS" in run.stderr
    assert "something runs there already" in run.stderr
    assert verbs(cloud).count("create") == verbs(cloud).count("delete") == 1
    assert cloud.exists() == []


@pytest.mark.parametrize("code", [65, pytest.param(130, marks=pytest.mark.slow)])
def test_training_that_no_restart_helps_ends_it_with_its_code(cloud, code):
    cloud.plays(["ACTIVE"])
    one = (
        f"[ $JAX_PROCESS_ID = 0 ] || exit {code}; trap 'exit 42' TERM; while :; do sleep 0.05; done"
    )
    run = train(cloud, command=["bash", "-c", one])
    assert run.returncode == code, run.stderr
    assert f"worker 1: stopped, exit code {code}" in run.stderr
    assert cloud.exists() == []


def test_a_failed_request_is_made_again_until_the_budget_ends(cloud):
    cloud.plays(["FAILED"], "RESOURCE_EXHAUSTED: quota", ["FAILED"])
    run = train(cloud, "--tries=3")
    assert run.returncode == 75
    assert "given up: 3 of 3 tries" in run.stderr
    assert verbs(cloud) == ["create", "delete", "create", "create", "delete"]
    assert cloud.exists() == []


@pytest.mark.parametrize(
    ("states", "hours"),
    [
        (["WAITING_FOR_RESOURCES"], "0.0001"),
        pytest.param(["ACTIVE"], "0.002", marks=pytest.mark.slow),
    ],
)
def test_the_budget_ends_time_and_the_training_is_asked_to_save(cloud, tmp_path, states, hours):
    cloud.plays(states)
    run = train(cloud, f"--hours={hours}", command=["bash", "-c", saving(tmp_path)])
    assert run.returncode == 75
    assert cloud.exists() == []
    assert len(list(tmp_path.glob("saved-*"))) == (2 if states == ["ACTIVE"] else 0)


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGHUP", 129)])
def test_told_to_stop_while_waiting_it_deletes_what_it_made(cloud, name, code):
    cloud.plays(["WAITING_FOR_RESOURCES"])
    cloud.hangs("delete", 0.3)
    process = cloud.start("tpu_queued.sh", "--", "true")
    while "WAITING_FOR_RESOURCES" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(getattr(signal, name))
    wait_until((cloud.root / "hanging").exists)
    os.killpg(process.pid, signal.SIGINT)  # an impatient second Ctrl-C, to all of its group
    process.communicate(timeout=30)
    assert process.returncode == code
    assert cloud.exists() == []
    assert verbs(cloud) == ["create", "delete"]


@pytest.mark.parametrize(
    ("states", "left"),
    [(["SLOW"], []), (["LATE"], []), (["TAKEN", "SLOW"], ["pod.json"])],
    ids=["ours", "ours-later", "somebody-else-s"],
)
def test_told_to_stop_before_the_cloud_answered_it_deletes_what_was_made(cloud, states, left):
    cloud.plays([*states, "WAITING_FOR_RESOURCES"])
    process = cloud.start("tpu_queued.sh", "--", "true", POLL="0.8")
    on_its_way = cloud.root / "on-its-way"
    wait_until(on_its_way.exists if "LATE" in states else cloud.exists)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143
    assert cloud.exists() == left
    assert verbs(cloud) == (["create"] if left else ["create", "delete"])


def saving(folder):
    return (
        f"trap 'touch {folder}/saved-$JAX_PROCESS_ID; exit 42' TERM; while :; do sleep 0.05; done"
    )


def test_a_closed_terminal_saves_and_deletes(cloud, tmp_path):
    cloud.plays(["ACTIVE"])
    terminal, end = pty.openpty()
    command = [cloud.checkout / "launch" / "tpu_queued.sh", "--", "bash", "-c", saving(tmp_path)]
    process = subprocess.Popen(
        ["setsid", "--ctty", *command],
        env=cloud.environment | {"POLL": "0.7", "FAKE_WORKERS": "1"},
        stdin=end,
        stdout=end,
        stderr=end,
    )
    os.close(end)
    wait_until(lambda: len(cloud.calls("ssh")) == 4)  # the last one asks whether it runs
    time.sleep(0.3)  # into the pause between two looks
    os.close(terminal)
    assert process.wait(30) == 129
    assert cloud.exists() == []
    assert (tmp_path / "saved-0").exists()
    log = (tmp_path / "tpu_queued-pod.log").read_text()
    assert log.splitlines()[0] == "tpu_queued.sh: asking the training to save and stop"
    assert log.splitlines()[-1] == "tpu_queued.sh: pod is deleted"


def test_ctrl_c_to_it_and_tee_deletes(cloud, tmp_path):
    cloud.plays(["WAITING_FOR_RESOURCES"])
    log = tmp_path / "log"
    script = f"{cloud.checkout}/launch/tpu_queued.sh -- true 2>&1 | tee {log}"
    process = subprocess.Popen(
        ["bash", "-c", script],
        env=cloud.environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
    )
    wait_until(lambda: log.exists() and "WAITING_FOR_RESOURCES" in log.read_text())
    os.killpg(process.pid, signal.SIGINT)
    process.wait(30)
    said = tmp_path / "tpu_queued-pod.log"
    wait_until(lambda: "pod is deleted" in (said if said.exists() else log).read_text(), seconds=10)
    assert cloud.exists() == []


@pytest.mark.slow
def test_hosts_that_never_answer_neither_outlast_the_budget_nor_keep_the_tpu(cloud, tmp_path):
    cloud.plays(["ACTIVE"])
    cloud.hangs("setup_host.sh")
    run = train(cloud, "--hours=0.0006")
    assert run.returncode == 75
    assert verbs(cloud) == ["create", "scp", "delete"]
    assert cloud.exists() == []


def test_told_to_stop_while_the_hosts_do_not_answer_it_deletes(cloud, tmp_path):
    cloud.plays(["ACTIVE"])
    variables = {"STOP_LIMIT": "0.5", "FAKE_WORKERS": "1"}
    process = cloud.start("tpu_queued.sh", "--", "bash", "-c", saving(tmp_path), **variables)
    wait_until(lambda: len(cloud.calls("ssh")) >= 4)
    cloud.hangs("--state=bertjax-run")  # the questions how it goes, and to stop
    wait_until((cloud.root / "hanging").exists)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 143
    assert "the training may not have saved" in err
    assert cloud.exists() == []


def test_a_deletion_that_fails_is_tried_again_and_then_said(cloud):
    cloud.plays(["FAILED"])
    (cloud.root / "delete_fails").write_text("x")
    assert train(cloud, "--tries=1").returncode == 75
    assert cloud.exists() == []

    # While it changes, nobody can delete it; such attempts are not counted.
    cloud.plays(["FAILED", "PROVISIONING", "DELETING", "FAILED"])
    (cloud.root / "delete_fails").write_text("x" * 99)
    run = train(cloud, "--tries=1", POLL="0.01")
    assert run.returncode == 74
    assert cloud.exists() == ["pod.json"]
    ended = re.findall("is (.*), not deleted yet(.*)", run.stderr)
    assert ended == [("PROVISIONING", ""), ("DELETING", "")] + [
        ("FAILED", f" (attempt {i} of 10)") for i in range(1, 11)
    ]
    last = run.stderr.splitlines()[-4:]
    assert last[0] == "!!! pod WAS NOT DELETED AND MAY GO ON COSTING MONEY. Delete it:"
    command = "gcloud compute tpus queued-resources delete pod --force --zone=zone-a --project=project --quiet"
    assert last[1] == f"!!! {command}"


def test_what_is_there_already_is_refused_and_left_alone(cloud):
    cloud.plays(["ACTIVE"])
    (cloud.root / "queued").mkdir()
    (cloud.root / "queued" / "pod.json").write_text('{"node": "pod", "states": ["ACTIVE"]}')
    run = train(cloud)
    assert run.returncode == 64
    assert "is there already (ACTIVE), and was not made here" in run.stderr
    assert verbs(cloud) == []
    assert "pod.json" in cloud.exists()


def test_nothing_is_made_while_the_cloud_does_not_answer(cloud, tmp_path):
    (tmp_path / "bin" / "gcloud").write_text(
        "#!/bin/sh\necho 'ERROR: project not found' >&2; exit 1\n"
    )
    run = train(cloud)
    assert run.returncode == 74
    assert "the cloud does not answer whether pod exists already" in run.stderr


def test_what_somebody_made_in_between_is_left_alone_too(cloud):
    cloud.plays(["TAKEN", "ACTIVE"])
    run = train(cloud)
    assert run.returncode == 64
    assert "made by somebody else" in run.stderr
    assert verbs(cloud) == ["create"]
    assert "pod.json" in cloud.exists()


def test_a_request_that_can_never_be_met_is_not_repeated(cloud):
    cloud.plays("INVALID_ARGUMENT: accelerator type v4-17 not found")
    run = train(cloud)
    assert run.returncode == 64
    assert "v4-17 not found" in run.stderr
    assert verbs(cloud) == ["create"]


@pytest.mark.slow
def test_replacements_get_the_commit_that_the_first_had(cloud, tmp_path):
    checkout = fake_cloud.make_checkout(tmp_path / "mine")
    cloud.checkout = checkout
    first = fake_cloud.git(checkout, "rev-parse", "HEAD")
    preempt = tmp_path / "preempt"
    cloud.plays([f"ACTIVE until {preempt}", "SUSPENDED"], ["ACTIVE"])
    said = f"git rev-parse HEAD >> {tmp_path}/commits; [ -e {preempt} ] || sleep 60"
    process = cloud.start("tpu_queued.sh", "--", "bash", "-c", said)
    wait_until((tmp_path / "commits").exists)
    fake_cloud.git(checkout, "commit", "--quiet", "--allow-empty", "--message=later")
    (checkout / "draft.py").write_text("")
    preempt.touch()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert set((tmp_path / "commits").read_text().split()) == {first}
