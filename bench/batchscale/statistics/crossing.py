"""Estimate where the typical run crosses a target, from all evaluations of all runs of one setting.

The estimand is N = min{n : m(n) <= target}, where m(n) is the mean over seeds of a score on a scale on which it falls,
such as the logarithm of the validation error, after n examples. Unlike the first evaluation at the target, N does not
depend on how often a run is evaluated, and it does not reward settings whose evaluations are noisy.

The curve is additive, m(n) + a_s, and is smoothed by lines that are fitted locally on log n (Fan & Gijbels, 1996,
Local Polynomial Modelling). A line flattens a bend, so what the lines lose of the curve is smoothed too and added
(twicing; Tukey, 1977, Exploratory Data Analysis). Without it an exponential decay crosses 4.5% too early. The bandwidth
is fixed: chosen after the comparison was seen, it would bias it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import special

BANDWIDTH = 1.0
"""Half the width of the window of a local line, in log examples."""
FEWEST_EVALUATIONS = 5
"""Evaluations that a window is widened to hold."""
REACH = 0.35
"""How far beyond the evaluations a crossing is looked for, in log examples."""
STEP = 0.01
"""Distance in log examples between the points at which the smooth curve is computed; it is straight between them."""
POINTS_AT_ONCE = 100
"""Points at which the smooth curve is computed together."""
COLLAPSED = np.log(2)
"""A run has collapsed where its score is this far above the least mean of three successive evaluations."""
FLAT = -0.1
"""Slope of log error above which the curve hardly falls at the target; no number of seeds settles where it crosses."""
LEAST_FALL = 0.8
"""Part of the flat slope that scores are turned into log examples with where the curve is flatter still."""
LEAST_AFTER = 0.175
"""Log examples that must follow the crossing; a run that ended at its first evaluation at the target has none."""
FEWEST_TO_SMOOTH = 3
"""Evaluations below which there is no curve, and first evaluations stand in for crossings."""
ROUNDS = 30
"""Alternating means of the additive curve; they converge within a few rounds where most runs are complete."""
ROUNDING = 1e-9
"""Change of the levels of runs at which the alternating means have converged."""

Flag = Literal["first", "flat", "end", "never"]
"""Why an estimate is not to be trusted: it comes before the first evaluation, the curve is flat there, the runs end
too soon after it, or the typical run never crosses."""


@dataclass(frozen=True)
class Crossing:
    """Where the runs of one setting cross the target; every location is a logarithm of examples.

    Attributes:
        typical: Of the typical run; infinite where half of the runs or more missed.
        values: One value per run, whose mean is `typical` where no run missed; infinite for a run that missed. Their
            spread is that of independent estimates, so they serve for pairing and for variances.
        first_seen: First evaluation of each run at the target, infinite where there is none.
        slope: Slope of the typical curve there, in score per log example; NaN where it never crosses.
        flags: Reasons not to trust it.
        later_than: Where no run crossed and the typical curve still falls at its end: that end, before which no run
            crosses. NaN elsewhere: runs that crossed need no limit, and a flat curve may never cross.
    """

    typical: float
    values: Float[np.ndarray, " runs"]
    first_seen: Float[np.ndarray, " runs"]
    slope: float
    flags: frozenset[Flag]
    later_than: float = np.nan

    @property
    def misses(self) -> int:
        """Number of runs that missed the target."""
        return int(np.isinf(self.values).sum())


class Curve(NamedTuple):
    """The additive curve of several runs at the evaluations that any of them has.

    Attributes:
        where: Log examples.
        mean: Score of the typical run.
        seen: Number of runs that were evaluated there.
        sharp: The mean plus what lines around each evaluation lose of it; lines through this lose little of a bend.
    """

    where: Float[np.ndarray, " evaluations"]
    mean: Float[np.ndarray, " evaluations"]
    seen: Float[np.ndarray, " evaluations"]
    sharp: Float[np.ndarray, " evaluations"]

    @classmethod
    def of(
        cls,
        where: Float[np.ndarray, " evaluations"],
        mean: Float[np.ndarray, " evaluations"],
        seen: Float[np.ndarray, " evaluations"],
    ) -> Curve:
        """Return a curve with what lines lose of it."""
        plain = cls(where, mean, seen, mean)
        parts = [where[start : start + POINTS_AT_ONCE] for start in range(0, len(where), POINTS_AT_ONCE)]
        return plain._replace(sharp=2 * mean - np.concatenate([smooth(plain, part)[0] for part in parts]))


def table_of(
    runs: Sequence[tuple[Float[np.ndarray, " _"], Float[np.ndarray, " _"]]],
) -> tuple[Float[np.ndarray, " evaluations"], Float[np.ndarray, "runs evaluations"]]:
    """Arrange runs, each its examples and its scores, as the examples of all evaluations and a table of scores.

    Runs may end at different examples. The table holds NaN where a run was not evaluated.
    """
    examples = np.unique(np.concatenate([at for at, _ in runs])) if runs else np.zeros(0)
    table = np.full((len(runs), len(examples)), np.nan)
    for row, (at, scores) in zip(table, runs, strict=True):
        row[np.searchsorted(examples, at)] = scores
    return examples, table


def locate_crossing(
    examples: Float[np.ndarray, " evaluations"],
    scores: Float[np.ndarray, "runs evaluations"],
    target: float,
    flat: float = FLAT,
) -> Crossing:
    """Locate where the typical run of a setting crosses the target, with one value for each run.

    Args:
        examples: Examples trained at each evaluation, above 0 and rising.
        scores: Scores on a scale on which they fall, such as the logarithm of the validation error; NaN where a run
            was not evaluated, which includes all that follows its end.
        target: The score to reach, on the same scale.
        flat: Slope above which the curve hardly falls, below 0. A log loss falls more slowly than a log error.
    """
    kept = without_collapse(scores)
    at_target = kept <= target
    reached = at_target.any(axis=1)
    nothing = np.full(len(kept), np.inf)
    if not reached.any():
        later_than = _end_of_falling(examples, kept, target, flat)
        return Crossing(np.inf, nothing, nothing, np.nan, frozenset({"never"}), later_than)
    first_seen = nothing.copy()
    first_seen[reached] = np.log(examples[at_target[reached].argmax(axis=1)])
    seen = np.isfinite(kept[reached]).any(axis=0)
    where, table = np.log(examples[seen]), kept[reached][:, seen]
    if len(where) < FEWEST_TO_SMOOTH:
        return Crossing(typical_of(first_seen), first_seen, first_seen, np.nan, frozenset({"first"}))
    curve, levels = additive(where, table)
    crossed = _cross(curve, target)
    if crossed is None:
        return Crossing(np.inf, nothing, first_seen, np.nan, frozenset({"never"}))
    at, slope = crossed
    values = nothing.copy()
    values[reached] = at - _influences(curve, levels, table, at) / min(slope, LEAST_FALL * flat)
    typical = typical_of(values)
    return Crossing(typical, values, first_seen, slope, _flags(typical, at, slope > flat, where, table))


def _end_of_falling(
    examples: Float[np.ndarray, " evaluations"],
    kept: Float[np.ndarray, "runs evaluations"],
    target: float,
    flat: float,
) -> float:
    """Return the log examples at which runs that never crossed end together, while their typical curve still falls.

    NaN if one of them ended before or collapsed, or if the smooth curve is flat or about to cross.
    """
    seen = np.isfinite(kept).any(axis=0)
    if seen.sum() < FEWEST_TO_SMOOTH or not np.isfinite(kept[:, seen][:, -1]).all():
        return np.nan
    curve, _ = additive(np.log(examples[seen]), kept[:, seen])
    end = curve.where[-1]
    _, (slope,) = smooth(curve, np.array([end]))
    return float(end) if slope <= flat and _cross(curve, target) is None else np.nan


class Lowest(NamedTuple):
    """The lowest score that runs have seen after some numbers of examples; NaN before their first evaluation.

    Attributes:
        typical: Of the typical run.
        slopes: Slope of its curve there, in score per log example; 0 where it was at its lowest before.
        runs: One value per run, whose mean is `typical`; infinite for a run that was never evaluated.
        ended: True where half of the runs ended before.
    """

    typical: Float[np.ndarray, " points"]
    slopes: Float[np.ndarray, " points"]
    runs: Float[np.ndarray, "runs points"]
    ended: Bool[np.ndarray, " points"]


def lowest_until(
    examples: Float[np.ndarray, " evaluations"],
    scores: Float[np.ndarray, "runs evaluations"],
    until: Float[np.ndarray, " points"],
) -> Lowest | None:
    """Return the lowest score that the smooth curve of some runs reaches until each number of examples.

    After the end of the curve this is its lowest score. None with too few evaluations to smooth.

    Args:
        examples: Examples trained at each evaluation, above 0 and rising.
        scores: Scores on a scale on which they fall; NaN where a run was not evaluated.
        until: Numbers of examples.
    """
    kept = without_collapse(scores)
    evaluated = np.isfinite(kept).any(axis=1)
    seen = np.isfinite(kept).any(axis=0)
    where, table = np.log(examples[seen]), kept[evaluated][:, seen]
    if len(where) < FEWEST_TO_SMOOTH:
        return None
    curve, levels = additive(where, table)
    points = np.append(np.arange(where[0], where[-1], STEP), where[-1])
    value, slope = smooth(curve, points)
    lowest = np.maximum.accumulate(np.where(value <= np.minimum.accumulate(value), np.arange(len(points)), 0))
    wanted = np.log(until)
    last = np.searchsorted(points, wanted, side="right") - 1
    at = lowest[np.maximum(last, 0)]
    known, still = last >= 0, (at == last) & (wanted <= where[-1])
    values = np.full((len(scores), len(until)), np.inf)
    for column, place in enumerate(at.tolist()):
        values[evaluated, column] = value[place] + _influences(curve, levels, table, float(points[place]))
    ends = where[table.shape[1] - 1 - np.isfinite(table)[:, ::-1].argmax(axis=1)]
    return Lowest(
        np.where(known, value[at], np.nan),
        np.where(known & still, slope[at], 0.0),
        np.where(known, values, np.nan),
        wanted > float(np.median(ends)),
    )


def typical_of(values: Float[np.ndarray, " runs"], spread: float | None = None) -> float:
    """Return the median over runs of normal values, some of them infinite; their mean where none is infinite.

    Args:
        values: One value per run, infinite for a run that missed.
        spread: Standard deviation of the finite values; theirs when None.
    """
    found = values[np.isfinite(values)]
    share = 1 - len(found) / len(values)
    if share >= 0.5:
        return np.inf
    if share == 0:
        return float(found.mean())
    spread = float(found.std(ddof=1)) if spread is None and len(found) > 1 else (spread or 0.0)
    return float(found.mean() + spread * special.ndtri(0.5 / (1 - share)))


def without_collapse(scores: Float[np.ndarray, "runs evaluations"]) -> Float[np.ndarray, "runs evaluations"]:
    """Return the scores with NaN from where a run collapses.

    A run collapses where two successive evaluations, or its last, lie more than log 2 above the least mean of three
    successive evaluations before them. A collapse after the crossing says nothing of the crossing.
    """
    kept = scores.copy()
    for row in kept:
        seen = np.flatnonzero(np.isfinite(row))
        if len(seen) == 0:
            continue
        own = row[seen]
        padded = np.concatenate([[np.nan, np.nan], own])
        means = np.nanmean([padded[2:], padded[1:-1], padded[:-2]], axis=0)
        above = own > np.minimum.accumulate(means) + COLLAPSED
        twice = above & np.append(above[1:], True)
        if twice.any():
            row[seen[twice.argmax()] :] = np.nan
    return kept


def additive(
    where: Float[np.ndarray, " evaluations"], scores: Float[np.ndarray, "runs evaluations"]
) -> tuple[Curve, Float[np.ndarray, " runs"]]:
    """Fit scores as a curve plus a level for each run, whose sum is 0, by least squares over what was observed.

    Every run and every evaluation holds at least one score.
    """
    known = np.isfinite(scores)
    filled, counts = np.where(known, scores, 0.0), known.sum(axis=0).astype(np.float64)
    levels = np.zeros(len(scores))
    for _ in range(ROUNDS):
        mean = ((filled - levels[:, None]) * known).sum(axis=0) / counts
        before, levels = levels, ((filled - mean) * known).sum(axis=1) / known.sum(axis=1)
        levels = levels - levels.mean()
        if np.abs(levels - before).max() < ROUNDING:
            break
    return Curve.of(where, ((filled - levels[:, None]) * known).sum(axis=0) / counts, counts), levels


def smooth(
    curve: Curve, at: Float[np.ndarray, " points"]
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """Return the value and the slope at each point of a line fitted to the curve around that point."""
    weights = _weights(curve, at)
    total = weights.sum(axis=1)
    centre, level = weights @ curve.where / total, weights @ curve.sharp / total
    off = curve.where - centre[:, None]
    rise = (weights * off * (curve.sharp - level[:, None])).sum(axis=1)
    slope = rise / np.maximum((weights * off**2).sum(axis=1), 1e-12)
    return level + slope * (at - centre), slope


def _weights(curve: Curve, at: Float[np.ndarray, " points"]) -> Float[np.ndarray, "points evaluations"]:
    distance = np.abs(curve.where - at[:, None])
    fewest = min(FEWEST_EVALUATIONS, len(curve.where)) - 1
    width = np.maximum(BANDWIDTH, np.partition(distance, fewest, axis=1)[:, fewest] * 1.001)
    return np.maximum(1 - (distance / width[:, None]) ** 2, 0) * curve.seen


def _lines(curve: Curve, at: Float[np.ndarray, " points"]) -> Float[np.ndarray, "points evaluations"]:
    """Return what each evaluation counts for in the value of the line around each point."""
    weights = _weights(curve, at)
    total = weights.sum(axis=1, keepdims=True)
    centre = weights @ curve.where / total[:, 0]
    off = curve.where - centre[:, None]
    spread = np.maximum((weights * off**2).sum(axis=1), 1e-12)
    return weights * (1 / total + ((at - centre) / spread)[:, None] * off)


def _cross(curve: Curve, target: float) -> tuple[float, float] | None:
    """Return the first point at which the smooth curve is at the target, and its slope there; None without one."""
    points = np.arange(curve.where[0] - REACH, curve.where[-1] + REACH + STEP, STEP)
    # In parts that overlap by one point, because most curves cross early and what follows need not be smoothed.
    for start in range(0, len(points), POINTS_AT_ONCE - 1):
        part = points[start : start + POINTS_AT_ONCE]
        value, slope = smooth(curve, part)
        at = int((value <= target).argmax())
        if value[at] > target:
            continue
        if at == 0:
            return float(part[0]), float(slope[0])
        share = (value[at - 1] - target) / (value[at - 1] - value[at])
        crossing = part[at - 1] + share * STEP
        return float(crossing), float(np.interp(crossing, part, slope))
    return None


def _influences(
    curve: Curve, levels: Float[np.ndarray, " runs"], table: Float[np.ndarray, "runs evaluations"], at: float
) -> Float[np.ndarray, " runs"]:
    """Return how far each run lifts the smooth curve at a point, times the number of runs; they sum to 0.

    These are the values of the infinitesimal jackknife (Efron, 1982, The Jackknife, the Bootstrap and Other Resampling
    Plans), so they spread as the estimate does. Nothing is clipped, because the estimate clips nothing either: where
    runs are early or late instead of high or low, a clipped spread says little of where they cross.
    """
    (line,) = _lines(curve, np.array([at]))
    near = line != 0
    sharp = 2 * line - line[near] @ _lines(curve, curve.where[near])
    known = np.isfinite(table)
    residuals = np.where(known, table - curve.mean - levels[:, None], 0.0)
    return levels + residuals @ (sharp * len(table) / curve.seen)


def _flags(
    typical: float, at: float, flat: bool, where: Float[np.ndarray, " _"], table: Float[np.ndarray, "runs _"]
) -> frozenset[Flag]:
    ends = where[table.shape[1] - 1 - np.isfinite(table)[:, ::-1].argmax(axis=1)]
    found: dict[Flag, bool] = {
        "first": at < where[0],
        "flat": flat,
        "end": float(np.median(ends)) - at < LEAST_AFTER,
        "never": np.isinf(typical),
    }
    return frozenset(flag for flag, holds in found.items() if holds)


def jackknife_error(
    examples: Float[np.ndarray, " evaluations"], scores: Float[np.ndarray, "runs evaluations"], target: float
) -> float:
    """Return the standard error of the typical crossing by leaving out one run after the other.

    It assumes nothing of the curve, and so checks the spread of `Crossing.values`. NaN with fewer than two runs.
    """
    count = len(scores)
    if count < 2:
        return np.nan
    left = [locate_crossing(examples, np.delete(scores, run, axis=0), target).typical for run in range(count)]
    return float(np.sqrt((count - 1) / count * np.sum((np.array(left) - np.mean(left)) ** 2)))
