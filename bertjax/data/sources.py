"""A corpus cut into raw records: files (see `readers.forms`), TFDS, the built-in sample.

Reading is cheap: one process reads for all the others, or each reads pieces of its own. What is
costly about a record (decoding, JSON, sentences) waits for `documents`.

What is wrong with one record only (empty, far too long) is left out and counted; what says that
the file is not what it claims to be (not UTF-8, broken JSON, truncated gzip) stops the run.
"""

import contextlib
import functools
import io
import itertools
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from bertjax import storage
from bertjax.config import Data
from bertjax.data import compression, folders, sample
from bertjax.data.documents import Record, no_field, text_record, value_of
from bertjax.data.readers import forms, text_files
from bertjax.errors import DataError, UsageError, one_line

CHUNK_BYTES = 1 << 20  # what a worker gets at a time
TFDS_PIECE = 1 << 14  # examples
READERS = 16  # files looked at together: a bucket answers slowly, but many at a time


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
      UsageError: the config names no corpus.
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
    compressed = (*compression.SUFFIXES, ".parquet")
    return sum(
        (piece.end - piece.start) * (3 if piece.name.endswith(compressed) else 1)
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
      UsageError: the config names no corpus.
      DataError: a file is missing, of a kind that is not read, truncated or damaged.
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
    return folders.unique(_matches(data))


def aliases(data: Data) -> int:
    """How many names of `data.files` lead to a file that another name leads to as well."""
    if data.source != "files":
        return 0
    return len(set(_matches(data))) - len(find_files(data))


def passed_over(data: Data) -> int:
    """How many files lie beside those of the folders of `data.files` and are not read."""
    if data.source != "files":
        return 0
    return sum(len(folders.passed_over(pattern)) for pattern in _patterns(data))


def _patterns(data: Data) -> list[str]:
    patterns = folders.patterns(data.files)
    if not patterns:
        raise UsageError("config.data.files is unset: name text files, or set config.data.source")
    return patterns


def _matches(data: Data) -> list[str]:
    paths = []
    for pattern in _patterns(data):
        found = folders.find(pattern)
        if not found:
            fix = "; the folder is empty" if storage.is_directory(pattern) else ""
            raise DataError(f"config.data.files={pattern!r}: no file matches{fix}")
        paths += found
    return paths


def refuse_others(data: Data) -> None:
    """Looks at how each file starts, so that one that cannot be read is not met after hours.

    Raises:
      DataError: a file is none of the forms that are read, named with what it looks like.
    """
    if data.source == "files":
        names = find_files(data)
        sizes = storage.sizes(names)
        with ThreadPoolExecutor(READERS) as pool:
            list(pool.map(_refuse_other, itertools.compress(names, sizes)))


def _refuse_other(path: str) -> None:
    if storage.is_remote(path):
        first = storage.read_ranges([path], [0], [text_files.SNIFFED])[0]
    else:
        with open(path, "rb") as file:
            first = file.read(text_files.SNIFFED)
    if forms.is_table(path, first):
        return
    head = b""
    with contextlib.suppress(DataError):  # cut after `SNIFFED` bytes; reading it will tell
        head = compression.decompressed(io.BytesIO(first), path).read1(text_files.SNIFFED)
    forms.refuse(path, head)


def _read_file(data: Data, piece: Piece, dropped: Counter) -> Iterator[tuple[Record, int]]:
    path, size = piece.name, piece.end - piece.start
    if not size:
        dropped["empty file"] += 1
        return
    try:
        with storage.refusals(path), storage.open_file(path) as raw:
            first = raw.read(8)
            raw.seek(0)
            if forms.is_table(path, first):
                from bertjax.data.readers import tables  # pyarrow is slow to import

                found = tables.read(path, raw, size, data.text_field, dropped)
            else:
                found = text_files.read(path, raw, data, dropped)
            for record, position in found:
                yield record, piece.start + position
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None


def _read_tfds(data: Data, piece: Piece, dropped: Counter) -> Iterator[tuple[Record, int]]:
    source = _tfds_source(data)
    for start in range(piece.start, piece.end, 256):
        rows = range(start, min(start + 256, piece.end))
        for row, example in zip(rows, source.__getitems__(rows), strict=True):
            try:
                value = value_of(example, data.text_field)
            except KeyError:
                where = f"TFDS {data.tfds_name}"
                raise DataError(no_field(where, data.text_field, example)) from None
            record = text_record(str(data.tfds_name), row, value, data.text_field, dropped)
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
