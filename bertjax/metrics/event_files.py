"""TensorBoard's files: tensorboardX, and a way to gs:// for it, as its own needs a login of its own."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from bertjax.errors import StorageError
from bertjax.metrics import remote_log


def writer(directory: str, purge_step: int) -> Any:
    """tensorboardX's writer of a directory; what it held from `purge_step` on is forgotten."""
    with _hidden("torch"):  # imported for a type annotation only, in seconds
        from tensorboardX import SummaryWriter, record_writer

    record_writer.register_writer_factory("gs", sys.modules[__name__])
    return SummaryWriter(directory, purge_step=purge_step)


@contextlib.contextmanager
def _hidden(module: str) -> Iterator[None]:
    """While entered, the import of a module that is not there yet fails as if not installed."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]


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
