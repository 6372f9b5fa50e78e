"""Example builder against the plain-Python loop of the reference rules, on one store.

    python benchmarks/examples.py --workdir=W [--rounds=5]

W is what `bertjax prepare` wrote. A round runs everything once, one after the other in this
process: the loop of tests/helpers/reference_examples.py (pairs, then masks; its token lists are made
beforehand), `build_index` for an epoch, every batch of that epoch, and the masks of all of them
in one jitted call a batch. Loop, index and batches use one core; XLA may use all of them.
"""

import argparse
import os
import random
import statistics
import sys
import time
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np

from bertjax.config import Config, Phase
from bertjax.config.stages import Stage
from bertjax.data import examples, masking, pipeline, tokenizer
from bertjax.data.store import Store, open_store

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/helpers"))
import reference_examples as reference

BATCH_SIZE = 256
PREDICTIONS = {128: 20, 512: 77}
LOOP, LOOP_MASKS = "loop, pairs only", "loop, pairs and masks"
INDEX, BATCHES, MASKS = "index", "batches", "masks"


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=Path, required=True, help="what `prepare` wrote")
    parser.add_argument("--rounds", type=int, default=5, help="times that everything is run")
    parser.add_argument(
        "--tokens", type=int, default=4_000_000, help="most tokens, in whole documents"
    )
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 512], choices=PREDICTIONS)
    return parser.parse_args()


def first_documents(store: Store, tokens: int) -> Store:
    """The first documents of `store`, as many as have no more than `tokens` tokens together."""
    ends = np.asarray(store.sentences)[np.asarray(store.documents)]
    count = max(2, int(np.searchsorted(ends, tokens, "right")) - 1)
    documents = store.documents[: count + 1]
    sentences = store.sentences[: documents[-1] + 1]
    tokens = store.tokens[: sentences[-1]]
    return Store(tokens, sentences, documents, store.vocab_size)


def timed(run):
    """`(seconds, result)` of a call."""
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def one_round(store, documents, vocabulary, length, mask, seed):
    """Seconds per instance of every part: {name: seconds}."""
    config = Config(seed=seed)
    short, prob = config.examples.short_seq_prob, config.masking.masked_lm_prob
    rng, predictions = random.Random(seed), PREDICTIONS[length]
    spent = {}
    seconds, pairs = timed(lambda: list(reference.pairs(documents, length, short, rng)))
    spent[LOOP] = seconds / len(pairs)
    seconds, _ = timed(
        lambda: [reference.mask(pair, vocabulary, prob, predictions, rng) for pair in pairs]
    )
    spent[LOOP_MASKS] = spent[LOOP] + seconds / len(pairs)

    phase = Phase(steps=1, sequence_length=length, batch_size=BATCH_SIZE)
    generator = np.random.default_rng(seed)
    seconds, index = timed(
        lambda: examples.build_index(store, config.examples, sequence_length=length, rng=generator)
    )
    spent[INDEX] = seconds / len(index)
    batches = pipeline.Batches([store], vocabulary, config, Stage("phase1", 0, phase, 0, 1, 0))
    key = jax.random.key(seed, impl="threefry2x32")
    spent[BATCHES] = spent[MASKS] = 0
    steps = len(index) // BATCH_SIZE
    for step in range(steps):
        seconds, batch = timed(lambda step=step: batches.batch(step))
        spent[BATCHES] += seconds / (steps * BATCH_SIZE)
        seconds, _ = timed(lambda batch=batch: jax.block_until_ready(mask(key, batch)))
        spent[MASKS] += seconds / (steps * BATCH_SIZE)
    return spent


def compare(store, vocabulary, length, rounds):
    documents = reference.documents_of(store)

    @jax.jit
    def mask(key, batch):
        masking_config = Config().masking
        return masking.mask_tokens(key, batch, vocabulary, masking_config, PREDICTIONS[length])

    # One pass first: Python's caches, compilation, the page cache.
    one_round(store, documents, vocabulary, length, mask, 0)
    results = []
    for seed in range(1, rounds + 1):
        spent = one_round(store, documents, vocabulary, length, mask, seed)
        spent["index + batches"] = spent[INDEX] + spent[BATCHES]
        spent["index + batches + masks"] = spent["index + batches"] + spent[MASKS]
        results.append(spent)

    print(f"\n{length} tokens: instances/s, median and best of {rounds} rounds")
    for name in results[0]:
        seconds = [r[name] for r in results]
        print(f"  {name:26}{1 / statistics.median(seconds):12,.0f}{1 / min(seconds):12,.0f}")
    print("  ratio to the loop, median and worst round")
    for ours, theirs in (
        (INDEX, LOOP),
        ("index + batches", LOOP),
        ("index + batches", LOOP_MASKS),
        ("index + batches + masks", LOOP_MASKS),
    ):
        ratios = [r[theirs] / r[ours] for r in results]
        name = f"{ours} / {theirs}"
        print(f"  {name:50}{statistics.median(ratios):8.1f}{min(ratios):8.1f}")


def main():
    args = parse_args()
    vocabulary = tokenizer.load(args.workdir / "tokenizer")
    store = first_documents(open_store(args.workdir / "store", "train"), args.tokens)
    print(
        f"{store.num_documents:,} documents, {store.num_sentences:,} sentences, "
        f"{store.num_tokens:,} tokens; load average {os.getloadavg()[0]:.1f} on "
        f"{os.cpu_count()} cores"
    )
    for length in args.lengths:
        compare(store, vocabulary, length, args.rounds)
    print(f"\nload average at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
