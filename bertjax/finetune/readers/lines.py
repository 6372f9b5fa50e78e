"""Streams the lines of a text file of any size as rows; a damaged row becomes a `Bad`."""

import contextlib
import csv
import itertools
import json
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from bertjax import storage
from bertjax.data import compression
from bertjax.errors import DataError
from bertjax.finetune.readers import files

STDIN = "-"


class Row(NamedTuple):
    """A row of a file.

    Attributes:
      where: FILE:LINE, or the file's name and the row's number.
      number: the row's number, from 0.
      values: the value of each column.
    """

    where: str
    number: int
    values: dict[str, Any]

    def get(self, column: str, field: str = "") -> Any:
        """The value of a column.

        Args:
          field: the config field that names the column, for the message.

        Raises:
          DataError: there is no such column; the message names the columns of the row.
        """
        if column not in self.values:
            fix = f"; set {field}" if field else ""
            raise DataError(
                f"{self.where}: no column {column!r}, it has {', '.join(self.values)}{fix}"
            )
        return self.values[column]

    def text(self, column: str, field: str = "") -> str:
        """The text in a column; raises DataError if the value is not text."""
        return files.as_text(self.get(column, field), self.where, column)


class Bad(NamedTuple):
    """A row that cannot be read.

    Attributes:
      id: the row's number in the file, from 0.
      reason: the message, which begins with FILE:LINE.
      where: FILE:LINE if the row has a wrong number of columns, else "".
    """

    id: str
    reason: str
    where: str = ""


class Line(NamedTuple):
    """A line of a file.

    Attributes:
      where: FILE:LINE.
      text: the line without its end; None if it is not UTF-8.
      end: LF or CRLF. Quoted CSV texts contain line ends.
    """

    where: str
    text: str | None
    end: str = "\n"

    @classmethod
    def of(cls, where: str, whole: str) -> "Line":
        """Makes a `Line` from a line without its LF, but with its CR if it has one."""
        text = whole.removesuffix("\r")
        return cls(where, text, whole[len(text) :] + "\n")


def suffix(path: str) -> str:
    """The suffix that decides a file's layout: `.jsonl` for `a.jsonl.gz`; "" for standard input."""
    name = path.removesuffix(".gz").rpartition("/")[2].lower()
    return "." + name.rpartition(".")[2] if "." in name else ""


def lines(path: str) -> Iterator[Line]:
    """The lines of a UTF-8 file (decompressed where it is compressed), or of standard input ("-").

    Blank lines at the end are left out.

    Raises:
      DataError: the file cannot be read, or all its lines are blank.
    """
    name, read, blank = "stdin" if path == STDIN else path, False, []
    try:
        with contextlib.ExitStack() as stack:
            file: Any = sys.stdin.buffer
            if path != STDIN:
                raw = stack.enter_context(storage.open_file(path))
                file = compression.decompressed(raw, path)
            for number, line in enumerate(file, 1):
                line = line.removesuffix(b"\n")
                line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                try:
                    found = Line.of(f"{name}:{number}", line.decode("utf-8"))
                except UnicodeDecodeError:
                    found = Line(f"{name}:{number}", None)
                if found.text == "":
                    blank.append(found)
                    continue
                yield from blank
                read, blank = True, []
                yield found
    except OSError as error:
        raise DataError(f"{name}: {error.strerror or error}") from None
    if not read:
        raise DataError(f"{name}: an empty file")


def unreadable(number: int, line: Line) -> Bad:
    """The `Bad` row for a line that is not UTF-8."""
    return Bad(str(number), f"{line.where}: not UTF-8; convert it: iconv -f ... -t UTF-8")


def tsv(found: Iterator[Line], header: tuple[str, ...] = ()) -> Iterator[Row | Bad]:
    """The rows of a TSV file; quotes are literal.

    Args:
      header: the column names, for a file without a header line.
    """
    if not header:
        first = next(found)
        header = tuple((first.text or "").split("\t"))
        _require_distinct(header, first)
    for number, line in enumerate(found):
        if line.text is None:
            yield unreadable(number, line)
        else:
            fix = "no text of a TSV file may hold a tab or a line break"
            yield _row(header, line.text.split("\t"), line.where, number, fix)


def csv_rows(found: Iterator[Line]) -> Iterator[Row | Bad]:
    """The rows of a CSV file with a header; a quoted text may hold commas and line breaks."""
    csv.field_size_limit(sys.maxsize)  # a long context exceeds the module's limit of 131,072
    row: list[Line] = []  # the lines of the current row

    def fed() -> Iterator[str]:
        for line in found:
            row.append(line)
            yield "\ufffd" if line.text is None else line.text + line.end

    reader, header, number = csv.reader(fed(), strict=True), (), 0
    while True:
        row.clear()
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Bad(str(number), f"{row[0].where}: not CSV ({error})")
            number += 1
            continue
        if not values:
            continue
        if not header:
            header = tuple(values)
            _require_distinct(header, row[0])
            continue
        unread = next((line for line in row if line.text is None), None)
        if unread:
            yield unreadable(number, unread)
        else:
            fix = "put a text with a comma in quotes"
            yield _row(header, values, row[0].where, number, fix)
        number += 1


def _require_distinct(header: tuple[str, ...], line: Line) -> None:
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{line.where}: two columns are called {twice!r}")


def _row(
    header: tuple[str, ...], values: list[str], where: str, number: int, fix: str
) -> Row | Bad:
    if len(values) == len(header):
        return Row(where, number, dict(zip(header, values, strict=True)))
    expected = f"expected {len(header)} ({', '.join(header)})"
    return Bad(str(number), f"{where}: {len(values)} columns, {expected}; {fix}", where)


def jsonl(found: Iterator[Line]) -> Iterator[Row | Bad | tuple[str, int, list]]:
    """JSON objects as rows; a text or a list of texts becomes `(FILE:LINE, number, texts)`."""
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
    return Bad(str(number), f"{where}: a JSON {type(value).__name__}, expected an object")


def peeked(found: Iterator[Line]) -> tuple[Line, Iterator[Line]]:
    """The first line that is not blank (the last line if all are blank), and all lines."""
    before = []
    for line in found:
        before.append(line)
        if line.text is None or line.text.strip():
            break
    return before[-1], itertools.chain(before, found)
