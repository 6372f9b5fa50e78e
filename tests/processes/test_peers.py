"""Laws of bertjax.processes.peers, on real processes that know each other by a file instead of JAX."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time

import pytest

from bertjax.errors import DATA, DONE, RESTART

PROCESS = """
    import os, sys, time
    from bertjax.processes.peers import Peers

    class Client:
        def key_value_set(self, key, value):
            with open("key.tmp", "w") as file:
                file.write(value)
            os.rename("key.tmp", "key")
        def blocking_key_value_get(self, key, milliseconds):
            while not os.path.exists("key"):
                time.sleep(0.01)
            return open("key").read()

    index = int(sys.argv[1])
    peers = Peers(Client(), index, "127.0.0.1")
    print("up", flush=True)
    for line in sys.stdin:
        exec(line)
        print("did", flush=True)
"""


@pytest.fixture
def three(tmp_path):
    """Three processes, connected; a line to the stdin of one is a statement that it runs."""
    processes = []
    for index in range(3):
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(PROCESS), str(index)],
                cwd=tmp_path,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    for process in processes:
        assert process.stdout.readline() == "up\n"
    do(processes[0], "while sorted(peers._names.values()) != [1, 2]: time.sleep(0.01)")
    assert processes[0].stdout.readline() == "did\n"  # it has heard who is who
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def do(process, statement):
    process.stdin.write(statement + "\n")
    process.stdin.flush()


def ends(processes, seconds=5):
    """Exit code and stderr of each, which must not take longer."""
    deadline = time.monotonic() + seconds
    codes = [process.wait(max(deadline - time.monotonic(), 0.01)) for process in processes]
    return codes, [process.stderr.read() for process in processes]


@pytest.mark.parametrize("victim", [0, 2])
def test_a_killed_process_takes_the_others_along_within_seconds(three, victim):
    others = [process for index, process in enumerate(three) if index != victim]
    three[victim].kill()
    codes, said = ends(others)
    assert codes == [RESTART] * 2
    expected = f"bertjax: process {victim} is lost; start the same command again\n"
    assert said == [expected] * 2


def test_who_leaves_with_an_error_says_why_to_all(three):
    do(three[1], f"peers.leave({DATA}, 'no such\\nfile')")
    codes, said = ends(three)
    assert codes == [DATA] * 3
    assert said == [
        "bertjax: process 1: no such file; leaving too\n",
        "",
        "bertjax: process 1: no such file; leaving too\n",
    ]


def test_who_leaves_keeps_its_code_while_it_gives_back_its_workdir(three):
    """The others are gone before it is: they do not take it along."""
    do(three[0], "from bertjax.processes import lock; lock.release_all = lambda: time.sleep(1)")
    assert three[0].stdout.readline() == "did\n"
    do(three[0], f"peers.leave({DATA}, 'no such file')")
    codes, said = ends(three)
    assert codes == [DATA] * 3
    assert said[0] == ""


def test_processes_that_end_in_order_do_not_disturb_each_other(three):
    for process in (three[1], three[0], three[2]):
        do(process, f"peers.finish({DONE})")
        assert process.stdout.readline() == "did\n"
        process.stdin.close()
        process.wait(5)
        time.sleep(0.1)
        if process is three[1]:
            assert [p.poll() for p in (three[0], three[2])] == [None, None]
    codes, said = ends(three)
    assert codes == [DONE] * 3
    assert said == ["", "", ""]


def test_a_loss_at_the_end_leaves_a_process_its_own_code(three):
    do(three[0], f"peers.finish({DONE})")
    assert three[0].stdout.readline() == "did\n"
    three[2].send_signal(signal.SIGKILL)
    assert ends([three[0]])[0] == [DONE]


def answer(port, words):
    """What a stranger hears before the connection is closed."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        try:
            connection.sendall(words)
            return connection.recv(100)
        except ConnectionError:  # closed while it still spoke
            return b""


def test_a_stranger_at_the_port_is_turned_away(three, tmp_path):
    port = int(re.match(r"\d+", (tmp_path / "key").read_text())[0])
    for words in (b"\n", b"GET / HTTP/1.1\r\n\r\n", b"leave 0 please\n", os.urandom(9000)):
        assert answer(port, words) == b""
    assert [process.poll() for process in three] == [None] * 3
    three[1].kill()
    assert ends([three[0], three[2]])[0] == [RESTART] * 2


SILENT_HOST = """
    import subprocess, sys
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    command = [sys.executable, "-c", sys.argv[1]]
    two = [subprocess.Popen([*command, str(i)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
           for i in range(2)]
    for process in two:
        process.stdout.readline()
    subprocess.run(["ip", "link", "set", "lo", "down"], check=True)
    print(*[process.wait(40) for process in two])
"""


@pytest.mark.slow
def test_a_host_that_falls_silent_is_lost_within_half_a_minute(tmp_path):
    """A network of their own stops carrying anything: no connection is closed by anybody."""
    isolated = ["unshare", "--map-root-user", "--net"]
    if shutil.which("unshare") is None or subprocess.run([*isolated, "ip", "link"]).returncode:
        pytest.skip("no network namespaces here")
    program = [sys.executable, "-c", textwrap.dedent(SILENT_HOST), textwrap.dedent(PROCESS)]
    done = subprocess.run([*isolated, *program], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == f"{RESTART} {RESTART}\n", done.stderr
    lines = [f"bertjax: process {i} is lost; start the same command again" for i in range(2)]
    assert sorted(done.stderr.splitlines()) == lines
