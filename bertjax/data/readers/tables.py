"""Files of rows, Parquet and Arrow, to records: one column of text, which may lie in a struct."""

from collections import Counter
from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow
from pyarrow import compute, ipc, parquet, types

from bertjax.data.documents import Record, no_field, text_record
from bertjax.errors import DataError, one_line

_ROWS = 256  # made into Python values at a time
_END = b"\xff\xff\xff\xff\0\0\0\0"  # of an Arrow stream


def read(
    path: str, raw: BinaryIO, size: int, field: str, dropped: Counter
) -> Iterator[tuple[Record, int]]:
    """Yields each row's text, and about how many of the file's `size` bytes lie before its end.

    Raises:
      DataError: no such field, or a truncated or damaged file.
    """
    magic = raw.read(6)
    raw.seek(0)
    is_parquet = path.endswith(".parquet") or magic.startswith(b"PAR1")
    kind, batches = ("parquet", _parquet) if is_parquet else ("Arrow file", _arrow)
    row = 0
    try:
        for column, position in batches(path, raw, size, field):
            for value in column.to_pylist():
                row += 1
                record = text_record(path, row, value, field, dropped)
                if record:
                    yield record, position
    except (pyarrow.ArrowException, OSError, MemoryError, UnicodeDecodeError) as error:
        # A damaged length may ask for more memory than there is.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DataError(f"{path}: damaged {kind} ({one_line(error)})") from None


def _parquet(path: str, raw: BinaryIO, size: int, field: str) -> Iterator[tuple[Any, int]]:
    with parquet.ParquetFile(raw, buffer_size=1 << 20, pre_buffer=False) as file:
        place = _place(path, file.schema_arrow, field)
        done, rows = 0, max(file.metadata.num_rows, 1)
        for batch in file.iter_batches(batch_size=_ROWS, columns=[field]):
            done += len(batch)
            yield _column(batch, place), size * done // rows


def _arrow(path: str, raw: BinaryIO, size: int, field: str) -> Iterator[tuple[Any, int]]:
    """Batches of an Arrow stream, which `datasets` writes, or of an Arrow file."""
    if raw.read(6) == b"ARROW1":
        file = ipc.open_file(raw)
        batches = (file.get_batch(i) for i in range(file.num_record_batches))
    else:
        raw.seek(max(size - len(_END), 0))
        if raw.read() != _END:  # else a cut between two batches would look whole
            raise DataError(f"{path}: truncated Arrow stream: no end mark at byte {size:,}")
        raw.seek(0)
        file = batches = ipc.open_stream(raw)
    place = _place(path, file.schema, field)
    for batch in batches:
        column = _column(batch, place)
        for start in range(0, len(column), _ROWS):
            yield column.slice(start, _ROWS), raw.tell()


def _place(path: str, schema: pyarrow.Schema, field: str) -> list[str]:
    """The names that lead to a field: its own, or those of the structs around it too.

    Raises:
      DataError: there is no such field.
    """
    names = [field] if field in schema.names else field.split(".")
    found = whole = pyarrow.struct(list(schema))
    for name in names:
        index = found.get_field_index(name) if types.is_struct(found) else -1
        if index < 0:
            raise DataError(no_field(path, field, _leaves(whole)))
        found = found.field(index).type
    return names


def _leaves(struct: pyarrow.StructType) -> Iterator[str]:
    """The names of the fields of a struct, those in structs of it dotted."""
    for field in (struct.field(i) for i in range(struct.num_fields)):
        if types.is_struct(field.type):
            yield from (f"{field.name}.{name}" for name in _leaves(field.type))
        else:
            yield field.name


def _column(batch: pyarrow.RecordBatch, place: list[str]) -> pyarrow.Array:
    column = batch.column(batch.schema.get_field_index(place[0]))
    column.validate(full=True)  # offsets of a damaged file lead anywhere; UTF-8 too
    return compute.struct_field(column, place[1:]) if place[1:] else column
