"""Measures several models side by side; the results are plain values for JSON."""

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bertjax.config import parameters
from bertjax.convert.pretrained import Hints, Pretrained
from bertjax.data.tokenizer_base import Tokenizer
from bertjax.device import latency, machine, programs, startup, texts
from bertjax.device.asked import Asked
from bertjax.device.programs import Batch, Program
from bertjax.errors import DataError, UsageError

ROWS = 32  # of the batch that measures throughput and score
_ROWS_LENGTH, _ROWS_RUNS = 128, 3
_STARTS = 3  # processes that each load a model, one after the other
_LEAST = 3  # tokens of the shortest row: [CLS], one token, [SEP]

Say = Callable[[str], None]


def run(asked: Asked, say: Say) -> dict[str, Any]:
    """Measures the models of `asked`; calls `say` with a line for each slow part and each decision.

    Returns:
      `machine`: as `machine.describe` returns it, with `load_average_after`.
      `settings`: the request.
      `files`: for each place `name`, `place`, `runtime` and `size_bytes`; `load_seconds`,
        `first_call_seconds`, `peak_bytes` and `idle_bytes` (`startup.Start`, for one row of the
        longest length); `latency`, which has for each number of threads and tokens `threads`,
        `tokens`, `calls`, `first_call_seconds`, `median_seconds` and `p99_seconds`; `throughput`,
        which has `rows`, `tokens` and `rows_per_second`; and, with a labeled file, `scores`: the
        figures by batch size ("1" without padding, "32" with padding).

    Raises:
      UsageError: a model has another task, or does not take the longest length.
      DataError: a file is missing or cannot be read or run.
    """
    before = machine.describe()
    threads = sorted({1, before["cores"]})
    opened = [_open(place, threads[-1], asked.hints) for place in asked.places]
    tokenizer = asked.tokenizer({p.place: weights for p, weights in opened if weights}, say)
    ids, notes = texts.tokens(asked.texts, tokenizer, ROWS * (max(asked.lengths) - 2))
    for note in notes:
        say(note)
    make = _Batches(ids, tokenizer)
    for program, _ in opened:
        _require_lengths(program, max(asked.lengths), make)
    entries = [
        _Entry(program, _identity(program, pretrained, name))
        for (program, pretrained), name in zip(opened, names(asked.places), strict=True)
    ]
    if asked.dev is not None:
        _scores(asked, entries, say)
    for number in threads:
        _latencies(asked, number, number == threads[-1], entries, make, say)
    _throughput(asked, entries, make, say)
    _starts(asked, threads[-1], entries, make, say)
    settings = {"lengths": asked.lengths, "runs": asked.runs, "texts": asked.texts}
    settings |= {"source": asked.model, "dev": asked.dev, "threads": threads}
    after = {"load_average_after": machine.describe()["load_average"]}
    files = [entry.row for entry in entries]
    return {"machine": before | after, "settings": settings, "files": files}


class _Entry(NamedTuple):
    """A model that runs on all cores, and its measurements."""

    program: Program
    row: dict[str, Any]


class _Batches:
    """Batches of the same ids, by rows and tokens."""

    def __init__(self, ids: np.ndarray, tokenizer: Tokenizer) -> None:
        self._ids, self._tokenizer = ids, tokenizer

    def __call__(self, rows: int, length: int) -> Batch:
        return texts.batch(self._ids, self._tokenizer, rows, length)


def _open(place: str, threads: int, hints: Hints) -> tuple[Program, Pretrained | None]:
    if programs.is_export(place):
        return programs.open_export(place, threads), None
    return programs.open_source(place, hints)


def names(places: Sequence[str]) -> list[str]:
    """File names without folders; the whole places if two names would be the same."""
    short = [("" if programs.is_export(p) else "bertjax ") + Path(p).name for p in places]
    return short if len(set(short)) == len(short) else list(places)


def _identity(program: Program, pretrained: Pretrained | None, name: str) -> dict[str, Any]:
    """A model's row before any measurement."""
    if pretrained is None:
        size = Path(program.place).stat().st_size
    else:  # as float32, without optimizer states and other files of the source
        size = 4 * parameters.num_parameters(pretrained.config.model)
    runtime = "onnxruntime" if pretrained is None else "bertjax"
    row = {"name": name, "place": program.place, "runtime": runtime, "size_bytes": size}
    return {**row, "latency": []}


