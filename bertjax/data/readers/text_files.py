"""Files of text, plain or compressed, to records: JSON lines, articles, lines of text."""

import codecs
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from bertjax.config import Data
from bertjax.data import compression
from bertjax.data.documents import LONGEST_RECORD, Record
from bertjax.data.lines import read_lines
from bertjax.data.readers import forms, wiki_extractor

SNIFFED = 64 << 10  # bytes looked at to tell the form
PROSE_DOCUMENT = 32 << 10  # bytes of plain prose that make a document, to the next blank line
SENTENCES_DOCUMENT = 1 << 20  # bytes at which lines without a blank line between them are cut
_OF_TEXT = ("sentences", "paragraphs", "prose")


def read(path: str, raw: BinaryIO, data: Data, dropped: Counter) -> Iterator[tuple[Record, int]]:
    """Yields each record of a file, and how many bytes of `raw` have been read after it.

    Raises:
      DataError: the file is none of the forms, truncated or damaged.
    """
    head = _head(compression.decompressed(raw, path))
    raw.seek(0)
    file = compression.decompressed(raw, path)
    if head.startswith(codecs.BOM_UTF8):
        head = head.removeprefix(file.read(3))
    form = forms.form_of(path, head, data)
    lines = read_lines(file, LONGEST_RECORD, dropped)
    if form == "wiki":
        records: Iterable = wiki_extractor.articles(lines, path, LONGEST_RECORD, dropped)
    elif form in _OF_TEXT:
        records = _blocks(lines, form)
    else:
        records = ((n, at, form, line) for n, at, line in lines if line.strip())
    for record in records:
        yield Record(path, *record), raw.tell()


def _head(file: Any) -> bytes:
    """`SNIFFED` bytes, or a whole first line that is longer."""
    head = file.read(SNIFFED)
    if b"\n" not in head and len(head) == SNIFFED:
        head += file.readline(LONGEST_RECORD)
    return head


def _blocks(
    lines: Iterable[tuple[int, int, bytes]], form: str
) -> Iterator[tuple[int, int, str, bytes]]:
    """Groups the lines of a text file into documents.

    In google-research/bert's form, a sentence a line, and in CC-100's, a paragraph a line, a blank
    line ends a document. Where none comes, as in BooksCorpus, `SENTENCES_DOCUMENT` bytes do. Plain
    prose has no documents: it is cut at the first blank line after `PROSE_DOCUMENT` bytes, or at
    any line after twice that.
    """
    shortest, longest = 0, SENTENCES_DOCUMENT
    if form == "prose":
        shortest, longest = PROSE_DOCUMENT, 2 * PROSE_DOCUMENT
    block, held = [], 0
    for number, offset, line in lines:
        if not block:
            first = (number, offset, form)
        block.append(line)
        held += len(line)
        if (held >= shortest and not line.strip()) or held >= longest:
            if not b"".join(block).isspace():
                yield *first, b"".join(block)
            block, held = [], 0
    if block:
        yield *first, b"".join(block)
