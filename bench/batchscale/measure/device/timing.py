"""Timing of work that is repeated a given number of times; the clock is an argument, so tests can give a fake one."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

Clock = Callable[[], float]
"""Returns seconds since some moment."""
Work = Callable[[int], object]
"""Does its work `steps` times and returns once the device has finished."""

WALL: Clock = time.perf_counter
MOST_STEPS = 1 << 24
FIXED_SHARE = 0.05
"""Largest share of a round that the fixed cost of a call may have."""
LONGEST_ROUND = 10
"""Longest round, as a multiple of the seconds asked for."""


def timed(work: Work, steps: int, clock: Clock = WALL) -> float:
    """Return the seconds that `steps` steps take."""
    start = clock()
    work(steps)
    return clock() - start


def steps_to_fill(seconds: float, work: Work, clock: Clock = WALL) -> int:
    """Return the number of steps that takes about `seconds`.

    If the fixed cost of a call exceeds `FIXED_SHARE` of the round, more steps are used, up to `LONGEST_ROUND` times
    `seconds`: a run to the target pays that cost once in many steps, for example to get memory from the system.
    """
    steps, before, fastest = 1, math.inf, math.inf
    work(steps)
    # Doubling the steps until they are enough warms the work up.
    while steps < MOST_STEPS:
        elapsed = timed(work, steps, clock)
        fastest = min(fastest, elapsed / steps)
        # A call of n steps compared with one of 2n gives the fixed cost: 2 t(n) - t(2n).
        fixed = 2 * before - elapsed
        if elapsed >= LONGEST_ROUND * seconds / 2:
            break
        if elapsed >= seconds / 2 and fixed <= FIXED_SHARE * max(elapsed, seconds):
            break
        steps, before = steps * 2, elapsed
    # The fastest call counts: a call that something else delayed would make every round too short.
    return min(MOST_STEPS, max(steps, math.ceil(seconds / max(fastest, 1e-12))))


def resolution(clock: Clock = WALL, ticks: int = 100) -> float:
    """Return the smallest step seen between two readings of the clock, in seconds."""
    smallest = math.inf
    for _ in range(ticks):
        start = clock()
        while (now := clock()) <= start:
            pass
        smallest = min(smallest, now - start)
    return smallest
