"""Output that nobody reads any more: of `bertjax ... | head`, or beside a `tee` that has ended."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO


class Unread(Exception):
    """Whoever read stdout has gone; what is written from here on goes nowhere."""


class _Watched:
    """A text stream that notices when its reader goes.

    Args:
      lasting: go on without a reader; False raises Unread.
    """

    def __init__(self, stream: TextIO, lasting: bool) -> None:
        self._stream, self._lasting = stream, lasting

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._without_reader():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._without_reader():
            self._stream.flush()

    @contextlib.contextmanager
    def _without_reader(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            if not self._lasting:
                raise Unread from None


@contextlib.contextmanager
def watched(*, lasting: bool) -> Iterator[None]:
    """Within, writing to a stdout without a reader raises Unread, or goes nowhere if `lasting`.

    Training goes on: Ctrl-C ends the `tee` of `pretrain | tee log` first, and the state is still to
    be saved. A BrokenPipeError of a network stays one.
    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Watched(sys.stdout, lasting), _Watched(sys.stderr, True)
    try:
        yield
        sys.stdout.flush()
    finally:
        sys.stdout, sys.stderr = before
