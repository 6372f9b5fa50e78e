"""Time to mask a batch: this tree against an earlier revision, and every unit alone and packed.

    python benchmarks/masking.py [--before=c43696e] [--rounds=50]

All variants are jitted and run in turn in one process, on made-up batches of random ids of which
70 in 100 begin a word; a packed row holds up to 8 examples. Ratios are taken round by round.
"""

import argparse
import dataclasses
import importlib.util
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np

from bertjax.config import Masking
from bertjax.data import masking

VOCAB, PER_ROW = 30522, 8
SHAPES = ((256, 128, 20), (32, 512, 77))  # rows, length, predictions
KEY = jax.random.key(0, impl="threefry2x32")
STARTS = np.random.default_rng(0).random(VOCAB) < 0.7
TOKENIZER = SimpleNamespace(
    cls_id=101,
    sep_id=102,
    mask_id=103,
    special_ids=(0, 100, 101, 102, 103),
    marker_ids=(),
    vocab_size=VOCAB,
    word_starts=lambda: STARTS,
)


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", default="c43696e", help="revision to compare with")
    parser.add_argument("--rounds", type=int, default=50, help="times that everything is run")
    return parser.parse_args()


def module_of(revision):
    """bertjax/data/masking.py as it was at `revision`, as a module of its own."""
    root = Path(__file__).resolve().parents[1]
    name = f"{revision}:bertjax/data/masking.py"
    text = subprocess.run(
        ["git", "show", name], cwd=root, check=True, capture_output=True, text=True
    ).stdout
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "masking_before.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location("masking_before", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def make_batch(rows, length, packed):
    """A host batch of full rows."""
    rng = np.random.default_rng(1)
    ids = rng.integers(1000, VOCAB, (rows, length))
    count = PER_ROW if packed else 1
    ends = rng.random((rows, length // 4)).argsort(1)[:, :count] * 4 + 4  # all differ
    ends.sort(1)
    ends[:, -1] = length
    starts = np.pad(ends[:, :-1], ((0, 0), (1, 0)))
    np.put_along_axis(ids, ends - 1, TOKENIZER.sep_id, 1)
    np.put_along_axis(ids, starts, TOKENIZER.cls_id, 1)
    batch = {"input_ids": ids, "attention_mask": np.ones_like(ids), "mask_epochs": np.zeros(rows)}
    example_ids = np.arange(rows * count).reshape(rows, count)
    if packed:
        segments = (np.arange(length)[:, None] >= ends[:, None, :]).sum(2)
        batch["segment_ids"] = segments + 1
        batch["position_ids"] = np.arange(length) - np.take_along_axis(starts, segments, 1)
        batch["example_ids"] = example_ids
    else:
        batch["example_ids"] = example_ids[:, 0]
    return {name: values.astype(np.int32) for name, values in batch.items()}


def jitted(module, fields, predictions):
    def run(batch):
        batch["epochs"] = batch["mask_epochs"]  # its name in the revision before
        return module.mask_tokens(KEY, batch, TOKENIZER, fields, predictions)

    return jax.jit(run)


def variants(before, rows, length, predictions):
    """`{name: (function, batch)}`, and the pairs of names to compare."""
    alone, packed = (make_batch(rows, length, packed) for packed in (False, True))
    runs, pairs = {}, []
    for unit in ("token", "whole_word", "span"):
        fields = Masking(unit=unit)
        run = jitted(masking, fields, predictions)
        runs[unit], runs[f"{unit}, packed"] = (run, alone), (run, packed)
        if unit != "span":
            fields = SimpleNamespace(**dataclasses.asdict(fields), whole_word=unit != "token")
            name = f"{unit}, before"
            runs[name] = jitted(before, fields, predictions), alone
            pairs.append((unit, name))
    return runs, pairs


def seconds(run, batch):
    start = time.perf_counter()
    jax.block_until_ready(run(batch))
    return time.perf_counter() - start


def compare(before, rows, length, predictions, rounds):
    runs, pairs = variants(before, rows, length, predictions)
    batches = {id(batch): jax.device_put(batch) for _, batch in runs.values()}
    runs = {name: (run, batches[id(batch)]) for name, (run, batch) in runs.items()}
    for run, batch in runs.values():
        seconds(run, batch)  # compiles
    spent = {name: [] for name in runs}
    for _ in range(rounds):
        for name, (run, batch) in runs.items():
            spent[name].append(seconds(run, batch))
    print(f"\n{rows} x {length}, {predictions} predictions: ms, median and least of {rounds}")
    for name, times in spent.items():
        print(f"  {name:24}{1e3 * statistics.median(times):8.2f}{1e3 * min(times):8.2f}")
    for name, old in pairs:
        ratio = statistics.median(a / b for a, b in zip(spent[name], spent[old], strict=True))
        least = min(spent[name]) / min(spent[old])
        print(f"  {name} / before: median ratio {ratio:.2f}, ratio of the least {least:.2f}")


def main():
    args = parse_args()
    before = module_of(args.before)
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for shape in SHAPES:
        compare(before, *shape, args.rounds)
    print(f"\nload average at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
