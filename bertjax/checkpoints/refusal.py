"""Turns refusals of a disk or an object store into one clear error."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from bertjax import storage
from bertjax.errors import one_line


@contextlib.contextmanager
def storage_errors(directory: Path) -> Iterator[None]:
    """Turns the storage's refusals inside the block into StorageError."""
    try:
        yield
    except Exception as error:
        reason = storage.refusal(error) or _reason(error)
        if reason is None:
            raise
        raise storage.kind_of(error)(
            f"{directory}: checkpoint not written: {reason}; earlier checkpoints are intact: "
            "make room or write access, then run the same command again"
        ) from error


def _reason(error: Exception) -> str | None:
    """The reason of a disk, or of TensorStore (in a ValueError's text); None for other errors."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if not isinstance(error, ValueError):
        return None
    if code := re.search(r"os_error_code='(\d+)'", str(error)):
        return os.strerror(int(code[1]))
    is_status = re.match(r"[A-Z_]+: ", str(error))
    return one_line(error, first=True) if is_status else None
