"""The best batch size under each metric, what is tied with it, and how far behind the next one lies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from bench.analysis.answers import (
    AccuracyOptimal,
    CostOptimal,
    EnergyOptimal,
    EnergyTimeOptimal,
    Interval,
    ThroughputOptimal,
    TimeOptimal,
)
from bench.analysis.fits import Knee, best_between_knees
from bench.analysis.statistics import LEVEL, Array, Locations, estimate, exp
from bench.analysis.ties import tied_with_least

TEST = (
    "multiple comparisons with the best (Hsu) on medians, variances moderated across batch sizes (Smyth), "
    "evaluation rounding and misses counted"
)
UNREPEATED = "measured once each, so the spread is that about neighbouring batch sizes"
NEARLY = 0.95
"""The share of peak throughput that is as good as peak (Marek et al., 2025)."""

Edge = Literal["smallest", "largest", "memory", "only"]


class Found(TypedDict):
    """The fields that every optimum has."""

    batch_size: int
    interval: Interval
    batch_size_interval: tuple[int, int]
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
    """Cells compared by one metric: `locations` least is best; `tried` (cells,) were measured for it, reached or not.

    `out_of_memory` (cells,) did not fit. `logarithmic` says that locations are of the logarithm, `repeated` that some
    cell was measured more than once.
    """

    sizes: NDArray[np.int64]
    locations: Locations
    tried: NDArray[np.bool_]
    out_of_memory: NDArray[np.bool_]
    metric: str
    logarithmic: bool = True
    repeated: bool = True

    @property
    def best(self) -> int | None:
        """Which cell is best by its observed median; None where there is none."""
        medians = self.locations.medians
        finite = np.where(np.isfinite(medians), medians, np.inf)
        return int(np.argmin(finite)) if np.isfinite(medians).any() else None

    def found(self, best: int) -> Found:
        """What there is to say of the best cell under any metric."""
        tied = tied_with_least(self.locations)
        tied[best] = True
        edge = self._edge(best)
        margin, next_best = self._margin(best)
        sizes = [int(size) for size in self.sizes[tied]]
        return {
            "batch_size": int(self.sizes[best]),
            "interval": self._interval(best),
            "batch_size_interval": (sizes[0], sizes[-1]),
            "tied": sizes,
            "at_edge": edge not in (None, "memory"),
            "edge": edge,
            "margin": margin,
            "next_best": next_best,
            "metric": self.metric,
            "test": TEST if self.repeated else f"{TEST}; {UNREPEATED}",
            "level": LEVEL,
        }

    def _interval(self, best: int) -> Interval:
        """Of the quantity at the best cell, as logarithms or negated accuracies were made from it."""
        quantity = exp if self.logarithmic else _accuracies
        return estimate(self.locations.medians[best], self.locations.draws[:, best], quantity).interval

    def _edge(self, best: int) -> Edge | None:
        others = self.sizes[self.tried]
        size = self.sizes[best]
        if size == others.max():
            if self.out_of_memory[self.sizes > size].any():
                return "memory"
            return "only" if size == others.min() else "largest"
        return "smallest" if size == others.min() else None

    def _margin(self, best: int) -> tuple[float | None, int | None]:
        medians = np.where(np.isfinite(self.locations.medians), self.locations.medians, np.inf)
        rest = np.delete(np.arange(len(medians)), best)
        if not len(rest) or not np.isfinite(medians[rest]).any():
            return None, None
        second = rest[np.argmin(medians[rest])]
        behind = float(medians[second] - medians[best])
        return (float(np.expm1(behind)) if self.logarithmic else behind), int(self.sizes[second])


def _accuracies(negated: Array) -> Array:
    return np.clip(-negated, 0, 1)


def time_optimal(contest: Contest, examples: Knee | None, step_time: Knee | None) -> TimeOptimal | None:
    """The least time to the target, beside where the two fitted curves put it."""
    best = contest.best
    if best is None:
        return None
    fitted = best_between_knees(examples, step_time) if examples and step_time else (None, None)
    seconds = float(np.exp(contest.locations.medians[best]))
    return TimeOptimal(**contest.found(best), seconds=seconds, fitted_batch_size=fitted[0], fitted_interval=fitted[1])


def accuracy_optimal(contest: Contest, budget: str) -> AccuracyOptimal | None:
    """The best accuracy under a budget."""
    best = contest.best
    if best is None:
        return None
    return AccuracyOptimal(**contest.found(best), accuracy=float(-contest.locations.medians[best]), budget=budget)


def throughput_optimal(contest: Contest) -> ThroughputOptimal | None:
    """The most examples per second, and the smallest batch size within 5% of it."""
    best = contest.best
    if best is None:
        return None
    found = contest.found(best)
    low, high = found["interval"]
    found["interval"] = (_inverse(high), _inverse(low))
    per_second = np.exp(-contest.locations.medians)
    near = per_second >= NEARLY * per_second[best]
    return ThroughputOptimal(
        **found,
        examples_per_second=float(per_second[best]),
        smallest_within_5_percent=int(contest.sizes[near].min()),
    )


def _inverse(value: float | None) -> float | None:
    return 1 / value if value else None


def energy_optimal(contest: Contest) -> EnergyOptimal | None:
    """The least energy to the target."""
    best = contest.best
    if best is None:
        return None
    return EnergyOptimal(**contest.found(best), joules=float(np.exp(contest.locations.medians[best])))


def cost_optimal(contest: Contest, price_per_hour: float) -> CostOptimal | None:
    """The least cost to the target."""
    best = contest.best
    if best is None:
        return None
    cost = float(np.exp(contest.locations.medians[best]))
    return CostOptimal(**contest.found(best), cost=cost, price_per_hour=price_per_hour)


def energy_time_optimal(contest: Contest, eta: float) -> EnergyTimeOptimal | None:
    """The least of energy and time weighed against each other."""
    best = contest.best
    if best is None:
        return None
    return EnergyTimeOptimal(**contest.found(best), joules=float(np.exp(contest.locations.medians[best])), eta=eta)


def log_energy_time(log_joules: Locations, log_seconds: Locations, greatest_watts: float, eta: float) -> Locations:
    """Logarithms of eta x energy + (1 - eta) x greatest power x time (Zeus, NSDI 2023)."""

    def mixed(joules: Array, seconds: Array) -> Array:
        with np.errstate(invalid="ignore"):
            return np.logaddexp(np.log(eta) + joules, np.log((1 - eta) * greatest_watts) + seconds)

    centres = mixed(log_joules.centres, log_seconds.centres)
    moved = mixed(log_joules.centres + log_joules.errors, log_seconds.centres + log_seconds.errors)
    known = np.where(np.isfinite(centres), centres, 0.0)
    return Locations(
        mixed(log_joules.medians, log_seconds.medians),
        centres,
        np.where(np.isfinite(centres), moved - known, 0.0),
        mixed(log_joules.draws, log_seconds.draws),
    )
