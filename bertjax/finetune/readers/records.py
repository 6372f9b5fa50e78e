"""Reads TSV, CSV, JSONL, parquet and TFDS as rows with named columns."""

import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from bertjax import storage
from bertjax.config import Data
from bertjax.errors import DataError, UsageError, one_line
from bertjax.finetune.readers import files, lines
from bertjax.finetune.readers.lines import Bad, Line, Row

SUFFIXES = (".tsv", ".csv", ".jsonl", ".jsonl.gz", ".parquet")
_BATCH = 1024  # rows read at once from a parquet file or TFDS


class Table(NamedTuple):
    """The rows of a file or of a TFDS split, in order.

    Attributes:
      name: the name of the file or split, for messages.
      classes: the class names of each column that stores class numbers, if the file has names.
    """

    name: str
    rows: Iterator[Row]
    classes: dict[str, tuple[str, ...]]


def read(path: str) -> Table:
    """The rows of a file; its suffix, one of `SUFFIXES`, decides how it is read.

    Raises:
      DataError: the file is damaged or has no rows. Also raised later, while the rows are read.
    """
    if path.endswith(".parquet"):
        rows, classes = _parquet(path), _class_names(path)
    elif path.endswith((".jsonl", ".jsonl.gz")):
        rows, classes = _jsonl(path), {}
    else:
        rows, classes = (csv_rows if path.endswith(".csv") else tsv)(path), {}
    return Table(path, _some(rows, path), classes)


def _some(rows: Iterator[Row], name: str) -> Iterator[Row]:
    first = next(rows, None)
    if first is None:
        raise DataError(f"{name}: no rows")
    return itertools.chain([first], rows)


def tsv(path: str, header: Sequence[str] = (), broken: list[str] | None = None) -> Iterator[Row]:
    """The rows of a TSV file; quotes are literal.

    Args:
      header: the column names of a file without a header line.
      broken: a list that collects FILE:LINE of each row with a wrong number of columns; these rows
        are left out.

    Raises:
      DataError: a row has a wrong number of columns and `broken` is None.
    """
    for row in lines.tsv(_lines(path), tuple(header)):
        if isinstance(row, Bad) and broken is not None:
            broken.append(row.where)
        else:
            yield _sound(row)


def csv_rows(path: str) -> Iterator[Row]:
    """The rows of a CSV file with a header; a quoted text may hold commas and line breaks.

    Raises:
      DataError: a row has a wrong number of columns, or a quote does not end.
    """
    return map(_sound, lines.csv_rows(_lines(path)))


def _jsonl(path: str) -> Iterator[Row]:
    for row in lines.jsonl(_lines(path)):
        if not isinstance(row, Row | Bad):
            raise DataError(f"{row[0]}: texts without names, expected an object")
        yield _sound(row)


def _lines(path: str) -> Iterator[Line]:
    """The lines of a file, see `lines.lines`; raises DataError if the file is not all UTF-8."""
    found = files.read_lines(path, ends=True)
    return (Line.of(f"{path}:{number}", line) for number, line in enumerate(found, 1))


def _sound(row: Row | Bad) -> Row:
    if isinstance(row, Bad):
        raise DataError(row.reason)
    return row


def _parquet(path: str) -> Iterator[Row]:
    import pyarrow  # slow to import, and only parquet needs it
    from pyarrow import parquet

    try:
        place = storage.open_file(path) if storage.is_remote(path) else path
        with parquet.ParquetFile(place) as file:
            numbers = itertools.count()
            for batch in file.iter_batches(batch_size=_BATCH):
                for values in batch.to_pylist():
                    number = next(numbers)
                    yield Row(f"{path}, row {number}", number, values)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: damaged parquet ({one_line(error)})") from None


def _class_names(path: str) -> dict[str, tuple[str, ...]]:
    """The names of classes in the schema's metadata, as Hugging Face `datasets` writes them."""
    import pyarrow
    from pyarrow import parquet

    try:
        place = storage.open_file(path) if storage.is_remote(path) else path
        metadata = parquet.read_schema(place).metadata or {}
        found = json.loads(metadata.get(b"huggingface", b"{}"))
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: damaged parquet ({one_line(error)})") from None
    features = found.get("info", found).get("features") or {}
    names = {}
    for column, feature in features.items():
        # A list column has its element type under "feature".
        one = feature.get("feature", feature) if isinstance(feature, dict) else None
        if isinstance(one, dict) and isinstance(one.get("names"), list):
            names[column] = tuple(one["names"])
    return names


def tfds(data: Data) -> dict[str, Table]:
    """The splits of a TFDS dataset by TFDS' names; `train` is its split `data.tfds_split`.

    Raises:
      UsageError: TFDS is not installed, or the config names no dataset.
      DataError: there is no such dataset, or a split has no rows.
    """
    if not data.tfds_name:
        raise UsageError("config.data.tfds_name is unset; config.data.source=tfds needs it")
    try:
        import tensorflow_datasets  # optional, and slow to import

        builder = tensorflow_datasets.builder(data.tfds_name, data_dir=data.tfds_data_dir)
        names = {split: split for split in builder.info.splits}
        if "train" in names or data.tfds_split != "train":
            names["train"] = data.tfds_split
        sources = {split: builder.as_data_source(split=names[split]) for split in names}
        features = builder.info.features
    except ImportError as error:
        raise UsageError(f"config.data.source=tfds: {one_line(error)}; install it") from None
    except Exception as error:  # a dataset's own code may raise anything
        name = f"config.data.tfds_name={data.tfds_name!r}, tfds_split={data.tfds_split!r}"
        raise DataError(f"{name}: {one_line(error)}") from None
    classes = {
        column: tuple(feature.names)
        for column, feature in features.items()
        if getattr(feature, "names", None)
    }
    return {
        split: Table(name, _some(_tfds_rows(source, name), name), classes)
        for split, source in sources.items()
        for name in [f"TFDS {data.tfds_name} {split}"]
    }


def _tfds_rows(source: Any, name: str) -> Iterator[Row]:
    for start in range(0, len(source), _BATCH):
        numbers = range(start, min(start + _BATCH, len(source)))
        for number, values in zip(numbers, source.__getitems__(numbers), strict=True):
            yield Row(f"{name}, row {number}", number, _plain(values))


def _plain(value: Any) -> Any:
    """Converts TFDS' bytes and arrays to text, numbers, lists and dicts."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if hasattr(value, "tolist"):
        value = value.tolist()
        return _plain(value) if isinstance(value, list | bytes) else value
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
