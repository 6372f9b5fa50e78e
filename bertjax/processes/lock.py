"""W/lock: only one process at a time writes a run's directory.

On a disk, the owner holds a `flock` on the file, which ends with the owner's process. The file's
content names the owner. In a bucket, the file is an object; every write and removal names the
generation that it replaces, so two processes cannot both succeed.

A `flock` does not reach a bucket or other hosts of a shared disk. So the owner also rewrites the
file every few seconds (a beat). Another start waits for a beat and is then refused; after a minute
without one, it takes the lock over.
"""

import contextlib
import dataclasses
import fcntl
import json
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bertjax import storage
from bertjax.errors import StorageError, UsageError
from bertjax.processes.owner import Owner

BEAT_SECONDS = 10.0
STALE_SECONDS = 60.0  # after this long without a beat, the owner is dead or cut off from W
_NAMING_SECONDS = 2.0  # the longest time in which a new owner writes its name
_LEAVE_SECONDS = 2.0  # the longest time for a release at the end of a process
_WIDTH = 1024  # the file's fixed size in bytes on a disk, so that one write replaces all of it

_log = logging.getLogger(__name__)

_held: set["Lock"] = set()  # the locks of this process, for `release_all`


class Lock:
    """While entered, this process is the only one that writes W.

        with Lock(workdir, "pretrain"):
            ...

    Args:
      workdir: W; created if missing.
      command: the owner's command, for the message to refused processes.
      on_lost: called with one line, from a thread, if another start has taken W over because this
        process was silent for too long. Without `on_lost`, `check` raises.

    Raises:
      UsageError: another process holds W; the message names its host, its process and since when.
      StorageError: the lock cannot be written.
    """

    def __init__(
        self, workdir: Path, command: str, on_lost: Callable[[str], object] | None = None
    ) -> None:
        self._workdir, self._on_lost = workdir, on_lost
        self._mine = Owner.this(command)
        self._beats = 0
        self._version: Any = None
        self._lost: str | None = None
        self._mutex, self._ended = threading.Lock(), threading.Event()

    def __enter__(self) -> "Lock":
        try:
            if storage.is_remote(self._workdir):
                storage.require_bucket(self._workdir)
            else:
                self._workdir.mkdir(parents=True, exist_ok=True)
            while not self._acquire():
                pass  # the lock was removed or changed in between; look at it again
        except OSError as error:
            raise StorageError(f"{error.filename or self._workdir}: {error.strerror}") from None
        _held.add(self)
        threading.Thread(target=self._beat, name="lock", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        with self._mutex:
            _held.discard(self)
            try:
                self._place.remove(self._version)
            except (OSError, StorageError) as error:  # the work is done, so a warning is enough
                _log.warning(f"{self._workdir}/lock: not removed ({error})")
            self._place.close()

    def check(self) -> None:
        """Raises UsageError if another start has taken W over."""
        if self._lost:
            raise UsageError(self._lost)

    def _acquire(self) -> bool:
        path = self._workdir / "lock"
        place = _Object(path) if storage.is_remote(path) else _File(path)
        with contextlib.ExitStack() as stack:
            stack.callback(place.close)
            if place.is_taken:
                raise self._refusal(_holder(place))
            seen = place.read()
            owner = seen and Owner.parse(seen[0])
            if owner and not _is_gone(owner, place):
                self._wait(place, seen[1], owner)
            self._version = place.write(self._contents(), seen[1] if seen else 0)
            if self._version is None:
                return False
            self._place: _File | _Object = place
            stack.pop_all()
        return True

    def _wait(self, place: "_File | _Object", version: Any, owner: Owner) -> None:
        """Returns when the owner has been silent for long enough; raises if the owner is alive."""
        if owner.is_here and not place.is_held:
            raise self._refusal(owner)
        _log.warning(
            f"--workdir={self._workdir}: {owner} left a lock; waiting up to "
            f"{STALE_SECONDS:.0f} s for a sign of life"
        )
        deadline = time.monotonic() + STALE_SECONDS
        while time.monotonic() < deadline:
            time.sleep(min(1.0, STALE_SECONDS / 10))
            seen = place.read()
            if seen is None:
                return
            if seen[1] != version:
                raise self._refusal(Owner.parse(seen[0]))
        _log.warning(f"--workdir={self._workdir}: no sign of life, taken over")

    def _refusal(self, owner: Owner | None) -> UsageError:
        return UsageError(
            f"--workdir={self._workdir}: in use by {owner or 'another process'}; wait for its "
            "end, or take another --workdir"
        )

    def _contents(self) -> bytes:
        return json.dumps(dataclasses.asdict(self._mine) | {"beats": self._beats}).encode()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            # If W is out of reach now, the next beat tries again.
            with self._mutex, contextlib.suppress(OSError, StorageError):
                self._refresh()
            if self._lost:
                if self._on_lost:
                    self._on_lost(self._lost)
                return

    def _refresh(self) -> None:
        if self._ended.is_set():
            return
        self._beats += 1
        version = self._place.write(self._contents(), self._version)
        if version is None:
            seen = self._place.read()
            owner = seen and Owner.parse(seen[0])
            if owner and owner.token == self._mine.token:  # the write worked, its answer was lost
                version = seen[1]
            elif seen is None:  # somebody removed the lock by hand
                version = self._place.write(self._contents(), 0)
            else:
                self._lost = (
                    f"--workdir={self._workdir}: taken over by {owner or 'another process'}"
                )
        self._version = self._version if version is None else version


def require(place: str | os.PathLike) -> None:
    """Raises UsageError if `place` lies in a W that another start has taken over from this process.

    Code that writes W calls this first. Locks with `on_lost` are left to it: a command ends at once.
    """
    wanted = storage.absolute(place)
    for held in list(_held):
        if not held._on_lost and wanted.is_relative_to(storage.absolute(held._workdir)):
            held.check()


def release_all() -> None:
    """Releases all locks of this process in bounded time; call this before `os._exit`."""
    for lock in list(_held):
        thread = threading.Thread(target=lock.__exit__, daemon=True)
        thread.start()
        thread.join(_LEAVE_SECONDS)


def _is_gone(owner: Owner, place: "_File | _Object") -> bool:
    """Whether the owner has surely ended, as far as this machine can tell."""
    if place.is_held:  # this process got the flock: an owner on this machine has ended
        return owner.is_of_this_boot
    return owner.is_here and not owner.runs


def _holder(place: "_File | _Object") -> Owner | None:
    """The owner that holds the flock; waits while a new owner has not yet written its name."""
    deadline = time.monotonic() + _NAMING_SECONDS
    while True:
        seen = place.read()
        owner = seen and Owner.parse(seen[0])
        is_old = owner and owner.is_here and not owner.runs
        if (owner and not is_old) or time.monotonic() > deadline:
            return None if is_old else owner
        time.sleep(0.05)


# The place of a lock is a file or an object. Its version changes with every write; version 0 means
# that there is no lock.


class _File:
    """A lock file. `is_held`: this process has the flock; `is_taken`: another process has it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        while True:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            self.is_held, self.is_taken = self._flock()
            if not self.is_held or self._is_at_its_place():
                return
            os.close(self._file)  # its last owner removed the file in between

    def _flock(self) -> tuple[bool, bool]:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False, True
        except OSError:  # a file system without locks
            return False, False
        return True, False

    def _is_at_its_place(self) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(self._file), os.stat(self._path))
        return False

    def read(self) -> Any:
        with contextlib.suppress(FileNotFoundError):
            contents = self._path.read_bytes().strip()
            return (contents, contents) if contents else None
        return None

    def write(self, contents: bytes, version: Any) -> Any:
        seen = self.read()
        if (seen[1] if seen else 0) != version or not self._is_at_its_place():
            return None
        os.pwrite(self._file, contents.ljust(_WIDTH), 0)
        # Without a flock, two starts may both find no lock: the last one to write owns the lock.
        if not self.is_held and not version:
            time.sleep(1.0)
            return contents if self.read() == (contents, contents) else None
        return contents

    def remove(self, version: Any) -> None:
        seen = self.read()
        if seen and seen[1] == version and self._is_at_its_place():
            self._path.unlink()

    def close(self) -> None:
        os.close(self._file)


class _Object:
    is_held = is_taken = False

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Any:
        with contextlib.suppress(FileNotFoundError):
            headers, contents = storage.request("GET", self._path, alt="media")
            return contents, int(headers["x-goog-generation"])
        return None

    def write(self, contents: bytes, version: Any) -> Any:
        query = {"uploadType": "media", "ifGenerationMatch": str(version)}
        with contextlib.suppress(FileExistsError, FileNotFoundError):
            _, answer = storage.request("POST", self._path, data=contents, **query)
            return int(json.loads(answer)["generation"])
        return None

    def remove(self, version: Any) -> None:
        with contextlib.suppress(FileExistsError, FileNotFoundError):
            storage.request("DELETE", self._path, ifGenerationMatch=str(version))

    def close(self) -> None:
        pass
