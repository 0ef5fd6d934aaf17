"""The best score that each batch size reaches within a time, from curves and speeds that were measured anyway.

The score within T is the lowest point of the typical run's smooth curve until T / seconds per step x batch size
examples, or what the folder counts instead. Seeds are paired, and a doubtful speed counts by the slope of the curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from batchscale.analysis.frames.schema import values
from batchscale.analysis.metrics.arms import Curves, paired
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.decisions.crossings import Scale
from batchscale.statistics.comparison import compare
from batchscale.statistics.crossing import Lowest, lowest_until, table_of
from batchscale.statistics.effects import Effects, Part, Source
from batchscale.statistics.intervals import DRAWS as FEWER_DRAWS
from batchscale.statistics.intervals import LEVEL

POINTS = 12
"""Times of a grid."""
DIGITS = 2
"""Significant digits of the times of a grid."""
SHORTEST = 1 / 32
"""Where no batch size reached the target, the grid begins at this part of the longest run."""


@dataclass(frozen=True)
class Within:
    """The scores within one time.

    Attributes:
        seconds: the time.
        scores: the score of the typical run at each batch size that was evaluated within it, at its best rate.
        rates: the learning rate of each of these.
        tied: the batch sizes that are not significantly worse than the best one, the best included.
        ended: the batch sizes whose runs ended before; longer runs may be better.
    """

    seconds: float
    scores: dict[int, float]
    rates: dict[int, float]
    tied: list[int]
    ended: list[int]


@dataclass(frozen=True)
class _Arm:
    """The runs of a batch size at one rate, at every time that is asked for."""

    batch_size: int
    trials: pd.DataFrame
    lowest: Lowest


def grid(sweep: Sweep) -> list[float]:
    """Return times in seconds, from the fastest crossing of the target to the end of the longest run."""
    if not _readable(sweep):
        return []
    longest = _longest(sweep)
    times = np.exp(sweep.time.medians)
    crossed = times[np.isfinite(times)]
    shortest = float(crossed.min()) if len(crossed) else SHORTEST * longest
    if not 0 < shortest < longest:
        return []
    spaced = np.geomspace(shortest, longest, POINTS).tolist()
    return sorted({float(f"{one:.{DIGITS}g}") for one in spaced})


def earliest(sweep: Sweep) -> float | None:
    """Return the seconds until the first evaluation of any timed batch size; None without curves and speeds."""
    curves = sweep.frames.curves
    trained = values(curves, sweep.amounts.counted_in)
    first = {size: trained[curves["batch_size"] == size] for size in sweep.pace_of}
    if not _readable(sweep):
        return None
    return min((float(at.min()) * sweep.pace_of[size] for size, at in first.items() if len(at)), default=None)


def within(sweep: Sweep, seconds: Sequence[float]) -> list[Within]:
    """Compare the batch sizes by their score within each time; times before the first evaluation are left out."""
    if not seconds or not _readable(sweep):
        return []
    curves = Curves(sweep.frames, sweep.goal)
    arms, scale = _arms(sweep, curves, np.array(seconds, dtype=np.float64)), curves.scale
    if not arms:
        return []
    sizes, which = np.unique(np.array([arm.batch_size for arm in arms], dtype=np.int64), return_inverse=True)
    timing = sweep.timing(sizes)
    timing = timing and timing.spread_over(which)
    found = [_within(scale, arms, timing, at, one) for at, one in enumerate(seconds)]
    return [one for one in found if one is not None]


def _readable(sweep: Sweep) -> bool:
    return sweep.frames.has_scores and bool(sweep.pace_of) and len(sweep.frames.curves) > 0


def _longest(sweep: Sweep) -> float:
    """Return the seconds that the longest run of any timed batch size takes."""
    curves, speeds = sweep.frames.curves, sweep.pace_of
    trained = values(curves, sweep.amounts.counted_in)
    found = [
        float(trained[curves["batch_size"] == size].max(initial=0.0)) * speeds[size]
        for size in sweep.claims
        if size in speeds
    ]
    return max(found, default=0.0)


def _arms(sweep: Sweep, curves: Curves, seconds: Float[np.ndarray, " times"]) -> list[_Arm]:
    """Return every batch size at every confirmed rate that was evaluated often enough."""
    found = []
    for size, claim in sweep.claims.items():
        if size not in sweep.pace_of:
            continue
        until = seconds / sweep.pace_of[size]
        for trials in _groups(claim.for_target, claim.for_score, *claim.other_arms):
            runs = [curves.scale.of_run(curves.run(int(number))) for number in trials["trial"]]
            lowest = lowest_until(*table_of(runs), until)
            if lowest is not None:
                found.append(_Arm(size, trials, lowest))
    return found


def _groups(*groups: pd.DataFrame) -> list[pd.DataFrame]:
    """Return the groups of trials that hold any, each once."""
    known = {tuple(one["trial"].tolist()): one for one in groups if len(one)}
    return list(known.values())


def _within(scale: Scale, arms: Sequence[_Arm], timing: Effects | None, at: int, seconds: float) -> Within | None:
    places = np.flatnonzero([np.isfinite(arm.lowest.typical[at]) for arm in arms])
    if not len(places):
        return None
    known = [arms[place] for place in places.tolist()]
    centres = np.array([arm.lowest.typical[at] for arm in known])
    sizes = [arm.batch_size for arm in known]
    best = {size: min(np.flatnonzero(np.array(sizes) == size), key=centres.__getitem__) for size in sorted(set(sizes))}
    tied = {sizes[arm] for arm in np.flatnonzero(_tied(known, timing and timing.spread_over(places), at))} | {
        sizes[int(np.argmin(centres))]
    }
    return Within(
        seconds,
        {size: scale.score(float(centres[arm])) for size, arm in best.items()},
        {size: float(values(known[arm].trials, "learning_rate")[0]) for size, arm in best.items()},
        sorted(tied),
        [size for size, arm in best.items() if known[arm].lowest.ended[at]],
    )


def _tied(arms: Sequence[_Arm], timing: Effects | None, at: int) -> np.ndarray:
    """Return which arms (arms,) can be the best; `timing` holds the log seconds of their units of training."""
    effects = paired([arm.trials for arm in arms], [arm.lowest.runs[:, at] for arm in arms])
    if not np.isfinite(effects.spreads).any():
        return np.ones(len(arms), dtype=bool)
    slopes = np.array([arm.lowest.slopes[at] for arm in arms])
    # More seconds per step are fewer examples, so an error of log seconds counts minus the slope.
    of_timing: dict[Source, Part] = {
        source: Part(part.covariance * np.outer(slopes, slopes), part.freedom)
        for source, part in (timing.parts if timing else {}).items()
    }
    scores = Effects(effects.centres, {**effects.parts, **of_timing}, effects.misses, effects.runs, effects.spreads)
    return compare(scores, np.ones(len(arms), dtype=bool), 1 - LEVEL, draws=FEWER_DRAWS).tied
