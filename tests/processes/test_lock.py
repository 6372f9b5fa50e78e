"""W/lock: one writer at a time, on a disk and in a bucket, and no lock of the dead."""

import json
import os
import subprocess
import sys
import threading
import time

import fake_gcs
import pytest

from bertjax import storage
from bertjax.errors import StorageError, UsageError
from bertjax.processes import lock
from bertjax.processes.lock import Lock
from bertjax.processes.owner import Owner

pytestmark = pytest.mark.usefixtures("shown")  # what is logged is printed


@pytest.fixture(scope="module")
def server():
    with fake_gcs.serving("locks") as server, pytest.MonkeyPatch.context() as patch:
        for name, value in fake_gcs.environment(server.url).items():
            patch.setenv(name, value)
        yield server


@pytest.fixture(params=["disk", "bucket"])
def workdir(request, tmp_path, server):
    server.buckets["locks"].clear()
    return tmp_path / "w" if request.param == "disk" else storage.path("gs://locks/w")


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(lock, "STALE_SECONDS", 0.6)


def leave_behind(workdir, **changes):
    """A lock whose owner is as given; without changes, this process."""
    contents = json.dumps(vars(Owner.this("pretrain")) | changes)
    if not storage.is_remote(workdir):
        workdir.mkdir(exist_ok=True)
    storage.write(workdir / "lock", contents.encode())
    return contents


def ended_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


ELSEWHERE = {"host": "far", "process": 7, "boot": "another", "since": "2026-01-02 03:04:05 UTC"}


def test_the_second_is_refused_and_the_first_named(workdir):
    with Lock(workdir, "pretrain"):
        with pytest.raises(UsageError) as caught, Lock(workdir, "prepare"):
            pytest.fail("two owners")
        said = str(caught.value)
        assert f"--workdir={workdir}: in use by pretrain on {os.uname().nodename}" in said
        assert f"process {os.getpid()}, since 20" in said
        assert "\n" not in said
    assert not storage.exists(workdir / "lock")
    with Lock(workdir, "prepare"):  # is free again
        pass


def test_a_failure_gives_it_back(workdir):
    with pytest.raises(StorageError), Lock(workdir, "prepare"):
        raise StorageError("full")
    assert not storage.exists(workdir / "lock")
    assert not lock._held


def test_a_dead_owner_of_this_machine_is_followed_at_once(workdir, monkeypatch):
    monkeypatch.setattr(lock, "STALE_SECONDS", 60.0)
    leave_behind(workdir, process=ended_process(), started="1")
    started = time.monotonic()
    with Lock(workdir, "pretrain"):
        assert time.monotonic() - started < 5
        assert Owner.parse(storage.read(workdir / "lock")).process == os.getpid()


def test_a_number_that_another_process_has_now_is_no_owner(workdir):
    leave_behind(workdir, started="1")  # this process's number, of an earlier one
    with Lock(workdir, "pretrain"):
        pass


def test_a_silent_owner_elsewhere_is_waited_for_and_then_followed(workdir, capsys):
    leave_behind(workdir, **ELSEWHERE)
    started = time.monotonic()
    with Lock(workdir, "pretrain"):
        assert 0.6 <= time.monotonic() - started < 5
    said = capsys.readouterr().err
    assert "pretrain on far, process 7, since 2026-01-02 03:04:05 UTC left a lock" in said
    assert "no sign of life, taken over" in said


def test_an_owner_elsewhere_that_gives_a_sign_is_alive(workdir):
    leave_behind(workdir, **ELSEWHERE)
    threading.Timer(0.2, leave_behind, (workdir,), ELSEWHERE | {"token": "1"}).start()
    with pytest.raises(UsageError, match="in use by pretrain on far, process 7"):
        Lock(workdir, "pretrain").__enter__()


def test_an_owner_elsewhere_that_leaves_is_followed(workdir):
    leave_behind(workdir, **ELSEWHERE)
    threading.Timer(
        0.3, storage.remove if storage.is_remote(workdir) else os.unlink, (workdir / "lock",)
    ).start()
    with Lock(workdir, "pretrain"):
        pass


