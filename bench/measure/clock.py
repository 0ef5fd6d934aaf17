"""Timing of work that is repeated a given number of times; the clock is an argument, so tests can give a fake one."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

Clock = Callable[[], float]
Work = Callable[[int], object]
"""Does its work `steps` times and returns once the device has finished."""

WALL: Clock = time.perf_counter
MOST_STEPS = 1 << 24


def timed(work: Work, steps: int, clock: Clock = WALL) -> float:
    """Seconds that `steps` steps take."""
    start = clock()
    work(steps)
    return clock() - start


def calibrate(work: Work, seconds: float, clock: Clock = WALL) -> int:
    """Steps that fill about `seconds`: doubled until a quarter of it is reached, then scaled.

    The doubling warms the work up, too.
    """
    steps = 1
    work(steps)
    while (elapsed := timed(work, steps, clock)) < seconds / 4 and steps < MOST_STEPS:
        steps *= 2
    return max(1, min(MOST_STEPS, math.ceil(steps * seconds / max(elapsed, 1e-9))))


def resolution(clock: Clock = WALL, ticks: int = 100) -> float:
    """The smallest step seen between two readings of the clock, in seconds."""
    smallest = math.inf
    for _ in range(ticks):
        start = clock()
        while (now := clock()) <= start:
            pass
        smallest = min(smallest, now - start)
    return smallest
