"""Laws of bertjax.processes.distributed, on real processes and real signals."""

import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest
from runs import cluster
from xla_flags import CHEAP

from bertjax.errors import UsageError
from bertjax.processes import cluster as cluster_lib
from bertjax.processes import distributed
from bertjax.processes.distributed import StopSignals

LOOP = """
    import sys, time
    from bertjax.processes import distributed
    distributed.initialize()
    with distributed.StopSignals() as signals:
        for step in range(1000):
            print(step, flush=True)
            if signals.should_stop():
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
    assert "second Ctrl-C" in err.splitlines()[-1]


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
            seen.append((signal.getsignal(signal.SIGTERM), signals.should_stop()))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [(before, False)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_two_processes_stop_at_the_same_step(number):
    children = [start(LOOP.format(after="pass"), **mine) for mine in cluster(2)]
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


TPU_WORKER = """
    import http.server, os, sys, threading
    import jax
    from jax._src.clusters import cloud_tpu_cluster
    from bertjax.processes import distributed

    # What the metadata server of a TPU VM says of a slice of two hosts.
    ANSWERS = {
        "agent-worker-number": sys.argv[1],
        "worker-network-endpoints": "unused:one:127.0.0.1,unused:two:127.0.0.1",
        "tpu-env": "ACCELERATOR_TYPE: 'v4-16'\\n",
    }

    class Metadata(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(ANSWERS[self.path.rsplit("/", 1)[1]].encode())
        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ["GCE_METADATA_IP"] = f"127.0.0.1:{server.server_port}"
    # There are no chips here, from which JAX concludes that there is no such server.
    cloud_tpu_cluster.running_in_cloud_tpu_vm = True
    os.environ.pop("TPU_SKIP_MDS_QUERY", None)
    distributed.cluster.is_tpu_vm = lambda: True
    with distributed.processes():
        print(jax.process_index(), jax.process_count(), len(jax.devices()), flush=True)
"""


def test_the_hosts_of_a_tpu_slice_find_each_other():
    command = [sys.executable, "-c", textwrap.dedent(TPU_WORKER)]
    workers = [
        subprocess.Popen(
            [*command, str(index)],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"XLA_FLAGS": CHEAP},
        )
        for index in range(2)
    ]
    outputs = [worker.communicate(timeout=60)[0].splitlines()[-1] for worker in workers]
    assert outputs == ["0 2 2", "1 2 2"]
    assert [worker.returncode for worker in workers] == [0, 0]


@pytest.mark.parametrize(
    ("platforms", "chips", "found"),
    [("", True, True), ("tpu,cpu", True, True), ("cpu", True, False), ("", False, False)],
)
def test_a_tpu_vm_is_a_host_with_chips_that_jax_will_use(monkeypatch, platforms, chips, found):
    pytest.importorskip("libtpu", reason="the tpu extra is not installed")
    monkeypatch.setattr(os.path, "exists", lambda path: chips and path == "/dev/accel0")
    if platforms:
        monkeypatch.setenv("JAX_PLATFORMS", platforms)
    else:
        monkeypatch.delenv("JAX_PLATFORMS")
    assert cluster_lib.is_tpu_vm() == found


FAILURE = """
    import os, sys
    import jax
    from bertjax.processes import distributed
    from bertjax.errors import DataError
    with distributed.processes():
        jax.devices()
        print("up", flush=True)
        if jax.process_index() == 1:
            {failure}
        import time
        time.sleep(60)
"""


@pytest.mark.parametrize(
    ("failure", "code", "line"),
    [
        ("raise DataError('w: damaged')", 65, "process 1: w: damaged; leaving too"),
        ("raise RuntimeError('a defect')", 70, "process 1: a defect; leaving too"),
        (
            "raise jax.errors.JaxRuntimeError('UNAVAILABLE: a link is down')",
            42,
            "process 1: UNAVAILABLE: a link is down; start the same command again",
        ),
        ("os.kill(os.getpid(), 9)", 42, "process 1 is lost; start the same command again"),
    ],
)
def test_what_ends_one_process_ends_the_others_with_its_reason(failure, code, line):
    processes = [start(FAILURE.format(failure=failure), **mine) for mine in cluster(2)]
    results = [finish(process) for process in processes]
    assert results[0][0] == code
    assert results[0][2].splitlines()[-1] == f"bertjax: {line}"
    assert results[1][0] in (code, -9)


UNKNOWN = """
    import os
    from bertjax.processes import distributed, peers
    distributed._START_SECONDS = 10.0
    {lost}
    with distributed.processes():
        pass
"""


@pytest.mark.slow
@pytest.mark.parametrize(("victim", "codes"), [(1, {42}), (0, {42, -6})])
def test_a_process_that_dies_before_it_is_known_to_the_others_ends_them(victim, codes):
    """JAX's start-up is behind it, its connection to process 0 is not made yet.

    Where process 0 dies, its coordination service with it, JAX may abort before we can leave.
    """
    dies = "peers.Peers = lambda *_: os._exit(9)"
    pair = [
        start(UNKNOWN.format(lost=dies if index == victim else ""), **mine)
        for index, mine in enumerate(cluster(2))
    ]
    results = [finish(process) for process in pair]
    code, _, err = results[1 - victim]
    assert code in codes
    assert "Traceback" not in err
    if code == 42:
        assert "bertjax: not all processes reach process 0 at 127.0.0.1: " in err


ROWS = """
    import numpy as np
    import jax
    from jax.experimental import multihost_utils
    from bertjax import sharding
    from bertjax.processes import distributed
    from bertjax.config import Mesh
    with distributed.processes():
        # As the wiring of a slice may order them: the processes take turns.
        devices = sorted(jax.devices(), key=lambda device: (device.id % 2, device.process_index))
        mesh = jax.sharding.Mesh(
            np.array(devices).reshape(4, 1, 1), sharding.AXES,
            axis_types=(jax.sharding.AxisType.Auto,) * 3)
        rows = sharding.local_rows(mesh, 8)
        batch = sharding.to_global(mesh, {"x": 10 * rows[:, None] + np.arange(2)}, 8)
        whole = multihost_utils.process_allgather(batch["x"], tiled=True)
        print(rows.tolist(), whole.tolist(), sep=";", flush=True)
"""


def test_rows_of_a_process_need_not_be_consecutive():
    processes = [
        start(ROWS, XLA_FLAGS="--xla_force_host_platform_device_count=2", **mine)
        for mine in cluster(2)
    ]
    results = [finish(process) for process in processes]
    assert [code for code, _, _ in results] == [0, 0], results
    rows, wholes = zip(*(out[-1].split(";") for _, out, _ in results), strict=True)
    assert rows == ("[0, 1, 4, 5]", "[2, 3, 6, 7]")
    expected = str([[10 * row, 10 * row + 1] for row in range(8)])
    assert wholes == (expected, expected)


@pytest.mark.parametrize("index", [0, 1])
def test_a_process_whose_peers_do_not_appear_asks_to_be_started_again(index):
    child = start(
        """
        from bertjax.processes import distributed
        distributed._START_SECONDS = 1.0
        with distributed.processes():
            pass
        """,
        **cluster(2)[index],
    )
    code, _, err = finish(child)
    assert code == 42
    line = "bertjax: not all processes appeared within 1 s; start them all again"
    assert err.splitlines()[-1] == line
