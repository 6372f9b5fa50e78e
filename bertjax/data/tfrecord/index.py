"""TFRecord files to an index: where every record lies, so that any row is found at once.

    store/manifest.json                         written last
    store/{train,heldout}/offsets.bin           int64 [N]: where each record begins in its file
    store/{train,heldout}/lengths.bin           int32 [N]: bytes of its data
    store/copies/NNNNN.tfrecord                 what a gzip file holds, decompressed

The records of a file lie side by side in the index; the manifest's "records" say how many each file
has, and its lengths. Records stay in their files. A gzip file gives no record without all before it,
so its records are copied.
"""

import contextlib
import json
import os
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from bertjax import storage
from bertjax.config import Config, Data, Phase
from bertjax.data import folders, identity, store
from bertjax.data.sources import READERS
from bertjax.data.tfrecord import framing, scan
from bertjax.data.tfrecord.example import Layout
from bertjax.data.tokenize import in_order
from bertjax.data.tokenizer_base import Tokenizer
from bertjax.errors import DataError, UsageError

OFFSETS, LENGTHS = np.dtype("<i8"), np.dtype("<i4")
_HASHES = 1 << 32  # values of a checksum, which is as good as a hash of the record


class File(NamedTuple):
    """A file's records in one split.

    Attributes:
      records: how many of them are in the split.
      form: sequence length L and predictions P of each.
      bytes: of the file.
      copy: of a gzip file, its copy's name within W/store.
    """

    path: str
    records: int
    form: tuple[int, int]
    bytes: int
    copy: str | None = None


def form_of(phase: Phase) -> tuple[int, int]:
    """L and P of a phase's rows."""
    return phase.sequence_length, phase.max_predictions_per_seq


_FIELDS = {"train": "files", "heldout": "heldout_files"}  # of config.data


def find(data: Data) -> dict[str, list[str]]:
    """The files of each split; "heldout" is empty where `heldout_fraction` decides.

    Raises:
      UsageError: the config names none, or one for both.
      DataError: no file matches.
    """
    found = {split: _match(field, getattr(data, field)) for split, field in _FIELDS.items()}
    if not any(found.values()):
        raise UsageError("config.data.files is unset; config.data.source=bert_tfrecord needs it")
    trained = {folders.real(path) for path in found["train"]}
    for path in (path for path in found["heldout"] if folders.real(path) in trained):
        raise UsageError(
            f"config.data.heldout_files={data.heldout_files!r}: {path} is one of config.data.files "
            "too; train and evaluate on different files"
        )
    return found


def _match(field: str, patterns: str | None) -> list[str]:
    paths: list[str] = []
    for pattern in folders.patterns(patterns):
        if not (matches := folders.find(pattern)):
            raise DataError(f"config.data.{field}={pattern!r}: no file matches")
        paths += [str(storage.absolute(path)) for path in matches]
    return folders.unique(paths)


def build(
    config: Config,
    files: dict[str, list[str]],
    tokenizer: Tokenizer,
    directory: Path,
    console: Console,
    description: dict,
) -> dict:
    """Writes the index of `files` (of `find`) to `directory`; returns its manifest.

    Every byte is read once (see `scan`), of several files at a time.

    Args:
      description: what else the manifest says.

    Raises:
      UsageError: a phase has rows of another form than the files, or the files are of another
        vocabulary.
      DataError: a file is damaged or holds something else.
    """
    with console.status("opening the corpus"):
        paths = files["train"] + files["heldout"]
        layouts = {path: scan.layout_of(path, tokenizer) for path in paths}
        text = {
            "files": identity.describe(files["train"]),
            "heldout_files": identity.describe(files["heldout"]),
        }
    _require_forms(config, [layouts[path] for path in files["train"]])
    # Threads, as decoding and decompressing let others run; a process takes a second to start.
    threads = min(READERS, config.data.num_workers or len(os.sched_getaffinity(0)))
    with _Writer(directory) as writer, ThreadPoolExecutor(threads) as pool:
        for split, paths in files.items():
            held = [(path, layout) for path in paths if (layout := layouts[path])]
            asked = ((*one, writer.copy_of(one[0])) for one in held)
            found = in_order(pool, lambda file: scan.read(*file), asked, threads)
            for number, (path, layout) in enumerate(held, 1):
                with console.status(f"indexing file {number:,} of {len(held):,} ({split})"):
                    writer.add(path, split, layout, next(found), config.data)
        if files["train"] and not writer.records("train"):
            raise DataError(
                f"config.data.files={config.data.files!r}: no record is left to train on"
            )
        return writer.finish(
            **description,
            vocab_size=tokenizer.vocab_size,
            text=text,
            report="\n".join(_report(config, tokenizer, writer.files, layouts)),
        )


def _require_forms(config: Config, layouts: list[Layout | None]) -> None:
    """Raises UsageError where a phase finds no rows of its form in the training files."""
    forms = {layout.form for layout in layouts if layout}
    for name, phase in config.active_phases.items() if layouts else ():
        if form_of(phase) not in forms:
            raise UsageError(no_rows(name, phase, forms, "config.data.files"))


