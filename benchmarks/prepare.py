"""Rate and peak memory of `bertjax prepare`, against the `tokenizers` library on its own.

The corpus is cut into slices. On each slice two programs take turns on the same cores: prepare,
from a .jsonl file to the finished store (start of its processes, reading, JSON, sentences,
tokenizing and writing included), and the library's `encode_batch` of the same lines, already in
memory. Then the uncut corpus is prepared once more, and the memory of all its processes is summed
ten times a second (PSS: a shared page counts once).

    python -m benchmarks.prepare --corpus=medium.jsonl.gz --vocab=bert-base-uncased-vocab.txt
"""

import argparse
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from tokenizers.implementations import BertWordPieceTokenizer

from bertjax.config import from_config_dict
from bertjax.data.prepare import prepare

LINES_A_CALL = 1000


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", required=True, help=".jsonl.gz with a text field")
    parser.add_argument("--vocab", required=True, help="vocab.txt of an uncased BERT")
    parser.add_argument("--slice_mb", type=float, default=20, help="text in a slice")
    parser.add_argument("--slices", type=int, default=5, help="slices compared")
    parser.add_argument("--prepare_into", help="only prepare the corpus into this directory")
    args = parser.parse_args()
    if args.prepare_into:
        run_prepare(args.corpus, args.vocab, args.prepare_into)
        return
    print_load()
    compare(args)
    print_load()
    measure_memory(args)
    print_load()


def print_load():
    print(f"{len(os.sched_getaffinity(0))} cores, load average {os.getloadavg()[0]:.2f}")


def compare(args):
    pairs = []
    with tempfile.TemporaryDirectory() as scratch:
        for i, lines in enumerate(read_slices(args.corpus, args.slice_mb * 1e6, args.slices)):
            path = Path(scratch) / "slice.jsonl"
            path.write_bytes(b"".join(lines))
            paragraphs = [p for line in lines for p in json.loads(line)["text"].split("\n")]
            megabytes = sum(len(p.encode()) for p in paragraphs) / 1e6
            run = {
                "prepare": lambda path=path: run_prepare(path, args.vocab, scratch),
                "library": lambda lines=paragraphs: run_library(lines, args.vocab),
            }
            order = ["prepare", "library"] if i % 2 else ["library", "prepare"]
            seconds = {name: run[name]() for name in order}
            rates = {name: megabytes / seconds[name] for name in seconds}
            pairs.append(rates)
            print(
                f"slice {i}: {megabytes:.1f} MB, prepare {rates['prepare']:.2f} MB/s, "
                f"library {rates['library']:.2f} MB/s, "
                f"ratio {rates['prepare'] / rates['library']:.2f}"
            )
    ratios = [pair["prepare"] / pair["library"] for pair in pairs]
    print(f"ratio: median {statistics.median(ratios):.2f}, minimum {min(ratios):.2f}")
    for name in ("prepare", "library"):
        print(f"{name}: slowest {min(pair[name] for pair in pairs):.2f} MB/s")


def read_slices(path, size, count):
    """Yields `count` lists of raw lines, each of about `size` bytes."""
    part, held = [], 0
    with gzip.open(path) as file:
        for line in file:
            part.append(line)
            held += len(line)
            if held >= size:
                yield part
                part, held, count = [], 0, count - 1
            if not count:
                return


def run_prepare(files, vocab, workdir):
    """Seconds of one prepare."""
    config = from_config_dict({"data": {"files": str(files)}, "tokenizer": {"path": vocab}})
    started = time.perf_counter()
    prepare(config, Path(workdir), progress=False)
    return time.perf_counter() - started


def run_library(lines, vocab):
    """Seconds of `encode_batch`, which uses every core; its results are dropped at once."""
    library = BertWordPieceTokenizer(vocab)
    started = time.perf_counter()
    for i in range(0, len(lines), LINES_A_CALL):
        library.encode_batch(lines[i : i + LINES_A_CALL])
    return time.perf_counter() - started


def measure_memory(args):
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "benchmarks.prepare", f"--prepare_into={scratch}"]
        command += [f"--corpus={args.corpus}", f"--vocab={args.vocab}"]
        started, peak = time.perf_counter(), 0
        child = subprocess.Popen(command)
        while child.poll() is None:
            peak = max(peak, tree_memory(child.pid))
            time.sleep(0.1)
        if child.returncode:
            raise SystemExit(child.returncode)
        seconds = time.perf_counter() - started
        manifest = json.loads((Path(scratch) / "store" / "manifest.json").read_text())
        print(manifest["report"])
        rate = manifest["text_bytes"] / 1e6 / seconds
        print(f"whole corpus: {seconds:.1f} s, {rate:.2f} MB/s, peak memory {peak / 1e6:.0f} MB")


def tree_memory(pid):
    """PSS in bytes of a process and all its descendants."""
    total = 0
    try:
        for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
            total += process.memory_full_info().pss
    except psutil.Error:  # one ended while we looked
        pass
    return total


if __name__ == "__main__":
    main()
