"""Batches of a store on gs:// against a memory-mapped one, from a fake server over loopback.

    python benchmarks/gcs.py [--latency_ms=50] [--seconds=10]

The server (tests/helpers/fake_gcs.py) is one Python process on the same cores. The benchmark shows
that latency is hidden, and what a batch costs the host. It does not show the rate of Google Cloud
Storage.
"""

import argparse
import itertools
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests/helpers")]

import fake_gcs  # noqa: E402

from bertjax import storage  # noqa: E402
from bertjax.config import (  # noqa: E402
    Config,
    Phase,
    stages,
)
from bertjax.data import pipeline, remote, store  # noqa: E402

TOKENIZER = SimpleNamespace(
    pad_id=0, cls_id=1, sep_id=2, mask_id=3, marker_ids=(), vocab_size=30_522
)
NUM_DOCUMENTS = 40_000


def write_store(directory):
    """About 20 million tokens in documents of realistic lengths."""
    rng = np.random.default_rng(0)
    sizes = rng.geometric(1 / 20, NUM_DOCUMENTS)
    lengths = rng.geometric(1 / 25, sizes.sum())
    tokens = rng.integers(4, 30_522, lengths.sum()).astype("<u2")
    with store.Writer(directory, TOKENIZER.vocab_size) as writer:
        writer.append("train", tokens, lengths, sizes)
        writer.finish()


def measure(opened, batch_size, length, seconds):
    """Batches a second that Grain delivers with 4 read ahead."""
    phase = Phase(steps=1_000_000, sequence_length=length, batch_size=batch_size)
    stage = stages.Stage("phase1", 0, phase, 0, phase.steps, 0)
    batches = pipeline.Batches([opened], TOKENIZER, Config(), stage)
    reader = pipeline.iterate(batches, 0, phase.steps, prefetch=4)
    for _ in range(5):
        next(reader)
    cpu, started, count = time.process_time(), time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        next(reader)
        count += 1
    elapsed = time.perf_counter() - started
    reader.close()
    return count / elapsed, (time.process_time() - cpu) / count


def main():
    """Prints one line for each batch size and length."""
    flags = argparse.ArgumentParser()
    flags.add_argument("--latency_ms", type=float, default=0.0)
    flags.add_argument("--seconds", type=float, default=8.0)
    flags = flags.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = f"import fake_gcs; s = fake_gcs.Server('bucket', port={port}); "
    code += f"s.latency = {flags.latency_ms / 1000}; s.serve_forever(0.05)"
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'tests/helpers'}"}
    server = subprocess.Popen([sys.executable, "-c", code], env=environment)
    os.environ.update(fake_gcs.environment(f"http://127.0.0.1:{port}"))
    requests = []
    read_ranges = storage.read_ranges

    def counted(name, starts, ends):
        requests.append(len(starts))
        return read_ranges(name, starts, ends)

    remote.storage.read_ranges = counted
    store.HELD_BYTES = 0
    try:
        time.sleep(1)
        with tempfile.TemporaryDirectory() as folder:
            write_store(f"{folder}/store")
            write_store("gs://bucket/store")
            places = {"mapped": f"{folder}/store", "gs://": "gs://bucket/store"}
            for (batch_size, length), (name, place) in itertools.product(
                [(32, 128), (256, 128), (32, 512)], places.items()
            ):
                requests.clear()
                opened = store.open_store(place, "train")
                rate, cpu = measure(opened, batch_size, length, flags.seconds)
                mean = f", {np.mean(requests):.0f} requests each" if requests else ""
                print(
                    f"{batch_size:4} x {length:3}  {name:6}  {rate:9.1f} batches/s, "
                    f"{cpu * 1000:7.2f} ms of CPU each{mean}",
                    flush=True,
                )
    finally:
        server.kill()


if __name__ == "__main__":
    main()