def no_rows(name: str, phase: Phase, forms: set[tuple[int, int]], field: str) -> str:
    """Why a phase has nothing to read in files of other forms (pairs of L and P)."""
    if not forms:
        return f"{field} has no examples: name files that have some, or raise a fraction of 0"
    held = " and ".join(f"{length} and {most}" for length, most in sorted(forms))
    return (
        f"config.phases.{name}.sequence_length={phase.sequence_length} and "
        f".max_predictions_per_seq={phase.max_predictions_per_seq}: the examples of {field} have "
        f"{held}; set them so, or the phase's steps to 0"
    )


class _Writer:
    """Writes an index, a file's records at a time; `files` are those of each split so far."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.files: dict[str, list[File]] = {split: [] for split in store.SPLITS}
        self._columns: dict[str, store.Column] = {}
        self._names: dict[str, str] = {}  # of the copies of files, within W/store
        self._copies: dict[str, dict] = {}

    def __enter__(self) -> "_Writer":
        with contextlib.ExitStack() as stack:
            for split in store.SPLITS:
                self._make(split)
                for name, dtype in (("offsets", OFFSETS), ("lengths", LENGTHS)):
                    column = store.Column(self.directory / split / f"{name}.bin", dtype)
                    stack.callback(column.close)
                    self._columns[f"{split}/{name}.bin"] = column
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def records(self, split: str) -> int:
        return sum(file.records for file in self.files[split])

    def copy_of(self, path: str) -> Path | None:
        """The place for what a gzip file holds; None of another file."""
        if not framing.is_compressed(path):
            return None
        self._make("copies")
        self._names[path] = f"copies/{len(self._names):05}.tfrecord"
        return self.directory / self._names[path]

    def add(self, path: str, split: str, layout: Layout, found: scan.Found, data: Data) -> None:
        """Adds a file that was read, to both splits where a share of its records is held out."""
        copy = self._names.get(path)
        if copy and found.copy:
            self._copies[copy] = found.copy
        size = storage.sizes([path])[0]
        heldout = found.checksums < data.heldout_fraction * _HASHES
        chosen = {split: np.ones(len(heldout), bool)}
        if split == "train" and data.heldout_files is None:
            chosen = {"train": ~heldout, "heldout": heldout}
        for part, mine in chosen.items():
            self._columns[f"{part}/offsets.bin"].append(found.offsets[mine])
            self._columns[f"{part}/lengths.bin"].append(found.lengths[mine])
            self.files[part].append(File(path, int(mine.sum()), layout.form, size, copy))

    def _make(self, name: str) -> None:
        if not storage.is_remote(self.directory):
            (self.directory / name).mkdir(parents=True, exist_ok=True)

    def finish(self, **description: Any) -> dict:
        """Closes the files, writes the manifest and returns it."""
        manifest = {
            "format": store.FORMAT,
            "files": {name: column.finish() for name, column in self._columns.items()}
            | self._copies,
            "records": {
                split: [file._asdict() for file in files] for split, files in self.files.items()
            },
            **description,
        }
        text = json.dumps(manifest, indent=2, ensure_ascii=False)
        storage.write(self.directory / "manifest.json", text.encode())
        return manifest


def _report(
    config: Config, tokenizer: Tokenizer, files: dict[str, list[File]], layouts: dict
) -> Iterator[str]:
    """What a person should know of the files, a line each (see `data.report`)."""
    train, heldout = (sum(f.records for f in files[split]) for split in store.SPLITS)
    yield f"{'records':12}{train:,} to train on, {heldout:,} held out"
    used = [file for part in files.values() for file in part if file.records]
    for form in sorted({file.form for file in used}):
        mine = {file.path for file in used if file.form == form}
        phases = [name for name, phase in config.active_phases.items() if form_of(phase) == form]
        readers = ", ".join(phases) or "no phase of this config reads them"
        yield f"{'form':12}{form[0]} tokens, {form[1]} predictions, in {_count(mine)} ({readers})"
    yield f"{'vocabulary':12}{tokenizer.vocab_size:,} tokens, sha256 {tokenizer.sha256[:12]}"
    yield (
        f"{'note':12}sentence pairs and masks are those of the files: config.examples, config.masking "
        "and config.evaluation.masked_lm_prob are not read"
    )
    if empty := [path for path, layout in layouts.items() if layout is None]:
        yield f"{'note':12}{_count(empty)} without a record, {empty[0]} the first"
    if copied := {f.copy for f in used if f.copy}:
        yield f"{'note':12}gzip gives no single record: {_count(copied)} kept decompressed in W/store/copies"
    if heldout and config.data.heldout_files is None:
        yield (
            f"{'note':12}held out by record: with dupe_factor > 1 the same sentences are trained "
            "on in other records; config.data.heldout_files names files of their own"
        )
    if heldout > config.evaluation.num_examples:
        yield (
            f"{'note':12}an evaluation reads {config.evaluation.num_examples:,} of the {heldout:,} "
            "records held out; config.evaluation.num_examples sets how many"
        )


def _count(files: Collection[str]) -> str:
    return f"{len(files):,} file{'s' * (len(files) != 1)}"
