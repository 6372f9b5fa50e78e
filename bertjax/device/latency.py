"""How long calls take: programs alternate, so that what else the machine does meets all alike."""

import math
import time
from collections.abc import Callable, Sequence

BLOCK = 10  # timed calls of a program before the next program's turn


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest rank: the smallest value that at least this share (0 to 1) of all do not exceed.

    A measured value is returned, never one between two; of fewer than 100 values, the 99th
    percentile is the largest.
    """
    ordered = sorted(values)
    # 0.99 * 100 is 99.00000000000001 or so: what is whole but for rounding is whole.
    rank = math.ceil(round(share * len(ordered), 9))
    return ordered[max(rank, 1) - 1]


def alternate(
    calls: Sequence[Callable[[], object]],
    runs: int,
    *,
    block: int = BLOCK,
    warm: bool = True,
    clock: Callable[[], float] = time.perf_counter,
) -> list[list[float]]:
    """Seconds of `runs` calls of each: in rounds, in which each has a block of calls.

    With `warm`, a call before each block that is not timed brings the program's weights back into
    the caches, where a process of its own would find them. Each round begins with the next program, so that none
    always follows the same other.
    """
    seconds: list[list[float]] = [[] for _ in calls]
    done = number = 0
    while done < runs:
        count = min(block, runs - done)
        for place in range(len(calls)):
            at = (number + place) % len(calls)
            if warm:
                calls[at]()
            for _ in range(count):
                start = clock()
                calls[at]()
                seconds[at].append(clock() - start)
        done, number = done + count, number + 1
    return seconds
