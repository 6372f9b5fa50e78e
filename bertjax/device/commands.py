"""The command that measures exported models: `bench-export`."""

import json
import re
import sys

from bertjax import source_commands, storage
from bertjax.commands import Flag, Values
from bertjax.errors import UsageError

FLAGS = (
    Flag("texts"),
    Flag("lengths", "32,128,384"),
    Flag("runs", 100, int, least=1),
    Flag("source"),
    Flag("dev"),
    Flag("json"),
    Flag("picture"),
)


def bench_export(values: Values, args: list[str]) -> None:
    """bench-export FILE [FILE ...] --texts=FILE [--source=SRC] [--dev=FILE]
        [--lengths=32,128,384] [--runs=100] [--json=FILE] [--picture=FILE.png]

    Measures exported .onnx files side by side in onnxruntime on this CPU: file size; time to load,
    first call and memory, in a process of its own; median and 99th percentile latency at batch 1
    for rows of each length in tokens, with 1 thread and with all cores; rows per second in batches
    of 32. The files take turns. FILE may also be a source of convert: bertjax runs it, on all
    cores. SRC, a source of convert, gives the tokenizer; without it the first source among the
    FILEs does, or --tokenizer=FILE or folder. --dev names a labeled file for the task of a
    fine-tuned SRC, in the form that predict reads; it adds the score at batch 1 without padding and
    at batch 32 with padding.
    """
    from bertjax.device import bench, report
    from bertjax.device.asked import Asked

    if not args:
        raise UsageError("expected FILE [FILE ...]; see --help")
    if not values.texts:
        raise UsageError("--texts: missing; name a file with one text per line")
    for flag in ("json", "picture"):
        _require_folder(flag, values[flag].value)
    asked = Asked(
        places=tuple(re.sub(r"^onnx(-\w+)*:", "", place) for place in args),
        texts=values.texts,
        lengths=_lengths(values.lengths),
        runs=values.runs,
        source=values.source,
        dev=values.dev,
        hints=source_commands.hints(values),
    )
    found = bench.run(asked, lambda line: print(line, file=sys.stderr))
    report.show(found)
    if values.json:
        storage.write(values.json, (json.dumps(found, indent=2) + "\n").encode())
    if values.picture:
        from bertjax.device import picture

        picture.draw(storage.path(values.picture), found)


def _require_folder(flag: str, path: str | None) -> None:
    """Raises UsageError before the measurement if its result could not be written."""
    if path and not storage.is_remote(path) and not storage.path(path).parent.is_dir():
        raise UsageError(f"--{flag}={path}: no such folder; make it first")


def _lengths(text: str) -> tuple[int, ...]:
    """The numbers of --lengths, ascending."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part) >= 3 for part in parts):
        raise UsageError(f"--lengths={text}: expected token counts of 3 or more, as in 32,128,384")
    return tuple(sorted({int(part) for part in parts}))
