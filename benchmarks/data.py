"""From a store to masked batches: rates of one core, time to a first batch, waiting, row fill.

    python -m benchmarks.data --workdir=W [--rounds=7] [--tokens=4e6] [--rate=7000] [--only=rows]

`bertjax prepare` made W. --only takes one of these parts:

    rows      batches of an epoch of the first --tokens tokens, and the index that they use
    loop      index and batches against the plain loop of tests/helpers/reference_examples.py, which
              only makes pairs from token lists in memory
    first     time from opening the whole of W to the batch of step 0 and of step 1,000,000
    masks     the jitted masks of a batch
    wait      how long a consumer of --rate sequences per second waits for batches, on all of W
    fill      the share of places in a row that hold a token, over an epoch

Except for `wait`, this process is pinned to one core, so that XLA's threads count in full. Seconds
are this process's CPU time. Other work on the machine does not count, but its effect on caches and
memory does.
"""

import argparse
import functools
import os
import random
import statistics
import sys
import time
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np

from bertjax.config import Config, Examples, Masking, Objective, Phase
from bertjax.config.stages import Stage
from bertjax.data import examples, masking, pipeline, tokenizer
from bertjax.data.epochs import Epochs
from bertjax.data.store import Store, open_store

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/helpers"))
import reference_examples as reference

SIZE = 256
PREDICTIONS = {128: 20, 512: 77}
NO_NSP = Objective(nsp=0.0)
FORMATS = {
    "segment_pair_nsp": Config(),
    "segment_pair_nsp, packed": Config(examples=Examples(max_per_row=16)),
    "full_sentences": Config(examples=Examples("full_sentences"), objective=NO_NSP),
    "full_sentences, packed": Config(
        examples=Examples("full_sentences", max_per_row=16), objective=NO_NSP
    ),
    "doc_sentences, packed": Config(
        examples=Examples("doc_sentences", max_per_row=16), objective=NO_NSP
    ),
}
PAIRS = FORMATS["segment_pair_nsp"]
FIRST_ROUNDS = 5


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=Path, required=True, help="what `prepare` wrote")
    parser.add_argument("--rounds", type=int, default=7, help="times that everything is run (7)")
    parser.add_argument("--tokens", type=float, default=4e6, help="in whole documents (4e6)")
    parser.add_argument("--rate", type=float, default=7000, help="sequences a second (7000)")
    parser.add_argument("--only", choices=PARTS, help="one part alone")
    return parser.parse_args()


def first_documents(store: Store, tokens: float) -> Store:
    """The first documents of `store` that have at most `tokens` tokens together."""
    ends = np.asarray(store.sentences)[np.asarray(store.documents)]
    count = max(2, int(np.searchsorted(ends, tokens, "right")) - 1)
    documents = store.documents[: count + 1]
    sentences = store.sentences[: documents[-1] + 1]
    return Store(store.tokens[: sentences[-1]], sentences, documents, store.vocab_size)


def stage_of(length: int) -> Stage:
    """A stage that never ends, with rows of `length` tokens."""
    phase = Phase(
        steps=10**9,
        sequence_length=length,
        batch_size=SIZE,
        max_predictions_per_seq=PREDICTIONS[length],
    )
    return Stage("phase1", 0, phase, 0, phase.steps, 0)


def cpu(run) -> float:
    """CPU seconds of a call, all threads together."""
    start = time.process_time()
    run()
    return time.process_time() - start


def read(batches, steps):
    """Makes the batches of `steps` steps and drops each batch."""
    for step in range(steps):
        batches.batch(step)


def least(times) -> str:
    return f"{min(times):,.3g} (median {statistics.median(times):,.3g})"


def rates(counts, times) -> str:
    """The best rate and the median one."""
    found = [count / seconds for count, seconds in zip(counts, times, strict=True)]
    return f"{max(found):14,.0f} (median {statistics.median(found):,.0f})"


def rows(args, store, vocabulary):
    for length in PREDICTIONS:
        for name, config in FORMATS.items():
            batches = pipeline.Batches([store], vocabulary, config, stage_of(length))
            steps = Epochs(store, config, stage_of(length)).num_rows // SIZE
            real = sum(int(batches.batch(i)["attention_mask"].sum()) for i in range(steps))
            times = [cpu(functools.partial(read, batches, steps)) for _ in range(args.rounds)]
            print(
                f"{length:5} {name:26} rows/s {rates([steps * SIZE] * args.rounds, times)}"
                f"   tokens/s {rates([real] * args.rounds, times)}"
            )


