"""The rows of a file one by one, however large it is; a damaged one is named and passed over."""

import contextlib
import csv
import gzip
import itertools
import json
import sys
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from bertjax import storage
from bertjax.errors import DataError
from bertjax.finetune.readers.records import Row

STDIN = "-"


class Bad(NamedTuple):
    """A row that cannot be read.

    Attributes:
      id: its number in the file, from 0.
      reason: begins with FILE:LINE.
    """

    id: str
    reason: str


class Line(NamedTuple):
    where: str  # FILE:LINE
    text: str | None  # None where it is not UTF-8


def suffix(path: str) -> str:
    """What says how a file is read: `.jsonl` of `a.jsonl.gz`; "" of standard input."""
    name = path.removesuffix(".gz").rpartition("/")[2].lower()
    return "." + name.rpartition(".")[2] if "." in name else ""


def lines(path: str) -> Iterator[Line]:
    """The lines of a UTF-8 file (`.gz` is unpacked) or, of "-", of standard input.

    Blank lines at the end are left out.

    Raises:
      DataError: the file cannot be read, or has no line that is not blank.
    """
    name, read, blank = "stdin" if path == STDIN else path, False, []
    try:
        with contextlib.ExitStack() as stack:
            file: Any = sys.stdin.buffer
            if path != STDIN:
                file = stack.enter_context(storage.open_file(path))
                if path.endswith(".gz"):
                    file = stack.enter_context(gzip.open(file))
            for number, line in enumerate(file, 1):
                line = line.removesuffix(b"\n").removesuffix(b"\r")
                line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if not line:
                    blank.append(Line(f"{name}:{number}", ""))
                    continue
                yield from blank
                read, blank = True, []
                try:
                    text = line.decode("utf-8")
                except UnicodeDecodeError:
                    text = None
                yield Line(f"{name}:{number}", text)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: truncated or damaged gzip ({error})") from None
    except OSError as error:
        raise DataError(f"{name}: {error.strerror or error}") from None
    if not read:
        raise DataError(f"{name}: an empty file")


def unreadable(number: int, line: Line) -> Bad:
    """The row of a line that is not UTF-8."""
    return Bad(str(number), f"{line.where}: not UTF-8; convert it: iconv -f ... -t UTF-8")


def tsv(found: Iterator[Line], header: tuple[str, ...] = ()) -> Iterator[Row | Bad]:
    """The rows of a TSV file; quotes are literal.

    Args:
      header: the names of the columns, where the first line has none.
    """
    if not header:
        first = next(found)
        header = tuple((first.text or "").split("\t"))
        _require_distinct(header, first)
    for number, line in enumerate(found):
        if line.text is None:
            yield unreadable(number, line)
        else:
            yield _row(header, line.text.split("\t"), line.where, number)


def csv_rows(found: Iterator[Line]) -> Iterator[Row | Bad]:
    """The rows of a CSV file with a header; a quoted text may hold commas and line breaks."""
    csv.field_size_limit(sys.maxsize)  # the module's own, of 131,072, is less than a long context
    at = Line("", "")

    def fed() -> Iterator[str]:
        nonlocal at
        for at in found:
            yield "\ufffd" if at.text is None else f"{at.text}\n"

    reader, header, number = csv.reader(fed(), strict=True), (), 0
    while True:
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Bad(str(number), f"{at.where}: not CSV ({error})")
            number += 1
            continue
        if not values:
            continue
        if not header:
            header = tuple(values)
            _require_distinct(header, at)
            continue
        yield unreadable(number, at) if at.text is None else _row(header, values, at.where, number)
        number += 1


def _require_distinct(header: tuple[str, ...], line: Line) -> None:
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{line.where}: two columns are called {twice!r}")


def _row(header: tuple[str, ...], values: list[str], where: str, number: int) -> Row | Bad:
    if len(values) == len(header):
        return Row(where, number, dict(zip(header, values, strict=True)))
    expected = f"expected {len(header)} ({', '.join(header)})"
    return Bad(str(number), f"{where}: {len(values)} columns, {expected}")


def jsonl(found: Iterator[Line]) -> Iterator[Row | Bad | tuple[str, int, list]]:
    """Objects as rows; of a text, or a list of texts, `(FILE:LINE, number, texts)`."""
    number = 0
    for line in found:
        if line.text is None:
            yield unreadable(number, line)
        elif not line.text.strip():
            continue
        else:
            yield _parsed(line.text, line.where, number)
        number += 1


def _parsed(text: str, where: str, number: int) -> Row | Bad | tuple[str, int, list]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return Bad(str(number), f"{where}: not JSON ({error})")
    if isinstance(value, dict):
        return Row(where, number, value)
    texts = value if isinstance(value, list) else [value]
    if texts and all(isinstance(each, str) for each in texts):
        return where, number, texts
    return Bad(str(number), f"{where}: a JSON {type(value).__name__}, expected an object or a text")


def peeked(found: Iterator[Line]) -> tuple[Line, Iterator[Line]]:
    """The first line that is not blank (or else the first), and all lines."""
    before = []
    for line in found:
        before.append(line)
        if line.text is None or line.text.strip():
            break
    return before[-1], itertools.chain(before, found)
