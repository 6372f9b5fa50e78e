"""The lines of a run: library code logs them, a command shows them on its terminal.

Library code writes to loggers named `bertjax...` and prints nothing. A command enters `shown`. Who
calls the library sees its lines where he sets a handler or a level of his own.
"""

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import Any

# `extra` of a record that a command prints on stderr although it is no warning: stdout may be taken
# by results.
STDERR: dict[str, Any] = {"stream": "stderr"}
ALARM: dict[str, Any] = {"style": "bold red"}  # of a warning that a terminal shows in color

_ROOT = "bertjax"  # the logger above all others of the package


class _Lines(logging.Handler):
    """Prints records as plain lines: information on stdout, warnings on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        """Prints; what the stream raises is not caught (`streams.Unread` ends a command)."""
        line, style = record.getMessage(), getattr(record, "style", None)
        aside = record.levelno > logging.INFO or getattr(record, "stream", None) == "stderr"
        stream = sys.stderr if aside else sys.stdout
        if style and stream.isatty():
            from rich.console import Console

            Console(file=stream).print(
                line, style=style, highlight=False, markup=False, soft_wrap=True
            )
        else:
            print(line, file=stream, flush=True)


@contextlib.contextmanager
def shown() -> Iterator[None]:
    """While entered, the lines that library code logs are printed, once, and bars are drawn."""
    if is_shown():
        yield
        return
    logger, handler = logging.getLogger(_ROOT), _Lines()
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


def is_shown() -> bool:
    """Whether a command shows the lines: only then does library code draw a bar."""
    return any(isinstance(each, _Lines) for each in logging.getLogger(_ROOT).handlers)
