"""A corpus cut into raw records: .txt, .jsonl, .jsonl.gz, .parquet, TFDS, the built-in sample.

Reading is cheap: one process reads for all the others, or each reads pieces of its own. What is
costly about a record (decoding, JSON, sentences) waits for `documents`.

What is wrong with one record only (empty, far too long) is left out and counted; what says that
the file is not what it claims to be (not UTF-8, broken JSON, truncated gzip) stops the run.
"""

import codecs
import functools
import gzip
import itertools
import os
import zlib
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from typing import Any, NamedTuple

from bertjax import storage
from bertjax.config import Data
from bertjax.data import sample
from bertjax.data.documents import Record, no_field, one_sentence_a_line
from bertjax.data.lines import read_lines
from bertjax.errors import DataError, UsageError, one_line

EXTENSIONS = (".txt", ".jsonl", ".jsonl.gz", ".parquet")
CHUNK_BYTES = 1 << 20  # what a worker gets at a time
LONGEST_RECORD = 16 << 20  # bytes of a line; a longer one is no document
PROSE_DOCUMENT = 32 << 10  # bytes of plain prose that make a document, to the next blank line
SENTENCES_DOCUMENT = 1 << 20  # bytes at which lines without a blank line between them are cut
TFDS_PIECE = 1 << 14  # examples
SNIFFED = 64 << 10  # bytes looked at to tell the form of a .txt


class Piece(NamedTuple):
    """What can be read alone: a file, or some examples of TFDS.

    `start` and `end` are its place in the corpus: bytes on disk, or numbers of examples.
    """

    name: str
    start: int
    end: int


class Chunk(NamedTuple):
    """Consecutive records; `position` is how much of `size` has been read after them.

    `dropped` counts, by reason, what was left out among them.
    """

    records: list[Record]
    position: int
    dropped: Counter

    @property
    def text_bytes(self) -> int:
        return sum(len(record.data) for record in self.records)


def pieces(data: Data) -> list[Piece]:
    """The parts of the corpus that can be read apart from each other, in order.

    Raises:
      UsageError: the config names no corpus, or a kind of file that is not known.
      DataError: a file or dataset is missing.
    """
    if data.source == "files":
        names = find_files(data)
        lengths = storage.sizes(names)
    else:
        is_tfds = data.source == "tfds"
        total = len(_tfds_source(data) if is_tfds else sample.documents())
        most = TFDS_PIECE if is_tfds else max(total, 1)
        lengths = [min(most, total - start) for start in range(0, total, most)]
        names = [data.tfds_name or data.source] * len(lengths)
    ends = list(itertools.accumulate(lengths))
    return [Piece(n, end - k, end) for n, k, end in zip(names, lengths, ends, strict=True)]


def size(data: Data) -> int:
    """Length of the corpus in the unit of `Chunk.position`: bytes on disk, or examples of TFDS."""
    found = pieces(data)
    return found[-1].end if found else 0


def estimate_bytes(data: Data) -> int:
    """About how many bytes of text the corpus has: a compressed file counts threefold."""
    if data.source != "files":
        return 4096 * size(data)
    return sum(
        (piece.end - piece.start) * (3 if piece.name.endswith((".gz", ".parquet")) else 1)
        for piece in pieces(data)
    )


def tfds_version(data: Data) -> tuple[str, int]:
    """Full name (name/config/version) and number of examples of a TFDS corpus.

    Raises:
      UsageError: TFDS is not installed, or no dataset is named.
      DataError: the dataset is missing.
    """
    source = _tfds_source(data)
    return source.dataset_info.full_name, len(source)


def chunks(data: Data, some: Iterable[Piece] | None = None) -> Generator[Chunk, None, None]:
    """Cuts the corpus into chunks of about `CHUNK_BYTES`, in order.

    Args:
      some: the pieces to read; by default all of them.

    Raises:
      UsageError: the config names no corpus, or a kind of file that is not known.
      DataError: a file is missing, binary, truncated or damaged.
    """
    read = {"files": _read_file, "tfds": _read_tfds, "sample": _read_sample}[data.source]
    records, held, position, dropped = [], 0, 0, Counter()
    for piece in pieces(data) if some is None else some:
        for record, position in read(data, piece, dropped):
            records.append(record)
            held += len(record.data)
            if held >= CHUNK_BYTES:
                yield Chunk(records, position, Counter(dropped))
                records, held = [], 0
                dropped.clear()
    if records or dropped:
        yield Chunk(records, position, dropped)


def find_files(data: Data) -> list[str]:
    """The files that `data.files` names: each pattern in order, its matches sorted, none twice."""
    first = {}
    for path in _matches(data):
        first.setdefault(path if storage.is_remote(path) else os.path.realpath(path), path)
    return list(first.values())


def aliases(data: Data) -> int:
    """How many names of `data.files` lead to a file that another name leads to as well."""
    if data.source != "files":
        return 0
    return len(set(_matches(data))) - len(find_files(data))


def _matches(data: Data) -> list[str]:
    patterns = [p.strip() for p in (data.files or "").split(",") if p.strip()]
    if not patterns:
        raise UsageError("config.data.files is unset: name text files, or set config.data.source")
    paths = []
    for pattern in patterns:
        found = storage.find(pattern)
        if not found:
            folder = storage.is_directory(pattern)
            fix = f"; it is a folder: name its files, as {pattern.rstrip('/')}/*.txt" * folder
            raise DataError(f"config.data.files={pattern!r}: no file matches{fix}")
        paths += found
    for path in paths:
        if not path.endswith(EXTENSIONS):
            raise UsageError(f"config.data.files: {path!r} is none of {', '.join(EXTENSIONS)}")
    return paths


