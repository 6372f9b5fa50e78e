"""The owner of a lock: identifies a process, and tells whether the process still runs."""

import contextlib
import dataclasses
import json
import os
import secrets
import socket
from datetime import UTC, datetime
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Owner:
    """A process, in a form that other processes of its machine can recognize.

    Attributes:
      host, process, since, command: for messages.
      token: random and unique to this owner.
      boot, pids: the boot id of the machine's kernel and the namespace of process numbers.
        Containers may share a host's name, but not both of these.
      started: the process's start time, in ticks of the machine's clock.
    """

    host: str
    process: int
    since: str
    command: str
    token: str
    boot: str
    pids: str | None
    started: str | None

    @classmethod
    def this(cls, command: str) -> "Owner":
        """The current process."""
        return cls(
            host=socket.gethostname(),
            process=os.getpid(),
            since=datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
            command=command,
            token=secrets.token_hex(8),
            boot=_read("/proc/sys/kernel/random/boot_id") or socket.gethostname(),
            pids=_read_link("/proc/self/ns/pid"),
            started=_started(os.getpid()),
        )

    @classmethod
    def parse(cls, contents: bytes) -> "Owner | None":
        """The owner in a lock's contents; None if the contents name no owner."""
        try:
            values = json.loads(contents)
            return cls(**{field.name: values[field.name] for field in dataclasses.fields(cls)})
        except (ValueError, KeyError, TypeError):
            return None

    def __str__(self) -> str:
        return f"{self.command} on {self.host}, process {self.process}, since {self.since}"

    @property
    def is_of_this_boot(self) -> bool:
        """Whether the owner was started on this machine since its last boot."""
        return self.boot == Owner.this("").boot

    @property
    def is_here(self) -> bool:
        """Whether the owner's process number is valid here: same boot, same process namespace."""
        return self.is_of_this_boot and self.pids == _read_link("/proc/self/ns/pid")

    @property
    def runs(self) -> bool:
        """Whether the owner still runs; only meaningful if `is_here`."""
        if os.path.exists("/proc/self/stat"):
            return _started(self.process) == self.started is not None
        try:
            os.kill(self.process, 0)
        except OSError as error:
            return isinstance(error, PermissionError)
        return True


def _started(process: int) -> str | None:
    """The start time of a process of this machine; None if the process has ended."""
    _, _, fields = (_read(f"/proc/{process}/stat") or "").rpartition(")")
    state, *others = fields.split() or ["X"]
    return None if state in "XZ" else others[18]  # a zombie counts as ended


def _read(name: str | Path) -> str | None:
    with contextlib.suppress(OSError):
        return Path(name).read_text().strip()
    return None


def _read_link(name: str | Path) -> str | None:
    with contextlib.suppress(OSError):
        return os.readlink(name)
    return None
