"""A file that only grows, where files cannot: on gs://."""

import os
import time

from bertjax import storage
from bertjax.processes import lock

_REWRITE_SECONDS = 60.0


class RemoteLog:
    """A file that only grows, as an object: held in memory and written anew, once a minute.

    `flush` writes where a minute has passed since the last time, `save` and `close` whatever has
    come since.

    Args:
      data: what the object holds already.
    """

    def __init__(self, name: str | os.PathLike, data: bytes = b"") -> None:
        self._name, self._data = os.fspath(name), bytearray(data)
        self._saved, self._time = len(data), time.monotonic()

    def write(self, data: bytes) -> None:
        """Appends, in memory."""
        self._data += data

    def flush(self) -> None:
        """Writes the object if it is a minute old."""
        if time.monotonic() - self._time >= _REWRITE_SECONDS:
            self.save()

    def save(self) -> None:
        """Writes the object if it has grown."""
        if len(self._data) > self._saved:
            lock.require(self._name)
            data = bytes(self._data)
            storage.write(self._name, data)
            self._saved, self._time = len(data), time.monotonic()

    close = save
