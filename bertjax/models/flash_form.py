"""What flash attention's kernels are made for, and the sizes that follow from that."""

from typing import NamedTuple

import jax.numpy as jnp

LANES = 128  # of a TPU vector register: blocks are multiples of it
_LONGEST_BLOCK = 512  # queries or keys: the scores of a block are 1 MB
_SMALLEST_WIDTH = 16  # rows of bfloat16 in a register
_MOST_BYTES = 2048 * 128 * 2  # of one array of a program: longer rows did not compile
_MOST_HEADS = 4  # of a program, written out one after the other: twelve did not compile in minutes
_GPU_BLOCKS = (128, 64)  # queries of a program: Hopper's smallest matrix product has 64 rows
_GPU_WIDTHS = (16, 32, 64)  # powers of two (Triton); 128 does not fit into the memory of small GPUs


class Form(NamedTuple):
    """The static sizes of a kernel.

    Attributes:
      length: of the sequences.
      block: queries, on a TPU also keys, whose scores are computed at once.
      width: features of a head.
      group: heads that one program computes.
      rate: share of probabilities that is dropped.
      platform: `tpu` or `gpu`.
      interpret: whether JAX's interpreter of kernels runs it.
    """

    length: int
    block: int
    width: int
    group: int
    rate: float
    platform: str
    interpret: bool

    @property
    def features(self) -> int:
        """Of all heads of a program."""
        return self.group * self.width

    @property
    def blocks(self) -> int:
        return self.length // self.block


def of(
    length: int,
    heads: int,
    width: int,
    rate: float,
    platform: str = "tpu",
    interpret: bool = False,
    itemsize: int = 2,
) -> Form:
    """The form of a kernel for `heads` heads of `width` features.

    On a TPU, a program takes the fewest heads whose features fill whole registers, two of 64: arrays
    stay `[B, L, D]`, as the layers before and after have them, without padding. Where no number of
    heads does, it takes all. On a GPU it takes one, and loads its rows out of `[B, L, D]`; 128
    queries of float32 (`itemsize` 4) did not fit into an A100's shared memory.
    """
    if platform == "gpu":
        blocks = _GPU_BLOCKS if itemsize == 2 else _GPU_BLOCKS[1:]
        block = next(block for block in blocks if length % block == 0)
        return Form(length, block, width, 1, rate, platform, interpret)
    return Form(length, block_length(length), width, group(heads, width), rate, platform, interpret)


def needs(platform: str, length: int, heads: int, width: int, dtype: str) -> dict[str, bool]:
    """What the kernels of a platform need of arrays, for people, and whether it is so."""
    if platform == "gpu":
        return {
            f"heads of 16, 32 or 64 features (here: {width})": width in _GPU_WIDTHS,
            f"a sequence length that divides by {_GPU_BLOCKS[-1]} (here: {length})": (
                length % _GPU_BLOCKS[-1] == 0
            ),
        }
    most = longest(heads, width, jnp.dtype(dtype).itemsize)
    return {
        f"heads of 16, 32, 48 ... features (here: {width})": width % _SMALLEST_WIDTH == 0,
        f"at most {_MOST_HEADS} heads that fill {LANES} lanes together "
        f"(here: {heads} of {width} features)": group(heads, width) <= _MOST_HEADS,
        f"a sequence length that divides by {LANES} (here: {length})": length % LANES == 0,
        f"at most {most} tokens of {dtype} (here: {length})": length <= most,
    }


def group(heads: int, width: int) -> int:
    """Heads of a TPU's program, as of `of`."""
    fill = (n for n in range(1, heads) if heads % n == 0 and n * width % LANES == 0)
    return next(fill, heads)


def longest(heads: int, width: int, itemsize: int) -> int:
    """Tokens of the longest sequence that a TPU's program can hold: 2,048 of two heads of 64 in bfloat16.

    The whole row's queries, keys, values and gradients lie in VMEM, of which the compiler gives a
    kernel 16 MB: twice as many tokens did not compile for v4 nor for v5e.
    """
    return _MOST_BYTES // (group(heads, width) * width * itemsize)


def block_length(length: int) -> int:
    """Queries, and keys, of a block on a TPU: the longest that the sequence is a multiple of."""
    blocks = range(LANES, min(length, _LONGEST_BLOCK) + 1, LANES)
    return max(block for block in blocks if length % block == 0)