def test_the_owner_gives_signs(workdir):
    with Lock(workdir, "pretrain"):
        seen = set()
        deadline = time.monotonic() + 10
        while len(seen) < 3 and time.monotonic() < deadline:
            seen.add(storage.read(workdir / "lock"))
            time.sleep(0.02)
        assert len(seen) == 3


def test_an_owner_that_was_cut_off_learns_that_another_has_taken_over(workdir):
    lost = threading.Event()
    with Lock(workdir, "prepare", lambda line: lost.set()) as mine:
        mine.check()
        leave_behind(workdir, **ELSEWHERE)
        assert lost.wait(10)
        with pytest.raises(UsageError, match="taken over by pretrain on far, process 7"):
            mine.check()
        lock.require(workdir)  # as `on_lost` ends what writes there
    assert storage.exists(workdir / "lock")  # it is the other's


def test_who_writes_a_directory_that_was_taken_over_is_refused(workdir):
    with Lock(workdir, "pretrain") as mine:
        leave_behind(workdir, **ELSEWHERE)
        deadline = time.monotonic() + 10
        while not mine._lost and time.monotonic() < deadline:
            lock.require(workdir)
            time.sleep(0.02)
        with pytest.raises(UsageError, match="taken over by pretrain on far, process 7"):
            lock.require(workdir / "runs" / "a" / "metrics.jsonl")
        lock.require(f"{workdir}2/metrics.jsonl")
    lock.require(workdir)


def test_an_answer_that_was_lost_loses_nothing(server, monkeypatch):
    workdir, write = storage.path("gs://locks/lost"), lock._Object.write
    with Lock(workdir, "pretrain") as mine:
        monkeypatch.setattr(lock._Object, "write", lambda *a: write(*a) and None)
        time.sleep(0.5)
        monkeypatch.setattr(lock._Object, "write", write)
        time.sleep(0.3)
        mine.check()
    assert not storage.exists(workdir / "lock")


def test_a_bucket_that_does_not_answer_for_a_while_loses_nothing(server, monkeypatch):
    workdir = storage.path("gs://locks/outage")
    with Lock(workdir, "pretrain") as mine:
        server.refuse = lambda *_: 403
        time.sleep(0.5)
        server.refuse = lambda *_: 0
        before = storage.read(workdir / "lock")
        time.sleep(0.5)
        assert storage.read(workdir / "lock") != before
        mine.check()


def test_of_two_that_find_nothing_one_has_it(server):
    """The object's generation decides: both have read before either writes."""
    first, second = (lock._Object(storage.path("gs://locks/race/lock")) for _ in range(2))
    assert first.read() is second.read() is None
    version = first.write(b"{}", 0)
    assert version
    assert second.write(b"{}", 0) is None
    assert second.read() == (b"{}", version)
    second.remove(version + 1)
    assert first.read()


def test_a_disk_without_flock_is_kept_by_signs_of_life(tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(lock.fcntl, "flock", refuse)
    leave_behind(tmp_path, **ELSEWHERE)
    with Lock(tmp_path, "pretrain"):
        assert "taken over" in capsys.readouterr().err
        with pytest.raises(UsageError, match=f"process {os.getpid()}"), Lock(tmp_path, "prepare"):
            pytest.fail("two owners")
    assert not (tmp_path / "lock").exists()


HOLD = """
import sys, time
from bertjax import storage
from bertjax.processes import lock
with lock.Lock(storage.path(sys.argv[1]), "pretrain"):
    print("held", flush=True)
    sys.stdin.readline()
    from bertjax.processes import distributed
    distributed.leave(42, "a peer is lost")
"""


@pytest.mark.parametrize("end", ["kill", "leave"])
def test_whichever_way_its_process_ends(workdir, end):
    command = [sys.executable, "-c", HOLD, str(workdir)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(UsageError, match=f"process {process.pid}, since"):
            Lock(workdir, "prepare").__enter__()
        process.kill() if end == "kill" else process.communicate("\n")
        process.wait()
    assert storage.exists(workdir / "lock") == (end == "kill")
    with Lock(workdir, "prepare"):
        pass
