"""How a grid of trials is cut to memory and cores: into waves, one after another, and each into shards."""

from __future__ import annotations

import math
from collections.abc import Iterator

from batchscale.measure.convergence.lanes import Programs
from batchscale.measure.convergence.wave import Grid, Shape, cut

LARGEST_SHARE_OF_MEMORY = 0.8
SHARE_OF_LANES = 0.5
"""Of that, what the lanes of a wave may hold; the rest is for computing."""


def steady_bytes(free_bytes: int) -> int:
    """The power of two that free memory holds, so that a run and its resumption cut a grid alike.

    What a wave races against, and so where its losers stop, depends on the cut.
    """
    return 1 << (free_bytes.bit_length() - 1) if free_bytes > 0 else 0


def portions(programs: Programs, grid: Grid, memory_bytes: int) -> Iterator[Grid]:
    """The grid in waves, to be trained one after another, of about as many lanes as memory can hold at once."""
    seeds, _settings = grid
    most = max(1, int(memory_bytes * LARGEST_SHARE_OF_MEMORY * SHARE_OF_LANES) // programs.lane_bytes)
    rows = min(len(seeds), most)
    return cut(grid, (rows, max(1, most // rows)))


def fitting_shape(programs: Programs, grid: Grid, memory_bytes: int, workers: int, widest: int | None) -> Shape:
    """The shape of the shards of a grid: as many of its programs as run at once fit beside the lanes of the others."""
    seeds, settings = map(len, next(portions(programs, grid, memory_bytes)))
    each = int(memory_bytes * LARGEST_SHARE_OF_MEMORY / workers)
    return programs.fit(shard_shape(seeds, settings, workers, widest), each, math.ceil(seeds * settings / workers))


def shard_shape(seeds: int, settings: int, workers: int, widest: int | None) -> Shape:
    """How many seeds and settings one program call holds.

    All lanes without a `widest`; else shards have one seed and at most so many settings, as even as can be, and are no
    fewer than workers where there are lanes enough.
    """
    if widest is None:
        return seeds, settings
    widest = max(1, min(widest, settings // math.ceil(workers / seeds)))
    return 1, math.ceil(settings / math.ceil(settings / widest))
