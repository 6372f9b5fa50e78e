"""A real training of two processes on the fake cloud: a host lost, the TPU preempted, one run."""

import json

import fake_cloud
import psutil
import pytest
import runs


def training(root, workdir):
    return ["bertjax", "pretrain", f"--config={root}/config.py", f"--workdir={workdir}"]


def make_cloud(folder, root, checkout):
    folder.mkdir()
    cloud = fake_cloud.make_cloud(folder, checkout)
    hosts = cloud.root / "environment.json"
    variables = {
        "JAX_COMPILATION_CACHE_DIR": str(root / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "SUPERVISE_UNIT": "0.2",
    }
    hosts.write_text(json.dumps(json.loads(hosts.read_text()) | variables))
    return cloud


def kill_training_on_host(cloud, number):
    (process,) = [
        process
        for process in psutil.process_iter(["cmdline", "environ"])
        if process.info["cmdline"][1:4] == ["-m", "bertjax", "pretrain"]
        and process.info["environ"].get("FAKE_HOST") == f"{cloud.root}/hosts/pod/{number}"
    ]
    process.kill()


def wait_for_step(cloud, process, workdir, step):
    try:
        runs.wait_for_step(process, workdir, step)
        assert process.poll() is None
    except BaseException:
        print(*(log.read_text() for log in cloud.root.glob("*/*/*/bertjax-run/train.log")))
        raise


@pytest.mark.slow
def test_a_lost_host_and_a_preemption_leave_no_trace_in_the_result(tmp_path):
    root = tmp_path / "project"
    root.mkdir()
    runs.make_project(root)
    checkout = fake_cloud.make_checkout(tmp_path / "checkout")

    cloud = make_cloud(tmp_path / "undisturbed", root, checkout)
    cloud.plays(["ACTIVE"])
    whole = cloud.script("tpu_queued.sh", "--", *training(root, tmp_path / "whole"), POLL="1")
    assert whole.returncode == 0, whole.stderr

    cloud = make_cloud(tmp_path / "disturbed", root, checkout)
    preempt, workdir = tmp_path / "preempt", tmp_path / "w"
    cloud.plays([f"ACTIVE until {preempt}", "SUSPENDING", "SUSPENDED"], ["PROVISIONING", "ACTIVE"])
    process = cloud.start("tpu_queued.sh", "--spot", "--", *training(root, workdir), POLL="0.3")
    wait_for_step(cloud, process, workdir, 30)
    kill_training_on_host(cloud, 1)
    wait_for_step(cloud, process, workdir, 60)
    preempt.touch()
    _, err = process.communicate(timeout=800)
    assert process.returncode == 0, err
    assert cloud.exists() == []
    assert len(cloud.calls("create")) == len(cloud.calls("delete")) == 2

    attempts = [
        [
            (
                cloud.root / "gone" / f"pod-{life}" / str(host) / "bertjax-run" / "attempts.log"
            ).read_text()
            for host in (0, 1)
        ]
        for life in (0, 1)
    ]
    assert "attempt=1 code=42 " in attempts[0][0]  # the peer of the one that was killed
    assert "attempt=1 code=137 " in attempts[0][1]
    for host in (0, 1):
        assert "attempt=2 code=42 " in attempts[0][host]
        assert "told to stop by SIGTERM" in attempts[0][host]
        assert "attempt=1 code=0 " in attempts[1][host]
    runs.assert_same_run(workdir, tmp_path / "whole")
