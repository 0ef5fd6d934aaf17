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
FIXED_SHARE = 0.05
LONGEST_ROUND = 10
"""Times the seconds asked for."""


def timed(work: Work, steps: int, clock: Clock = WALL) -> float:
    """Seconds that `steps` steps take."""
    start = clock()
    work(steps)
    return clock() - start


def calibrate(work: Work, seconds: float, clock: Clock = WALL) -> int:
    """Steps that fill about `seconds`, and more where what a call costs once is above `FIXED_SHARE` of its time.

    A call may first have to get its memory from the system; a run to the target pays that once in many steps. The
    steps are doubled until they are enough, which warms the work up; two calls of which one is twice as long tell
    what either costs once. Rounds end at `LONGEST_ROUND` times `seconds` all the same. The fastest call tells how many
    steps fill a round, as one that something else delayed would make every round too short.
    """
    steps, before, fastest = 1, math.inf, math.inf
    work(steps)
    while steps < MOST_STEPS:
        elapsed = timed(work, steps, clock)
        fastest = min(fastest, elapsed / steps)
        fixed = 2 * before - elapsed
        if elapsed >= LONGEST_ROUND * seconds / 2:
            break
        if elapsed >= seconds / 2 and fixed <= FIXED_SHARE * max(elapsed, seconds):
            break
        steps, before = steps * 2, elapsed
    return min(MOST_STEPS, max(steps, math.ceil(seconds / max(fastest, 1e-12))))


def resolution(clock: Clock = WALL, ticks: int = 100) -> float:
    """The smallest step seen between two readings of the clock, in seconds."""
    smallest = math.inf
    for _ in range(ticks):
        start = clock()
        while (now := clock()) <= start:
            pass
        smallest = min(smallest, now - start)
    return smallest
