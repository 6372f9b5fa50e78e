"""What tells the next sentence: the pairs of a store, classified by the words that both sides share.

    python -m benchmarks.next_sentence W/store --length=64 --masked=0.15

No model that is pretrained: boosted trees over ten numbers of a pair (how many words are shared,
how rare they are, how long both segments are). Fitted to three epochs of the training documents,
scored on three of the held-out ones. A share of the tokens is hidden first, as [MASK] hides them.
The accuracy is what a model can reach that has learned to find equal words, and little else.
"""

import argparse
from itertools import pairwise
from pathlib import Path

import numpy as np

from bertjax import config as config_lib
from bertjax.data.examples import build_index
from bertjax.data.store import open_store, read_unigrams

EPOCHS = 3


def features(a: np.ndarray, b: np.ndarray, rarity: np.ndarray) -> list[float]:
    """Of the tokens of two segments: shared words, their rarity in nats, bigrams, lengths."""
    first, second = set(a.tolist()), set(b.tolist())
    shared = sorted((float(rarity[word]) for word in first & second), reverse=True)
    bigrams = set(pairwise(a.tolist())) & set(pairwise(b.tolist()))
    overlap = len(shared) / max(1, len(first | second))
    counts = [len(a), len(b), len(shared), len(bigrams)]
    return [*counts, overlap, sum(shared), *(shared + [0.0] * 4)[:4]]


def pairs(directory: Path, split: str, length: int, masked: float):
    """`(features [N, F], whether B is random [N])` of all pairs of `EPOCHS` epochs."""
    counts = read_unigrams(directory)
    rarity = -np.log((counts + 1) / (counts.sum() + len(counts)))
    store = open_store(directory, split)
    rows, labels = [], []
    for seed in range(EPOCHS):
        rng = np.random.default_rng(seed)
        index = build_index(store, config_lib.Examples(), sequence_length=length, rng=rng)
        for example in range(len(index)):
            part = index.first_part[example]
            segments = []
            for start, size in zip(
                index.part_start[part : part + 2], index.part_length[part : part + 2], strict=True
            ):
                tokens = np.asarray(store.tokens[start : start + size])
                segments.append(tokens[rng.random(size) >= masked])
            rows.append(features(*segments, rarity))
        labels.append(index.is_random)
    return np.array(rows), np.concatenate(labels)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store", type=Path, help="the store of a workdir: W/store")
    parser.add_argument("--length", type=int, default=64, help="tokens of a row (64)")
    parser.add_argument("--masked", type=float, default=0.15, help="share of hidden tokens (0.15)")
    args = parser.parse_args()
    from sklearn.ensemble import HistGradientBoostingClassifier

    trees = HistGradientBoostingClassifier(max_iter=200, learning_rate=0.05, random_state=0)
    trees.fit(*pairs(args.store, "train", args.length, args.masked))
    held_out, labels = pairs(args.store, "heldout", args.length, args.masked)
    print(
        f"{args.length} tokens, {args.masked:.0%} hidden: {trees.score(held_out, labels):.1%} of "
        f"{len(labels):,} held-out pairs; {labels.mean():.1%} are random"
    )


if __name__ == "__main__":
    main()
