"""Reading records by number, of files that are indexed in W/store."""

import itertools
import os
from pathlib import Path

import numpy as np

from bertjax import storage
from bertjax.config import Config, Phase
from bertjax.data import store
from bertjax.data.tfrecord import framing, index
from bertjax.data.tfrecord.example import Layout
from bertjax.data.tfrecord.index import File
from bertjax.errors import DataError, UsageError


class Records:
    """The records of one split whose lengths are a phase's, numbered through their files.

    Safe to use from several threads.

    Attributes:
      forms: sequence length and predictions of all records of the split, whatever the phase.
    """

    def __init__(
        self, config: Config, workdir: Path, split: str, phase: Phase, vocab_size: int
    ) -> None:
        """Opens the index of `workdir/store`.

        Raises:
          DataError: the store is missing or damaged, or a file is gone or has another size.
        """
        place = storage.path(workdir) / "store"
        manifest = store.read_manifest(place)
        files = [
            File(**fields | {"form": tuple(fields["form"])})
            for fields in manifest["records"][split]
            if fields["records"]
        ]
        self.forms = {file.form for file in files}
        first = np.cumsum([0, *(file.records for file in files)])
        mine = [i for i, file in enumerate(files) if file.form == index.form_of(phase)]
        self._ends = np.cumsum([files[i].records for i in mine])
        self._shift = np.array([first[i] for i in mine]) - np.append(0, self._ends)[: len(mine)]
        self._paths = _located([files[i] for i in mine], config, place)
        self._is_remote = [storage.is_remote(path) for path in self._paths]
        self._offsets, self._lengths = (
            np.asarray(store.open_array(place, f"{split}/{name}.bin", dtype, manifest))
            for name, dtype in (("offsets", index.OFFSETS), ("lengths", index.LENGTHS))
        )
        self._layout = Layout(*index.form_of(phase), vocab_size)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, ...]:
        """The examples of `rows` [n]: int32 arrays `[n, size]` in the order of `example.FEATURES`.

        Raises:
          DataError: a file was damaged or replaced since it was indexed.
          StorageError: the disk or the object store refuses.
        """
        found = self._fetch(rows)
        self._check(*found)
        return self._decode(*found)

    def _fetch(self, rows: np.ndarray) -> tuple[list[int], list[int], list[bytes]]:
        """The file of each record, its offset there and its bytes."""
        files = np.searchsorted(self._ends, rows, "right")
        places = rows + self._shift[files]
        offsets = self._offsets[places].tolist()
        lengths = (self._lengths[places].astype(np.int64) + framing.AROUND).tolist()
        files = files.tolist()
        return files, offsets, self._parts(files, places, offsets, lengths)

    def _check(self, files: list[int], offsets: list[int], parts: list[bytes]) -> None:
        for file, offset, part in zip(files, offsets, parts, strict=True):
            framing.check(self._paths[file], part, offset)

    def _decode(
        self, files: list[int], offsets: list[int], parts: list[bytes]
    ) -> tuple[np.ndarray, ...]:
        lengths = np.array([len(part) for part in parts], np.int64)
        ends = np.cumsum(lengths)
        begins = ends - lengths + framing.HEADER
        ends = ends - framing.AROUND + framing.HEADER
        data = b"".join(parts)
        columns, bad = self._layout.decode(data, begins, ends)
        if bad >= 0:
            fault = self._layout.fault(data[begins[bad] : ends[bad]])
            path = self._paths[files[bad]]
            raise DataError(f"{path}: the record at byte {offsets[bad]:,} {fault}")
        return columns

    def _parts(
        self, files: list[int], places: np.ndarray, offsets: list[int], lengths: list[int]
    ) -> list[bytes]:
        """The bytes of records, which lie at `offsets` of `files`."""
        parts, rows = [b""] * len(files), np.argsort(places).tolist()  # in the order of a disk
        if remote := [i for i in rows if self._is_remote[files[i]]]:
            names, starts = [self._paths[files[i]] for i in remote], [offsets[i] for i in remote]
            ends = [offsets[i] + lengths[i] for i in remote]
            for i, part in zip(remote, storage.read_ranges(names, starts, ends), strict=True):
                parts[i] = part
        local = [i for i in rows if not self._is_remote[files[i]]]  # of gzip there are copies in W
        for file, some in itertools.groupby(local, files.__getitem__):
            try:
                with open(self._paths[file], "rb", buffering=0) as opened:
                    for i in some:
                        parts[i] = os.pread(opened.fileno(), lengths[i], offsets[i])
            except OSError as error:
                raise DataError(f"{self._paths[file]}: {error.strerror or error}") from None
        return parts


def _located(files: list[File], config: Config, place: Path) -> list[str]:
    """Where each file is now: at its place, or moved to one that `config.data` names.

    A moved file is known by its name and size; its checksums are compared as its records are read.
    """
    paths, moved = [], None
    for file in files:
        path = str(place / file.copy) if file.copy else file.path
        if file.copy or storage.is_remote(path) or _size(path) == file.bytes:
            paths.append(path)
            continue
        if moved is None:
            moved = [(os.path.basename(other), _size(other), other) for other in _named(config)]
        found = [
            other
            for name, size, other in moved
            if (name, size) == (os.path.basename(path), file.bytes)
        ]
        if len(found) > 1:
            raise DataError(
                f"{path}: gone, and {' and '.join(found)} have its name and size; put it back, or run "
                "bertjax prepare again"
            )
        if not found:
            raise DataError(
                f"{path}: gone or changed since it was indexed; put it back, or run bertjax prepare "
                "again"
            )
        paths.append(found[0])
    return paths


def _named(config: Config) -> list[str]:
    """The files that `config.data` names, where it names any."""
    try:
        return list(itertools.chain(*index.find(config.data).values()))
    except (DataError, UsageError):
        return []


def _size(path: str) -> int | None:
    return storage.sizes([path])[0] if storage.is_file(path) else None
