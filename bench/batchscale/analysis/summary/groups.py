"""One answer for each group of runs, and how the best batch size and rate move with what distinguishes the groups."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np

from batchscale.analysis.metrics import scaling
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.summary.build import score_optimal, time_optimal, why_no_time
from batchscale.analysis.summary_parts import Part, Ranged, ScoreSurface
from batchscale.analysis.summary_types import CriticalBatchSize, ScoreOptimal, TimeOptimal
from batchscale.config.goal import Goal, MetricName
from batchscale.statistics.curve_fit import Refusal, fit_powers
from batchscale.statistics.estimate import Interval

Moved = Literal["batch_size", "learning_rate", "critical_batch_size", "time_optimal"]
Rests = Literal["surface", "best run", "fit", "least time"]
"""Where an optimum is taken from: the fitted surface; the batch size with the best score, at its best rate; the fit of
the examples to the target; or the batch size that reaches the target in the least time."""
OF_GOALS: dict[Moved, Rests] = {"critical_batch_size": "fit", "time_optimal": "least time"}
"""What is known of curves that reach a target; the time only where runs have a clock."""


class GroupAnswer(Part, frozen=True, kw_only=True):
    """The answer for one group.

    Attributes:
        group: value of each column that groups runs, as the file writes it.
        runs: how many runs it has.
        score_optimal: the batch size with the best score, with ties; null where no run learned anything.
        learning_rate: the best rate there.
        score_surface, score_surface_reason: the fitted surface, or why there is none.
        critical_batch_size, critical_batch_size_reason: the fit of the examples to the target of curves.
        time_optimal, time_optimal_reason: the batch size with the least time to it, by the clocks of the runs.
    """

    group: dict[str, str]
    runs: int
    score_optimal: ScoreOptimal | None
    learning_rate: float | None
    score_surface: ScoreSurface | None
    score_surface_reason: str | None
    critical_batch_size: CriticalBatchSize | None = None
    critical_batch_size_reason: str | None = None
    time_optimal: TimeOptimal | None = None
    time_optimal_reason: str | None = None

    def optimum(self, moved: Moved, rests: Rests) -> float | None:
        """Return the best batch size or rate."""
        if rests == "best run":
            best = self.score_optimal
            return self.learning_rate if moved == "learning_rate" else best and best.batch_size
        if rests == "least time":
            return self.time_optimal and self.time_optimal.batch_size
        found = self._fitted(moved, rests)
        return found and found.value

    def interval(self, moved: Moved, rests: Rests) -> Interval | None:
        """Return the interval of a fitted optimum; None for one that is the best of those measured."""
        found = self._fitted(moved, rests)
        return found and found.interval

    def _fitted(self, moved: Moved, rests: Rests) -> Ranged | CriticalBatchSize | None:
        if rests == "fit":
            return self.critical_batch_size
        return getattr(self.score_surface, moved) if rests == "surface" and self.score_surface else None


class Movement(Part, frozen=True, kw_only=True):
    """How an optimum moves: it is proportional to the product of the columns, each to the power of its exponent.

    Attributes:
        quantity: which optimum.
        rests_on: where the optimum of each group is taken from.
        exponents: power of each column whose values are numbers, fitted to all groups together.
        reason: why there are none.
        groups: how many groups were fitted.
    """

    quantity: Moved
    rests_on: Rests
    exponents: dict[str, Ranged]
    reason: str | None = None
    groups: int


class Groups(Part, frozen=True, kw_only=True):
    """The answers of all groups.

    Attributes:
        metric, name: the score, and what the user calls it where the metric does not say it.
        goal: the target of curves; null for final scores.
        columns: the columns that group runs.
        answers: one for each group, sorted by the columns.
        movements: how the best batch size and the best rate move, and with a goal the critical and the fastest one.
    """

    schema: Literal[1] = 1
    metric: MetricName
    name: str | None = None
    goal: Goal | None = None
    columns: list[str]
    answers: list[GroupAnswer]
    movements: list[Movement]


def answer_of(group: Mapping[str, str], of: Sweep) -> GroupAnswer:
    """Return the answer for the runs of one group."""
    best = score_optimal(of)
    claim = of.claims.get(best.batch_size) if best else None
    known = claim is not None and of.frames.imported is not None and of.frames.imported.learning_rates
    surface, reason = of.score_surface
    reached = _to_the_goal(of) if of.frames.goal is not None else {}
    return GroupAnswer(
        **reached,
        group=dict(group),
        runs=len(of.frames.trials),
        score_optimal=best,
        learning_rate=float(claim.for_score["learning_rate"].iloc[0]) if claim is not None and known else None,
        score_surface=surface,
        score_surface_reason=reason,
    )


def _to_the_goal(of: Sweep) -> dict[str, Any]:
    knee, time = scaling.critical_batch_size(of), time_optimal(of)
    return {
        "critical_batch_size": knee,
        "critical_batch_size_reason": of.examples_fit.reason if knee is None else None,
        "time_optimal": time,
        "time_optimal_reason": why_no_time(of) if time is None else None,
    }


def together(
    metric: MetricName,
    goal: Goal | None,
    columns: Sequence[str],
    answers: Sequence[GroupAnswer],
    name: str | None = None,
) -> Groups:
    """Sort the answers by the columns, and fit how the optima move."""
    ordered = sorted(answers, key=lambda one: [_sorted_as(one.group[column]) for column in columns])
    numbers = numeric(columns, ordered)
    surfaces = sum(one.score_surface is not None for one in ordered) >= len(numbers) + 3
    of_scores: Rests = "surface" if surfaces else "best run"
    rests: dict[Moved, Rests] = {"batch_size": of_scores, "learning_rate": of_scores}
    if goal is not None:
        rests |= {one: how for one, how in OF_GOALS.items() if one != "time_optimal" or _timed(ordered)}
    movements = [_movement(quantity, how, numbers, ordered) for quantity, how in rests.items()]
    return Groups(metric=metric, name=name, goal=goal, columns=list(columns), answers=ordered, movements=movements)


def _timed(answers: Sequence[GroupAnswer]) -> bool:
    return any(one.time_optimal is not None for one in answers)


def numeric(columns: Sequence[str], answers: Sequence[GroupAnswer]) -> list[str]:
    """Return the columns that hold numbers above 0 alone, two or more different ones."""
    values = {column: {number_in(one.group[column]) for one in answers} for column in columns}
    return [column for column, found in values.items() if None not in found and len(found) > 1]


def number_in(text: str) -> float | None:
    """Return a finite number above 0; None for other texts."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value < math.inf else None


def _sorted_as(text: str) -> tuple[float, str]:
    value = number_in(text)
    return (math.inf if value is None else value), text


def _movement(quantity: Moved, rests: Rests, columns: Sequence[str], answers: Sequence[GroupAnswer]) -> Movement:
    known = [(one.group, value) for one in answers if (value := one.optimum(quantity, rests)) is not None]
    found = Movement(quantity=quantity, rests_on=rests, exponents={}, groups=len(known))
    if not columns:
        return msgspec.structs.replace(found, reason="no column holds two or more different numbers above 0")
    where = [[math.log(number_in(group[column]) or 1) for column in columns] for group, _ in known]
    try:
        powers = fit_powers(
            np.array(where, dtype=np.float64).reshape(-1, len(columns)), np.log([value for _, value in known])
        )
    except Refusal as refusal:
        return msgspec.structs.replace(found, reason=str(refusal))
    exponents = {
        column: Ranged(value=value, interval=interval)
        for column, (value, interval) in zip(columns, powers, strict=True)
    }
    return msgspec.structs.replace(found, exponents=exponents)
