"""Lets the processes of one run notice each other's end within seconds, and exit together.

Without this module, a process with a lost peer waits in a collective until JAX's heartbeats time
out (100 s), and is then aborted. Here every process holds a TCP connection to process 0. The kernel
closes the connection however a process ends; keepalive probes detect a lost host. Process 0 tells
the others, and each exits with one line and an exit code. All skip JAX's exit barrier, which a lost
process would never reach.

A message is a line: `done` (this process ends in order) or `leave CODE REASON`. The first line
from a process to process 0 is `TOKEN INDEX`.
"""

import os
import secrets
import selectors
import socket
import threading
from typing import Any

from bertjax import errors
from bertjax.errors import one_line
from bertjax.processes import lock

_KEY = "bertjax/peers"
_LONGEST_LINE = 4096
_STRANGER = -1  # the index of a connection that has not yet named its process
_CONNECT_SECONDS = 300  # as long as the start of all processes may take
# A host that answers no probe is lost after 10 + 4 * 5 seconds.
_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}


class Peers:
    """Watches the other processes in a background thread.

    Args:
      client: JAX's distributed runtime client; its key-value store names process 0's port.
      index: the index of this process.
      host: the host of process 0.
    """

    def __init__(self, client: Any, index: int, host: str) -> None:
        self._selector = selectors.DefaultSelector()
        self._names = {}  # socket -> index of the process at its other end
        self._received = {}  # socket -> bytes of an unfinished line
        self._ended = set()  # processes that said `done`
        self._code: int | None = None  # the exit code, once this process ends in order
        self._leaving = False  # this process exits with its own code; news no longer matters
        if index == 0:
            self._token = secrets.token_hex(16)
            server = _listen()
            self._selector.register(server, selectors.EVENT_READ)
            client.key_value_set(_KEY, f"{server.getsockname()[1]} {self._token}")
        else:
            port, token = client.blocking_key_value_get(_KEY, _CONNECT_SECONDS * 1000).split()
            connection = socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS)
            connection.sendall(f"{token} {index}\n".encode())
            self._add(connection, 0)
        threading.Thread(target=self._watch, name="peers", daemon=True).start()

    def finish(self, code: int) -> None:
        """From now on this process ends in order with `code`, whatever happens to the others."""
        self._code = code
        self._tell("done")

    def leave(self, code: int, reason: str) -> None:
        """Tells the others, which exit too, and ends this process at once. Does not return."""
        self._leaving = True
        self._tell(f"leave {code} {one_line(reason, longest=1000)}")
        lock.release_all()
        os._exit(code)

    def _tell(self, line: str) -> None:
        for connection in list(self._names):
            try:
                connection.sendall(f"{line}\n".encode())
            except OSError:
                continue  # that process is gone; the watching thread will notice

    def _add(self, connection: Any, index: int) -> None:
        connection.settimeout(5)  # for sending; reading waits in the selector
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):  # Linux has all of them
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self._names[connection], self._received[connection] = index, b""
        self._selector.register(connection, selectors.EVENT_READ)

    def _watch(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj in self._names:
                    self._read(key.fileobj)
                else:
                    self._accept(key.fileobj)

    def _accept(self, server: Any) -> None:
        try:
            connection, _ = server.accept()
            self._add(connection, _STRANGER)  # the port is open to the network
        except OSError:
            return  # the connection is gone already; keep watching

    def _read(self, connection: Any) -> None:
        try:
            data = connection.recv(4096)
        except OSError:  # reset, or no answer to the probes
            data = b""
        *lines, rest = (self._received[connection] + data).split(b"\n")
        self._received[connection] = rest
        for line in lines:
            if connection in self._names:
                self._hear(connection, line.decode(errors="replace"))
        if not data or len(rest) > _LONGEST_LINE:
            self._drop(connection)

    def _drop(self, connection: Any) -> None:
        """Closes a connection; if its process has not said `done`, the process is lost."""
        index = self._names.pop(connection, _STRANGER)
        if self._received.pop(connection, None) is not None:
            self._selector.unregister(connection)
            connection.close()
        if index != _STRANGER and index not in self._ended:
            self._follow(errors.RESTART, f"process {index} is lost")

    def _hear(self, connection: Any, line: str) -> None:
        index = self._names[connection]
        word, _, rest = line.partition(" ")
        if index == _STRANGER:
            if secrets.compare_digest(word.encode(), self._token.encode()):
                self._names[connection] = int(rest)
            else:
                self._drop(connection)
        elif word == "done":
            self._ended.add(index)
        elif word == "leave":
            code, _, reason = rest.partition(" ")
            source = "" if reason.startswith("process ") else f"process {index}: "
            self._follow(int(code), source + reason)

    def _follow(self, code: int, reason: str) -> None:
        """Exits because another process did."""
        if self._leaving:
            return
        if self._code is not None:
            self.leave(self._code, reason)
        action = "start the same command again" if code == errors.RESTART else "leaving too"
        os.write(2, f"bertjax: {reason}; {action}\n".encode())
        self.leave(code, reason)


def _listen() -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))
