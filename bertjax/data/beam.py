"""Tokenizes a corpus on the workers of an Apache Beam runner: Dataflow, Flink, Spark, ...

Beam keeps no order and may do any work twice, but every byte of a store has its place. So the
tokens of each chunk go into a part file with a unique name. The output of the pipeline is one
index: the parts of each corpus in the order of its text. One machine then copies the parts, a few
chunks in memory at a time, into the same writer that the processes of `tokenize` feed.

Elements are `(place, item)`. A place holds the numbers of a corpus, of a piece of the corpus, and
of a chunk of the piece. An error in the corpus replaces the item that cannot be made, and the
workers skip the remaining work. A raised error would make Beam retry, slowly, and end in a
traceback.
"""

import contextlib
import functools
import io
import json
import sys
import uuid
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
from apache_beam.options.pipeline_options import PipelineOptions

from bertjax import errors, storage
from bertjax.config import Data
from bertjax.data import sources, tokenizer
from bertjax.data.corpus import Corpus
from bertjax.data.tokenize import Tokenized, in_order, tokenize
from bertjax.errors import BertjaxError, StorageError, UsageError, one_line

_COUNTERS = ("dropped", "seen", "unknown_words")  # fields of `Tokenized`
READERS = 16  # part files read at once: a bucket is slow for one read, but serves many at a time


class Failure(NamedTuple):
    """An error as an element of the pipeline: its class in `errors`, and its message."""

    kind: str
    message: str


def tokenize_all(
    corpora: Sequence[Corpus], saved: Path, directory: Path, options: Sequence[str]
) -> list[Iterator[Tokenized]]:
    """Runs one pipeline over all corpora; returns the tokenized chunks of each, in order.

    Args:
      saved: the tokenizer's file, which each worker loads.
      directory: for part files, which are as large as the stores. This machine and all workers
        must have access to it, as to `saved` and the text.
      options: pipeline options of Beam, `--runner=...` among them.

    Raises:
      UsageError: Beam refuses the options.
      DataError: something is wrong with the text.
      StorageError: the workers do not share `directory`.
      BertjaxError: the pipeline failed.
    """
    if not storage.is_remote(directory):
        directory.mkdir()
    pipeline = _pipeline(options)
    # Without Reshuffle, Beam would fuse these steps and one worker would do all the work.
    (
        pipeline
        | beam.Create([((number,), None) for number in range(len(corpora))])
        | "find pieces" >> beam.ParDo(_Find(corpora, directory))
        | "a piece each" >> beam.Reshuffle()
        | "read" >> beam.ParDo(_Read(corpora, directory))
        | "a chunk each" >> beam.Reshuffle()
        | "tokenize" >> beam.ParDo(_Tokenize(corpora, directory, saved))
        | "list parts" >> beam.combiners.ToList()
        | "write index" >> beam.Map(functools.partial(_write_index, directory))
    )
    _run(pipeline)
    names = [[] for _ in corpora]
    for (number, *_), name in _read_index(directory):
        names[number].append(directory / name)
    return [_read_parts(paths) for paths in names]


def _pipeline(options: Iterable[str]) -> beam.Pipeline:
    stderr = io.StringIO()  # argparse prints all of Beam's options before the error
    try:
        with contextlib.redirect_stderr(stderr):
            parsed = PipelineOptions(list(options))
            parsed.get_all_options()  # fails on bad options here and not in the runner
            pipeline = beam.Pipeline(options=parsed)
        print(stderr.getvalue(), end="", file=sys.stderr)  # a note on unknown options, for example
        return pipeline
    except SystemExit:
        reason = stderr.getvalue().strip().splitlines()[-1]
    except (ValueError, ImportError, AttributeError) as error:
        reason = one_line(error)
    raise UsageError(f"Beam, with {' '.join(options)}: {reason}")


def _run(pipeline: beam.Pipeline) -> None:
    try:
        result = pipeline.run()
        try:
            result.wait_until_finish()
        except KeyboardInterrupt:
            result.cancel()  # otherwise the job would go on, and cost money
            raise
    except OSError:
        raise
    except Exception as error:  # runners raise errors of any class
        reason = str(error).strip().splitlines()[-1:]  # the line below a traceback
        raise BertjaxError(": ".join(["Beam", type(error).__name__, *reason])) from error


class _Step(beam.DoFn):
    """One step of the pipeline: `work` turns an element into elements for the next step."""

    def __init__(self, corpora: Sequence[Corpus], directory: Path) -> None:
        self.corpora, self.directory = corpora, directory

    def process(self, element: Any) -> Iterator[Any]:  # Any: Beam would check narrower types
        place, item = element
        stop = self.directory / "stop"
        if isinstance(item, Failure):
            yield element
        elif not storage.exists(stop):
            corpus = self.corpora[place[0]]
            try:
                with corpus.blamed():
                    yield from self.work(place, item, corpus.data)
            except BertjaxError as error:
                with contextlib.suppress(FileNotFoundError):  # two workers stop at once
                    storage.write(stop, b"")
                yield place, Failure(type(error).__name__, str(error))


class _Find(_Step):
    def work(self, place: tuple[int, ...], _: None, data: Data) -> Iterator[tuple]:
        for i, piece in enumerate(sources.pieces(data)):
            yield (*place, i), piece


class _Read(_Step):
    def work(self, place: tuple[int, ...], piece: sources.Piece, data: Data) -> Iterator[tuple]:
        for i, chunk in enumerate(sources.chunks(data, [piece])):
            yield (*place, i), chunk


class _Tokenize(_Step):
    def __init__(self, corpora: Sequence[Corpus], directory: Path, saved: Path) -> None:
        super().__init__(corpora, directory)
        self.saved = saved

    def setup(self) -> None:
        self.encoder = tokenizer.load(self.saved)

    def work(self, place: tuple[int, ...], chunk: sources.Chunk, data: Data) -> Iterator[tuple]:
        name = f"{uuid.uuid4().hex}.npz"
        _write_part(self.directory / name, tokenize(chunk, data, self.encoder))
        yield place, name


def _write_index(directory: Path, parts: Any) -> None:
    parts = sorted(parts, key=lambda part: part[0])
    storage.write(directory / "index.json", json.dumps(parts).encode())


def _read_index(directory: Path) -> list:
    try:
        index = json.loads(storage.read(directory / "index.json"))
    except FileNotFoundError:
        raise StorageError(
            f"{directory}: Beam's workers wrote nothing here; --workdir must be "
            "a place that they and this machine share"
        ) from None
    for _, item in index:
        if not isinstance(item, str):
            failure = Failure(*item)
            raise getattr(errors, failure.kind)(failure.message)
    return index


def _write_part(path: Path, result: Tokenized) -> None:
    contents = io.BytesIO()
    counted = {name: json.dumps(getattr(result, name)) for name in _COUNTERS}
    np.savez(contents, **result._asdict() | counted)
    storage.write(path, contents.getvalue())


def _read_part(path: Path) -> Tokenized:
    with np.load(io.BytesIO(storage.read(path)), allow_pickle=False) as fields:
        result = Tokenized(**fields)
    counted = {name: Counter(json.loads(str(getattr(result, name)))) for name in _COUNTERS}
    numbers = {"text_bytes": int(result.text_bytes), "position": int(result.position)}
    return Tokenized(**result._asdict() | numbers | counted)


def _read_parts(paths: list[Path]) -> Generator[Tokenized, None, None]:
    with ThreadPoolExecutor(READERS) as pool:
        yield from in_order(pool, _read_part, paths, 2 * READERS)
