"""The best batch size under each metric, what is tied with it, and how far behind the next one lies."""

from __future__ import annotations

import numpy as np

from batchscale.analysis.statistics.comparison import Contest
from batchscale.analysis.statistics.curve_fit import Knee, best_between_knees
from batchscale.analysis.statistics.intervals import Array, Locations
from batchscale.analysis.summary_types import (
    AccuracyOptimal,
    CostOptimal,
    EnergyOptimal,
    EnergyTimeOptimal,
    ThroughputOptimal,
    TimeOptimal,
)

NEARLY = 0.95
"""The share of peak throughput that is as good as peak (Marek et al., 2025)."""


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
