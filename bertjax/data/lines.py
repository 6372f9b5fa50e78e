"""Splits the bytes of a text file into lines, with any line ending."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import BinaryIO

BLOCK_BYTES = 1 << 20  # read at a time
_LINE = re.compile(rb"[^\r\n]*(?:\r*\n|\r)|[^\r\n]+")  # slower than bytes.splitlines


def read_lines(file: BinaryIO, longest: int, dropped: Counter) -> Iterator[tuple[int, int, bytes]]:
    """Yields `(line number, byte offset, line)` from the current position of the file.

    A line ends at LF, CRLF (with any number of CRs before the LF) or a lone CR; one file may mix
    them. A line of `longest` bytes or more is left out, counted in `dropped`, and never held whole.
    """
    number, offset, rest, skipped = 0, file.tell(), b"", 0
    while block := _block(file):
        lines = _LINE.findall(block) if b"\r\r\n" in block else block.splitlines(keepends=True)
        lines[0] = rest + lines[0]
        rest = b"" if lines[-1].endswith((b"\n", b"\r")) else lines.pop()
        for line in lines:
            number, length, skipped = number + 1, skipped + len(line), 0
            if length < longest:
                yield number, offset, line
            else:
                dropped[f"line over {longest >> 20} MiB"] += 1
            offset += length
        if skipped + len(rest) >= longest:
            skipped, rest = skipped + len(rest), b""
    if skipped:
        dropped[f"line over {longest >> 20} MiB"] += 1
    elif rest:
        yield number + 1, offset, rest


def _block(file: BinaryIO) -> bytes:
    """The next bytes of a file, b"" at its end. A line ending is never cut in two."""
    block = file.read(BLOCK_BYTES)
    while block.endswith(b"\r") and (more := file.read(1)):
        block += more
    return block
