"""The best batch size under each metric: by time, accuracy, throughput, energy and cost."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

from batchscale.analysis import number_format
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.statistics.comparison import Contest
from batchscale.analysis.statistics.curve_fit import best_between_knees
from batchscale.analysis.summary_types import (
    AccuracyOptimal,
    CostOptimal,
    EnergyOptimal,
    Optimum,
    ThroughputOptimal,
    TimeOptimal,
)

NEARLY = 0.95
"""The share of peak throughput that is as good as peak (Marek et al., 2025)."""

Kind = TypeVar("Kind", bound=Optimum)


def optimum(kind: type[Kind], contest: Contest, **own: Any) -> Kind | None:
    """Return the best batch size of a contest, or None where none has a value.

    Args:
        kind: the type of the optimum.
        contest: the batch sizes, compared by one metric.
        own: the fields that only this kind of optimum has, or that differ from those of the contest.
    """
    best = contest.best
    return None if best is None else kind(**{**contest.found(best), **own})


def time_optimal(of: Sweep) -> TimeOptimal | None:
    """Return the batch size with the least time to the target, and the one that the two fitted curves predict."""
    contest = of.contest(of.time, "median over seeds of seconds to the target: steps to it times seconds per step")
    examples, step_time = of.examples_fit.knee, of.step_seconds_fit.knee
    fitted = best_between_knees(examples, step_time) if examples and step_time else (None, None)
    return optimum(TimeOptimal, contest, seconds=contest.value, fitted_batch_size=fitted[0], fitted_interval=fitted[1])


def accuracy_optimal(of: Sweep) -> AccuracyOptimal | None:
    """Return the batch size with the best accuracy within the budget of epochs; None where all accuracies are 0."""
    contest = of.contest(
        of.accuracy, "median over seeds of the best validation accuracy within the budget", logarithmic=False
    )
    budget = number_format.epochs(of.frames.experiment.budget.epochs)
    return optimum(AccuracyOptimal, contest, accuracy=contest.value, budget=budget) if contest.value > 0 else None


def accuracy_optimal_by_steps(of: Sweep) -> AccuracyOptimal | None:
    """Return the batch size with the best accuracy within the budget of steps."""
    contest = of.contest(
        of.accuracy_by_steps,
        "median over seeds of the best validation accuracy within the step budget",
        logarithmic=False,
    )
    return optimum(AccuracyOptimal, contest, accuracy=contest.value, budget=f"{of.step_budget:,} steps")


def throughput_optimal(of: Sweep) -> ThroughputOptimal | None:
    """Return the batch size with the most examples per second, and the smallest one that is nearly as fast."""
    per_example = of.step_seconds.shifted(-of.log_sizes)
    return most_examples_per_second(of.contest(per_example, "median over rounds of examples per second"))


def most_examples_per_second(contest: Contest) -> ThroughputOptimal | None:
    """Return the throughput optimum of a contest of seconds per example."""
    best = contest.best
    if best is None:
        return None
    low, high = contest.interval(best)
    per_second = np.exp(-contest.locations.medians)
    return optimum(
        ThroughputOptimal,
        contest,
        interval=(_inverse(high), _inverse(low)),
        examples_per_second=float(per_second[best]),
        smallest_within_5_percent=int(contest.sizes[per_second >= NEARLY * per_second[best]].min()),
    )


def energy_optimal(of: Sweep) -> EnergyOptimal | None:
    """Return the batch size with the least energy to the target."""
    contest = of.contest(of.energy, "median over seeds of joules to the target")
    return optimum(EnergyOptimal, contest, joules=contest.value)


def cost_optimal(of: Sweep) -> CostOptimal | None:
    """Return the batch size with the least cost to the target; None where no price is known."""
    if of.cost is None:
        return None
    contest = of.contest(of.cost, "median over seeds of seconds to the target times the price")
    return optimum(CostOptimal, contest, cost=contest.value, price_per_hour=of.frames.price_per_hour)


def _inverse(value: float | None) -> float | None:
    return 1 / value if value else None
