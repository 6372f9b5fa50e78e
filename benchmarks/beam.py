"""`bertjax prepare` in its own processes and on Apache Beam: rate, peak memory, equal bytes.

All ways prepare one corpus with one vocabulary in turns, each in a fresh process. Seconds are those
of `prepare` itself, up to the installed store. Beam's seconds have two parts: the pipeline
(reading, tokenizing, part files), and the copying of the parts into the store. Memory is the sum
over all processes, taken ten times a second (PSS: a shared page counts once). Every store is
compared with the first one.

    python -m benchmarks.beam --corpus=small.jsonl.gz --vocab=bert-base-uncased-vocab.txt
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.prepare import print_load, tree_memory
from bertjax.config import from_config_dict
from bertjax.data import beam
from bertjax.data.prepare import prepare

PROCESSES = "--direct_running_mode=multi_processing"
WAYS = {
    "local, 1 process": (1, None),
    "local, 2 processes": (2, None),
    "Beam in memory": (1, ["--runner=FnApiRunner"]),
    "Beam, 2 processes": (1, ["--runner=FnApiRunner", PROCESSES, "--direct_num_workers=2"]),
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", required=True, help="text files, or a pattern of them")
    parser.add_argument("--vocab", required=True, help="vocab.txt of an uncased BERT")
    parser.add_argument("--rounds", type=int, default=5, help="times that each way is tried")
    parser.add_argument("--way", help="only prepare, this way, into --workdir")
    parser.add_argument("--workdir", help="of --way")
    args = parser.parse_args()
    if args.way:
        print(json.dumps(run(args.corpus, args.vocab, *WAYS[args.way], args.workdir)))
        return
    print_load()
    compare(args)
    print_load()


def run(files, vocab, processes, options, workdir):
    """Prepares; returns the total seconds, the pipeline's seconds, and the bytes of the text."""
    seconds, tokenize_all = [], beam.tokenize_all

    def timed(*args):
        started = time.perf_counter()
        results = tokenize_all(*args)
        seconds.append(time.perf_counter() - started)
        return results

    beam.tokenize_all = timed
    tree = {"data": {"files": files, "num_workers": processes}, "tokenizer": {"path": vocab}}
    started = time.perf_counter()
    manifest = prepare(from_config_dict(tree), workdir, beam_options=options, progress=False)
    return time.perf_counter() - started, sum(seconds), manifest["text_bytes"]


def compare(args):
    rates, copying, peaks = ({way: [] for way in WAYS} for _ in range(3))
    expected = None
    for i in range(args.rounds):
        ways = list(WAYS) if i % 2 else list(reversed(WAYS))
        for way in ways:
            with tempfile.TemporaryDirectory() as scratch:
                (total, pipeline, size), peak = measured(args, way, scratch)
                found = contents(scratch)
            expected = expected or found
            if found != expected:
                raise SystemExit(f"{way}: another store than {ways[0]} made")
            rates[way].append(size / 1e6 / total)
            copying[way].append(total - pipeline)
            peaks[way].append(peak)
    print(f"{size / 1e6:.1f} MB of text, {args.rounds} rounds, every store the same bytes")
    for way in WAYS:
        line = f"{way:20} median {statistics.median(rates[way]):5.2f} MB/s, "
        line += f"slowest {min(rates[way]):5.2f}, fastest {max(rates[way]):5.2f}, "
        line += f"peak {statistics.median(peaks[way]) / 1e6:4.0f} MB"
        if WAYS[way][1]:
            line += f", of it copying {statistics.median(copying[way]):.2f} s"
        print(line)


def measured(args, way, workdir):
    """Calls `run` in a process of its own; returns its result and its peak memory in bytes."""
    command = [sys.executable, "-m", "benchmarks.beam", f"--way={way}", f"--workdir={workdir}"]
    command += [f"--corpus={args.corpus}", f"--vocab={args.vocab}"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as child:
        peak = 0
        while child.poll() is None:
            peak = max(peak, tree_memory(child.pid))
            time.sleep(0.1)
        return json.loads(child.stdout.read()), peak


def contents(workdir):
    paths = [path for path in Path(workdir).rglob("*") if path.is_file()]
    return {path.relative_to(workdir): path.read_bytes() for path in paths}


if __name__ == "__main__":
    main()
