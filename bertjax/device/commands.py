"""The command of exported models: `bench-export`."""

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

    Exported .onnx files beside each other on this CPU, in onnxruntime: size, time to load, first
    call, memory of a process of its own; at batch 1 median and 99th percentile latency for rows of
    so many tokens, with 1 thread and with all cores; rows a second in batches of 32. Files take
    turns. FILE may also be a source of convert, which bertjax computes, on all cores. SRC, a source
    of convert, has the tokenizer (by default the first source among the FILEs; or --tokenizer=a
    file or folder). --dev=a labelled file of the task of a fine-tuned SRC, as predict reads it:
    adds the score, at batch 1 without padding and at batch 32 with.
    """
    from bertjax.device import bench, report
    from bertjax.device.asked import Asked

    if not args:
        raise UsageError("expected FILE [FILE ...]; see --help")
    if not values.texts:
        raise UsageError("--texts: missing; name a file, a text a line")
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
    """Refuses before anything is measured what could not be written after it."""
    if path and not storage.is_remote(path) and not storage.path(path).parent.is_dir():
        raise UsageError(f"--{flag}={path}: no such folder; make it first")


def _lengths(text: str) -> tuple[int, ...]:
    """The numbers of --lengths, ascending."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part) >= 3 for part in parts):
        raise UsageError(f"--lengths={text}: expected numbers of tokens from 3, as 32,128,384")
    return tuple(sorted({int(part) for part in parts}))
