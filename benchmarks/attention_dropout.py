"""Statistics of the attention dropout mask, compared with two other sources of random bits.

Draws `--layers` masks `[H, L, L]` of consecutive keys and tests the dropped elements: shares,
neighbors, other masks, and all pairs of queries and of keys. Every figure is in standard deviations
of fair coins, or a ratio of variances that is 1 for fair coins.

    python -m benchmarks.attention_dropout                    1e8 draws of each source
    python -m benchmarks.attention_dropout --layers=2 --source=words
"""

import argparse
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from bertjax import keys
from bertjax.models import attention_dropout
from bertjax.models.dropout import random_words


@functools.partial(jax.jit, static_argnums=(1, 2))
def of_words(key, shape, rate):
    """The mask that attention uses."""
    heads, length, _ = shape
    probs = jnp.ones((1, heads, length, length))
    return attention_dropout.dropout(probs, rate, key[None])[0] == 0


@functools.partial(jax.jit, static_argnums=(1, 2))
def of_hash(key, shape, rate):
    """A hash of every element: two rounds, as in hidden dropout."""
    return random_words(key, shape) < jnp.uint32(round(rate * 2**32))


@functools.partial(jax.jit, static_argnums=(1, 2))
def of_threefry(key, shape, rate):
    """JAX's generator, for reference."""
    return jax.random.bits(key, shape, jnp.uint32) < jnp.uint32(round(rate * 2**32))


SOURCES = {"words": of_words, "hash": of_hash, "threefry": of_threefry}


def scores(counts: np.ndarray, draws: int, rate: float) -> np.ndarray:
    """Deviations of dropped counts, each of `draws`."""
    return (np.asarray(counts, float) - draws * rate) / math.sqrt(draws * rate * (1 - rate))


def shares(masks: np.ndarray, rate: float) -> dict[str, np.ndarray]:
    """Scores of the dropped shares of `[N, H, L, L]`, by place."""
    layers, heads, length, _ = masks.shape
    flat = masks.reshape(-1, length, length).astype(np.int64).sum(0)
    where = np.arange(length)
    diagonals = np.bincount(
        (where[:, None] - where).ravel() % length, flat.ravel(), minlength=length
    )
    of = functools.partial(scores, rate=rate)
    return {
        "all": of(masks.sum(), masks.size),
        "layer": of(masks.sum((1, 2, 3)), heads * length**2),
        "head": of(masks.sum((0, 2, 3)), layers * length**2),
        "query": of(masks.sum((0, 1, 3)), layers * heads * length),
        "key": of(masks.sum((0, 1, 2)), layers * heads * length),
        "query of a head": of(masks.sum(3), length),
        "key of a layer": of(masks.sum((1, 2)), heads * length),
        "diagonal": of(diagonals, layers * heads * length),
        "place": of(masks.sum((0, 1)), layers * heads),
    }


def correlations(masks: np.ndarray, rate: float) -> dict[str, np.ndarray]:
    """Scores of how often an element is dropped together with a neighbor or another mask's."""
    found = {}
    for axis, name in enumerate(("layers", "heads", "queries", "keys")):
        both = [
            (masks & np.roll(masks, shift, axis)).sum()
            for shift in (1, 2, 3, 4, 7, 8, 16, 64, 128, 256)
            if 2 * shift < masks.shape[axis]
        ]
        found[f"neighboring {name}"] = scores(np.array(both), masks.size, rate**2)
    turned = (masks & masks.swapaxes(2, 3)).sum() - np.trace(masks, axis1=2, axis2=3).sum()
    pairs = masks.size - masks.shape[0] * masks.shape[1] * masks.shape[2]
    # Both orders of a pair are counted: half as many draws, twice the count.
    found["transposed"] = scores(np.array(turned / 2), pairs // 2, rate**2)
    return found


def pairs(mask: np.ndarray, rate: float) -> tuple[int, float, float, int]:
    """The number of all pairs of rows of a `[R, C]` mask, and how often they are dropped together.

    The product of two centered rows has mean 0 and a known variance if the rows are independent.
    Products are scaled by the measured variance, because all of them vary with the dropped share.

    Returns:
      `(pairs, score of the mean, variance over that of fair coins, pairs beyond 8 deviations)`.
    """
    unit = (mask - rate).astype(np.float32)
    unit /= math.sqrt((unit**2).mean(dtype=float))
    number, mean, square, far = 0, 0.0, 0.0, 0
    for start in range(0, len(unit), 1024):
        products = unit[start : start + 1024] @ unit.T / math.sqrt(mask.shape[1])
        row, column = np.indices(products.shape, sparse=True)
        of_pairs = products[column > row + start].astype(float)
        number, far = number + of_pairs.size, far + int((np.abs(of_pairs) > 8).sum())
        mean, square = mean + of_pairs.sum(), square + (of_pairs**2).sum()
    return number, mean / math.sqrt(number), square / number, far


def say(name: str, source: str, found: np.ndarray):
    found = np.atleast_1d(found).ravel()
    if not found.size:
        return
    spread = f"{np.sqrt((found**2).mean()):.4f}" if found.size > 1 else ""
    print(
        f"| {source} | {name} | {found.size} | {np.abs(found).max():.2f} | {spread} |", flush=True
    )


def report(source: str, layers: int, shape: tuple[int, int, int], rate: float, seed: int):
    """Prints the rows of one source."""
    of_layer = jax.random.split(keys.dropout(seed, 0), layers)
    masks = np.stack([np.asarray(SOURCES[source](key, shape, rate)) for key in of_layer])
    for name, found in (shares(masks, rate) | correlations(masks, rate)).items():
        say(name, source, found)
    for name, turn in (("queries", lambda m: m), ("keys", np.transpose)):
        sums = [pairs(turn(m.reshape(-1, shape[1])), rate) for m in masks[: max(1, layers // 8)]]
        number = sum(s[0] for s in sums)
        mean = sum(s[1] * math.sqrt(s[0]) for s in sums) / math.sqrt(number)
        variance = sum(s[2] * s[0] for s in sums) / number
        print(
            f"| {source} | pairs of {name}: mean | {number:,} | {abs(mean):.2f} "
            f"| variance {variance:.5f}, {sum(s[3] for s in sums)} beyond 8 |",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", choices=SOURCES, help="one; all without it")
    parser.add_argument("--layers", type=int, default=32, help="masks, each of a key of its own")
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--rate", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    shape = args.heads, args.length, args.length
    print(f"{args.layers * math.prod(shape):,} draws of each source, {args.rate} dropped")
    print("| source | of | figures | largest, deviations | root of mean square |\n|" + "---|" * 5)
    for source in [args.source] if args.source else SOURCES:
        report(source, args.layers, shape, args.rate, args.seed)


if __name__ == "__main__":
    main()