def loop(args, store, vocabulary):
    documents = reference.documents_of(store)
    for length in PREDICTIONS:
        ratios, counts, times = [], [], {"loop": [], "index": [], "index and batches": []}
        for seed in range(args.rounds + 1):
            plain, index, whole, count = one_round(store, documents, vocabulary, length, seed)
            if seed:  # the round before warms Python, numba and the page cache
                ratios.append(plain / whole)
                counts.append(count)
                for name, seconds in zip(times, (plain, index, whole), strict=True):
                    times[name].append(seconds * count)
        for name, seconds in times.items():
            print(f"{length:5} {name:26} pairs/s {rates(counts, seconds)}")
        print(
            f"{length:5} index and batches / loop: median {statistics.median(ratios):.1f}, worst "
            f"{min(ratios):.1f}, of the minima {min(times['loop']) / min(times['index and batches']):.1f}"
        )


def one_round(store, documents, vocabulary, length, seed):
    """Seconds per pair for the loop, for the index, and for index and batches; number of pairs."""
    short, rng = PAIRS.examples.short_seq_prob, random.Random(seed)
    found: list = []
    plain = cpu(lambda: found.extend(reference.pairs(documents, length, short, rng)))
    generator = np.random.default_rng(seed)
    index = cpu(
        lambda: found.append(
            examples.build_index(store, PAIRS.examples, sequence_length=length, rng=generator)
        )
    )
    count, pairs = len(found[-1]), len(found) - 1
    batches = pipeline.Batches([store], vocabulary, Config(seed=seed), stage_of(length))
    steps = count // SIZE
    rest = cpu(lambda: read(batches, steps))
    return plain / pairs, index / count, index / count + rest / (steps * SIZE), count


def first(args, store, vocabulary):
    for length in PREDICTIONS:
        for step in (0, 1_000_000):
            times = []
            for _ in range(FIRST_ROUNDS):
                start = time.perf_counter()
                whole = open_store(args.workdir / "store", "train")
                pipeline.Batches([whole], vocabulary, PAIRS, stage_of(length)).batch(step)
                times.append(time.perf_counter() - start)
            print(f"{length:5} first batch, of step {step:<9,} s {least(times)}")


def masks(args, store, vocabulary):
    key = jax.random.key(0, impl="threefry2x32")
    for length, size in PREDICTIONS.items():
        for unit in ("token", "whole_word", "span"):
            for name in ("segment_pair_nsp", "segment_pair_nsp, packed"):
                batches = pipeline.Batches([store], vocabulary, FORMATS[name], stage_of(length))
                batch, fields = jax.device_put(batches.batch(0)), Masking(unit=unit)
                mask = jax.jit(
                    functools.partial(
                        masking.mask_tokens,
                        tokenizer=vocabulary,
                        masking=fields,
                        max_predictions_per_seq=size,
                    )
                )
                run = functools.partial(lambda m, b: jax.block_until_ready(m(key, b)), mask, batch)
                run()
                times = [cpu(run) for _ in range(4 * args.rounds)]
                label = f"{unit}{name.removeprefix('segment_pair_nsp')}"
                print(
                    f"{length:5} {label:26} tokens/s {rates([SIZE * length] * len(times), times)}"
                )


def wait(args, store, vocabulary):
    os.sched_setaffinity(0, CORES)
    whole = open_store(args.workdir / "store", "train")
    for length in PREDICTIONS:
        batches = pipeline.Batches([whole], vocabulary, PAIRS, stage_of(length))
        prefetch, period = PAIRS.data.prefetch_batches, SIZE / args.rate
        shares = []
        for number in range(args.rounds):
            steps = round(2 / period)
            begin = number * 100_000
            reader = pipeline.iterate(batches, begin, begin + steps, prefetch=prefetch)
            next(reader)
            waited, start = 0.0, time.perf_counter()
            for _ in range(steps - 1):
                time.sleep(period)  # the device's step
                asked = time.perf_counter()
                next(reader)
                waited += time.perf_counter() - asked
            shares.append(waited / (time.perf_counter() - start))
            reader.close()
        print(
            f"{length:5} {SIZE} rows every {1e3 * period:.1f} ms: waiting, share of the time, median "
            f"{statistics.median(shares):.3%}, worst {max(shares):.3%}"
        )
    os.sched_setaffinity(0, {min(CORES)})


def fill(args, store, vocabulary):
    for length in PREDICTIONS:
        for name, config in FORMATS.items():
            text = Epochs(store, config, stage_of(length)).describe()
            print(f"{length:5} {name:26} {text}")


PARTS = {f.__name__: f for f in (rows, loop, first, masks, wait, fill)}
CORES = os.sched_getaffinity(0)


def main():
    args = parse_args()
    os.sched_setaffinity(0, {min(CORES)})
    vocabulary = tokenizer.load(args.workdir / "tokenizer")
    store = first_documents(open_store(args.workdir / "store", "train"), args.tokens)
    print(f"{store.num_documents:,} documents, {store.num_tokens:,} tokens; jax {jax.__version__}")
    for name, part in PARTS.items():
        if args.only in (None, name):
            print(f"\n{name}; load average {os.getloadavg()[0]:.1f} on {len(CORES)} cores")
            part(args, store, vocabulary)
    print(f"\nload average at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
