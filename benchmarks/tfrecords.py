"""Rates of one core: TFRecords to an index, and batches of them beside batches of a text store.

    python -m benchmarks.tfrecords --workdir=W --text_workdir=W2 [--rounds=7] [--steps=40]

W is what `bertjax prepare` made of TFRecords (data.source=bert_tfrecord), W2 what it made of text. The
rows of a batch are random ones of an epoch. `check` and `decode` are parts of `records`; the rest of it
is reading. The two kinds of batches alternate within a round.

This process is pinned to one core. A second is one of that core's for this process (CPU time): other
work on the machine is left out, and what it does to caches and memory is not.
"""

import argparse
import functools
import os
import statistics
import time
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np

from bertjax.config import Config, Data, Phase
from bertjax.config.stages import Stage
from bertjax.data import pipeline, store, tokenizer
from bertjax.data.tfrecord import batches, scan
from bertjax.data.tfrecord.example import Layout

SIZE = 256


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=Path, required=True, help="prepared from TFRecords")
    parser.add_argument("--text_workdir", type=Path, required=True, help="prepared from text")
    parser.add_argument("--rounds", type=int, default=7, help="times that everything is run (7)")
    parser.add_argument("--steps", type=int, default=40, help="batches of 256 in a round (40)")
    return parser.parse_args()


def cpu(run) -> float:
    """Seconds of CPU that a call takes."""
    start = time.process_time()
    run()
    return time.process_time() - start


def rates(count, times, unit="rows") -> str:
    """The best rate and the median one."""
    found = [count / seconds for seconds in times]
    return f"{unit}/s {max(found):12,.0f} (median {statistics.median(found):,.0f})"


def stage_of(form) -> Stage:
    phase = Phase(
        steps=10**9, sequence_length=form[0], batch_size=SIZE, max_predictions_per_seq=form[1]
    )
    return Stage("phase1", 0, phase, 0, phase.steps, 0)


def measure_index(args, manifest):
    for split in store.SPLITS:
        for file in manifest["records"][split]:
            layout = Layout(*file["form"], manifest["vocab_size"])
            read = functools.partial(scan.records, file["path"], layout)
            count = len(read().offsets)
            times = [cpu(read) for _ in range(args.rounds)]
            name = f"{Path(file['path']).name} {'gzip' if file['copy'] else 'plain'}"
            megabytes = rates(file["bytes"] / 1e6, times, "file MB")
            print(f"{file['form'][0]:5} index {name:24} {rates(count, times)}   {megabytes}")
        if split == "train":
            return


def measure_parts(records, rows):
    """Seconds for checking and for decoding `rows`, which are fetched before."""
    found = records._fetch(rows)
    return cpu(lambda: records._check(*found)), cpu(lambda: records._decode(*found))


def measure_batches(args, vocabulary, text_vocabulary, form):
    stage, texts = stage_of(form), store.open_store(args.text_workdir / "store", "train")
    source = Config(data=Data(source="bert_tfrecord"))
    kinds = {
        "records": batches.Batches(source, args.workdir, vocabulary, stage),
        "text store": pipeline.Batches([texts], text_vocabulary, Config(), stage),
    }
    times = {name: [] for name in (*kinds, "check", "decode")}
    for round_ in range(args.rounds + 1):
        steps = range(round_ * args.steps, (round_ + 1) * args.steps)
        for name, kind in kinds.items():
            seconds = cpu(
                functools.partial(lambda made, all_: [made.batch(s) for s in all_], kind, steps)
            )
            times[name].append(seconds / (args.steps * SIZE))
        rows = kinds["records"].batch(round_)["example_ids"].astype(np.int64)
        for name, seconds in zip(
            ("check", "decode"), measure_parts(kinds["records"]._records, rows), strict=True
        ):
            times[name].append(seconds / len(rows))
    for name, seconds in times.items():
        print(f"{form[0]:5} {name:12} {rates(1, seconds[1:])}")  # the first round warms up
    ratios = [a / b for a, b in zip(times["records"][1:], times["text store"][1:], strict=True)]
    print(
        f"{form[0]:5} seconds of records / text store: median {statistics.median(ratios):.1f}, of the "
        f"minima {min(times['records']) / min(times['text store']):.1f}"
    )


def main():
    args = parse_args()
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    manifest = store.read_manifest(args.workdir / "store")
    print(f"jax {jax.__version__}; load average {os.getloadavg()[0]:.1f} on {len(cores)} cores")
    measure_index(args, manifest)
    vocabularies = [tokenizer.load(w / "tokenizer") for w in (args.workdir, args.text_workdir)]
    for form in sorted({tuple(file["form"]) for file in manifest["records"]["train"]}):
        measure_batches(args, *vocabularies, form)
    print(f"load average at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
