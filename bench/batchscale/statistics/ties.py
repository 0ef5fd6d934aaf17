"""Compare batch sizes by one metric: the best, what is tied with it, and how much worse the next best is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from batchscale.config.goal import Goal
from batchscale.statistics.estimate import Interval
from batchscale.statistics.intervals import LEVEL, Array, Locations, estimate, exp

TEST = (
    "multiple comparisons with the best (Hsu) on medians, variances moderated across batch sizes (Smyth), "
    "evaluation rounding and misses counted"
)


NEIGHBOURS = "measured once each, so the spread is that about neighbouring batch sizes"
SURFACE = "measured once each, so the spread is that about the fitted surface of scores"

Edge = Literal["smallest", "largest", "memory", "only"]


class Found(TypedDict):
    """The fields that every `Optimum` has."""

    batch_size: int
    interval: Interval
    tied: list[int]
    at_edge: bool
    edge: Edge | None
    margin: float | None
    next_best: int | None
    metric: str
    test: str
    level: float


@dataclass(frozen=True)
class Contest:
    """Batch sizes compared by one metric, of which the least is best.

    Attributes:
        sizes: the batch sizes (sizes,).
        locations: of the logarithm of the metric or, with a `goal`, of a score oriented so that the least is best.
        tried: True where the metric was measured, reached or not (sizes,).
        out_of_memory: True where the step did not fit (sizes,).
        metric: the name of the metric, in words.
        goal: the score that is compared; None if `locations` are of logarithms.
        spread: where the spread is from if no batch size was measured more than once.
    """

    sizes: NDArray[np.int64]
    locations: Locations
    tried: NDArray[np.bool_]
    out_of_memory: NDArray[np.bool_]
    metric: str
    goal: Goal | None = None
    spread: str | None = None

    @property
    def best(self) -> int | None:
        """Index of the batch size with the best observed median; None where there is none."""
        medians = self.locations.medians
        finite = np.where(np.isfinite(medians), medians, np.inf)
        return int(np.argmin(finite)) if np.isfinite(medians).any() else None

    @property
    def value(self) -> float:
        """The quantity of the best batch size in its own unit; NaN where there is none."""
        best = self.best
        if best is None:
            return np.nan
        return float(self._quantities(self.locations.medians[[best]], best)[0])

    def found(self, best: int) -> Found:
        """Return the fields that every optimum has, for the batch size at index `best`."""
        tied = tied_with_least(self.locations)
        tied[best] = True
        edge = self._edge(best)
        margin, next_best = self._margin(best)
        sizes = [int(size) for size in self.sizes[tied]]
        return {
            "batch_size": int(self.sizes[best]),
            "interval": self.interval(best),
            "tied": sizes,
            "at_edge": edge not in (None, "memory"),
            "edge": edge,
            "margin": margin,
            "next_best": next_best,
            "metric": self.metric,
            "test": f"{TEST}; {self.spread}" if self.spread else TEST,
            "level": LEVEL,
        }

    def interval(self, best: int) -> Interval:
        """Return the 95% interval of the quantity at index `best`, in its own unit."""
        of_best = partial(self._quantities, best=best)
        return estimate(self.locations.medians[best], self.locations.draws[:, best], of_best).interval

    def _quantities(self, locations: Array, best: int) -> Array:
        """Return locations of the batch size at index `best` in the unit of the quantity."""
        return exp(locations) if self.goal is None else scores_of(self.goal, locations, self.locations.medians[best])

    def _edge(self, best: int) -> Edge | None:
        others = self.sizes[self.tried]
        size = self.sizes[best]
        if size == others.max():
            if self.out_of_memory[self.sizes > size].any():
                return "memory"
            return "only" if size == others.min() else "largest"
        return "smallest" if size == others.min() and size > 1 else None

    def _margin(self, best: int) -> tuple[float | None, int | None]:
        medians = np.where(np.isfinite(self.locations.medians), self.locations.medians, np.inf)
        rest = np.delete(np.arange(len(medians)), best)
        if not len(rest) or not np.isfinite(medians[rest]).any():
            return None, None
        second = rest[np.argmin(medians[rest])]
        behind = float(medians[second] - medians[best])
        return (float(np.expm1(behind)) if self.goal is None else behind), int(self.sizes[second])


def scores_of(goal: Goal, locations: Array, estimate: float) -> Array:
    """Return scores that were oriented so that the least is best, in their own direction.

    Errors do not lead out of the range of the metric unless `estimate`, which they are about, is beyond it: the loss of
    a task of the user's own may be negative.
    """
    # Subtracted from 0, since -0.0 would show its sign.
    scores, score = goal.rising(0.0 - locations) + 0.0, goal.rising(0.0 - estimate) + 0.0
    if goal.kind.ideal is None:
        return scores
    low, high = sorted((goal.kind.ideal, goal.kind.worst))
    return np.clip(scores, low, high) if low <= score <= high or goal.kind.is_share else scores


def tied_with_least(locations: Locations) -> NDArray[np.bool_]:
    """Return which cells (cells,) cannot be distinguished from the least; with 95% confidence they hold the true least.

    Multiple comparisons with the best (Hsu, 1981). A cell is excluded if it exceeds another cell by more than noise
    explains. Differences are divided by their spread. The bound is the 95% quantile of the largest scaled error over
    all other cells.
    """
    centres, errors = locations.centres, locations.errors
    usable = np.flatnonzero(np.isfinite(centres) & _possible(locations))
    tied = np.zeros(len(centres), dtype=bool)
    for cell in usable:
        others = usable[usable != cell]
        excess = errors[:, [cell]] - errors[:, others]
        tied[cell] = not _above_some(centres[cell] - centres[others], excess)
    return tied


def _above_some(differences: Array, excess: Array) -> bool:
    """Return True if one of `differences` (others,) is more than the errors `excess` (draws, others) allow."""
    if not len(differences):
        return False
    if np.isnan(excess).any():
        return False
    scale = np.maximum(np.sqrt(np.mean(excess**2, axis=0)), 1e-12)
    critical = np.quantile(np.max(excess / scale, axis=1), LEVEL)
    return bool(np.max(differences / scale) > critical)


def _possible(locations: Locations) -> NDArray[np.bool_]:
    """Return which cells (cells,) have a finite true median with more than 5% probability."""
    return np.mean(np.isfinite(locations.draws) | np.isnan(locations.draws), axis=0) > 1 - LEVEL


def above_a_later_one(locations: Locations, least: float) -> NDArray[np.bool_]:
    """Return which cells (cells,) exceed a later cell by more than `least` and more than noise explains."""
    centres, errors = locations.centres, locations.errors
    usable = np.flatnonzero(np.isfinite(centres) & np.isfinite(locations.medians))
    above = np.zeros(len(centres), dtype=bool)
    for cell in usable:
        later = usable[usable > cell]
        differences = centres[cell] - centres[later]
        above[cell] = np.any(differences > least) and _above_some(differences, errors[:, [cell]] - errors[:, later])
    return above
