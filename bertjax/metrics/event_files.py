"""TensorBoard's files on gs://, for tensorboardX: its own way there needs a login of its own."""

import contextlib

from bertjax.errors import StorageError
from bertjax.metrics import remote_log


def directory_check(_: str) -> None:
    """There are no directories to make."""


def open(name: str) -> "_EventFile":
    """An event file: `write`, `flush`, `close`."""
    return _EventFile(name)


class _EventFile(remote_log.RemoteLog):
    """Its thread must not die of an object store that refuses: the queue to it would fill up."""

    def save(self) -> None:
        with contextlib.suppress(StorageError):  # metrics.jsonl meets the same, and says it
            super().save()

    close = save