def _require_lengths(program: Program, longest: int, make: _Batches) -> None:
    """Raises UsageError if a model does not run `longest` tokens; the message has its limit."""

    def failure(length: int) -> str | None:
        try:
            program.require(make(1, length))
        except Exception as error:  # of classes that onnxruntime does not publish
            return programs.reason(error)
        return None

    if failure(longest) is None:
        return
    why = failure(_LEAST)
    if why is not None:
        raise DataError(f"{program.place}: does not run ({why}); is the tokenizer the model's?")
    most, over = _LEAST, longest
    while over - most > 1:
        middle = (most + over) // 2
        most, over = (middle, over) if failure(middle) is None else (most, middle)
    raise UsageError(f"--lengths={longest}: {program.place} has positions for {most} tokens")


def _scores(asked: Asked, entries: Sequence[_Entry], say: Say) -> None:
    from bertjax.device import scores

    assert asked.model is not None
    assert asked.dev is not None
    dev = scores.read(asked.model, asked.dev, asked.hints)
    for note in dev.notes:
        say(note)
    for program, _ in entries:
        scores.require_same_task(program, dev)
    say(f"scores: {len(dev.examples):,} examples")
    for program, row in entries:
        sizes = (ROWS,) if program.compiles else (1, ROWS)
        row["scores"] = {str(size): scores.figures(program, dev, size) for size in sizes}


def _latencies(
    asked: Asked, threads: int, is_all: bool, entries: Sequence[_Entry], make: _Batches, say: Say
) -> None:
    """Latency at batch 1 of every length, with `threads` threads; bertjax uses all cores only."""
    some = [entry for entry in entries if is_all or not entry.program.compiles]
    for length in asked.lengths if some else ():
        what = f"{threads} thread{'s' * (threads > 1)}, {length} tokens"
        say(f"latency: {what}, {asked.runs} calls of each")
        # A new session for every length, so that its first call can be timed. For JAX every length
        # is new anyway.
        ready = [
            program if program.compiles else programs.open_export(program.place, threads)
            for program, _ in some
        ]
        calls = [_call(program, make(1, length)) for program in ready]
        first = [_seconds(call) for call in calls]
        found = latency.alternate(calls, asked.runs)
        for (_, row), once, seconds in zip(some, first, found, strict=True):
            row["latency"].append(
                {
                    "threads": threads,
                    "tokens": length,
                    "calls": len(seconds),
                    "first_call_seconds": once,
                    "median_seconds": statistics.median(seconds),
                    "p99_seconds": latency.percentile(seconds, 0.99),
                }
            )


def _throughput(asked: Asked, entries: Sequence[_Entry], make: _Batches, say: Say) -> None:
    """Rows per second in batches of `ROWS`, with all cores."""
    length = _ROWS_LENGTH if _ROWS_LENGTH in asked.lengths else min(asked.lengths)
    runs = min(_ROWS_RUNS, asked.runs)
    say(f"throughput: {ROWS} rows of {length} tokens, {runs} calls of each")
    batch = make(ROWS, length)
    calls = [_call(program, batch) for program, _ in entries]
    for (program, _), call in zip(entries, calls, strict=True):
        if program.compiles:
            call()
    found = latency.alternate(calls, runs, block=1, warm=False)
    for (_, row), seconds in zip(entries, found, strict=True):
        rate = ROWS / statistics.median(seconds)
        row["throughput"] = {"rows": ROWS, "tokens": length, "rows_per_second": rate}


def _starts(
    asked: Asked, threads: int, entries: Sequence[_Entry], make: _Batches, say: Say
) -> None:
    """Load time and memory, measured in processes with one model each; the models take turns."""
    say(f"load time and memory: {_STARTS} processes of each")
    batch = make(1, max(asked.lengths))
    found: dict[str, list[startup.Start]] = {place: [] for place in asked.places}
    for _, place in itertools.product(range(_STARTS), asked.places):
        found[place].append(startup.measure(place, asked.hints, batch, threads))
    for program, row in entries:
        row.update(startup.median(found[program.place])._asdict())


def _call(program: Program, batch: Batch) -> Callable[[], object]:
    return lambda: program.run(batch)


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
