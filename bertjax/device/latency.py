"""Times calls of several programs in turns, so that other work on the machine affects all alike."""

import math
import time
from collections.abc import Callable, Sequence

BLOCK = 10  # timed calls of a program before the next program's turn


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` (0 to 1) of all do not exceed (nearest rank).

    The result is always a measured value, never an interpolation. With fewer than 100 values, the
    99th percentile is the largest.
    """
    ordered = sorted(values)
    # A product such as 99.00000000000001 is 99 with a rounding error; `ceil` must not make it 100.
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
    """Seconds of `runs` calls of each program, in rounds with one block of calls per program.

    With `warm`, an untimed call before each block brings the program's weights back into the
    caches, where they would be in a process of its own. Each round begins with the next program, so
    that no program always follows the same other one.
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