def _read_file(data: Data, piece: Piece, dropped: Counter) -> Iterator[tuple[Record, int]]:
    path = piece.name
    if piece.start == piece.end:
        dropped["empty file"] += 1
        return
    read = _read_parquet if path.endswith(".parquet") else _read_lines
    try:
        with storage.refusals(path):
            for record, position in read(path, data, dropped):
                yield record, piece.start + position
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: truncated or damaged gzip ({error})") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None


def _read_lines(path: str, data: Data, dropped: Counter) -> Iterator[tuple[Record, int]]:
    with storage.open_file(path) as raw:
        file: Any = gzip.GzipFile(fileobj=raw) if path.endswith(".gz") else raw
        head = file.read(SNIFFED)
        if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise DataError(f"{path}: UTF-16 text; convert it: iconv -f UTF-16 -t UTF-8")
        if b"\0" in head:
            raise DataError(f"{path}: binary, or not UTF-8: NUL at byte {head.index(0)}")
        file.seek(3 if head.startswith(codecs.BOM_UTF8) else 0)
        lines = read_lines(file, LONGEST_RECORD, dropped)
        if not path.endswith(".txt"):
            records = ((n, at, "json", line) for n, at, line in lines if line.strip())
        else:
            form = data.txt_format
            if form == "auto":
                form = (
                    "sentences"
                    if one_sentence_a_line(head.decode("utf-8", "ignore"), data.language)
                    else "prose"
                )
            records = _blocks(lines, form)
        for record in records:
            yield Record(path, *record), raw.tell()


def _blocks(
    lines: Iterable[tuple[int, int, bytes]], form: str
) -> Iterator[tuple[int, int, str, bytes]]:
    """Groups the lines of a .txt into documents.

    In google-research/bert's form a blank line ends a document. Plain prose has no documents:
    it is cut at the first blank line after `PROSE_DOCUMENT` bytes, or at any line after twice that.
    """
    shortest, longest = {
        "sentences": (0, SENTENCES_DOCUMENT),
        "prose": (PROSE_DOCUMENT, 2 * PROSE_DOCUMENT),
    }[form]
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


def _read_parquet(path: str, data: Data, dropped: Counter) -> Iterator[tuple[Record, int]]:
    import pyarrow  # heavy, and only some corpora need it
    from pyarrow import parquet

    try:
        place = storage.open_file(path) if storage.is_remote(path) else path
        with parquet.ParquetFile(place, buffer_size=CHUNK_BYTES, pre_buffer=False) as file:
            if data.text_field not in file.schema_arrow.names:
                raise DataError(no_field(path, data.text_field, file.schema_arrow.names))
            row, rows, length = 0, max(file.metadata.num_rows, 1), storage.sizes([path])[0]
            for batch in file.iter_batches(batch_size=256, columns=[data.text_field]):
                for value in batch.column(0).to_pylist():
                    row += 1
                    record = _text_record(path, row, value, data.text_field, dropped)
                    if record:
                        yield record, length * row // rows
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: damaged parquet ({one_line(error)})") from None


def _read_tfds(data: Data, piece: Piece, dropped: Counter) -> Iterator[tuple[Record, int]]:
    source = _tfds_source(data)
    for start in range(piece.start, piece.end, 256):
        rows = range(start, min(start + 256, piece.end))
        for row, example in zip(rows, source.__getitems__(rows), strict=True):
            if data.text_field not in example:
                raise DataError(no_field(f"TFDS {data.tfds_name}", data.text_field, example))
            value = example[data.text_field]
            record = _text_record(str(data.tfds_name), row, value, data.text_field, dropped)
            if record:
                yield record, row + 1


@functools.lru_cache(maxsize=1)  # opened once for all pieces
def _tfds_source(data: Data) -> Any:
    if not data.tfds_name:
        raise UsageError("config.data.tfds_name is unset; config.data.source=tfds needs it")
    try:
        import tensorflow_datasets as tfds  # optional, and slow to import

        return tfds.data_source(data.tfds_name, split=data.tfds_split, data_dir=data.tfds_data_dir)
    except ImportError as error:
        raise UsageError(f"config.data.source=tfds: {one_line(error)}; install it") from None
    except Exception as error:  # whatever a dataset's own code raises
        name = f"config.data.tfds_name={data.tfds_name!r}, tfds_split={data.tfds_split!r}"
        raise DataError(f"{name}: {one_line(error)}") from None


def _read_sample(data: Data, piece: Piece, dropped: Counter) -> Iterator[tuple[Record, int]]:
    for number, text in enumerate(sample.documents(), 1):
        yield Record("sample", number, 0, "prose", text.encode()), number


def _text_record(path: str, row: int, value: Any, field: str, dropped: Counter) -> Record | None:
    if value is None:
        dropped["empty document"] += 1
        return None
    value = value.encode("utf-8", "replace") if isinstance(value, str) else value
    if not isinstance(value, bytes):
        raise DataError(f"{path}, row {row}: {field!r} is {type(value).__name__}, expected text")
    if len(value) > LONGEST_RECORD:
        dropped[f"line over {LONGEST_RECORD >> 20} MiB"] += 1
        return None
    return Record(path, row, 0, "prose", value)
