"""Early stopping of trials that cannot win, as a pure function of the curves so far.

A *point* is a learning rate with the options searched next to it. Points of one batch size race against each other.
A point is certainly *slower* if another point already has a smaller median time to the target than this one could still
achieve, even if all its remaining seeds reached the target now. A point is *beaten* if a third of the epoch budget is
spent and its validation error exceeds the leader's by more than three standard errors of their difference, and by a
factor: 2, and 1.5 once two thirds of the budget are spent.

Two claims can be won: the shortest time to the target, and the best score within the budget. Before the end of the
budget a point is stopped if it is beaten and short of the target. After it, a point short of the target is stopped if
it is certainly slower or beaten.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median

import msgspec

from batchscale.config.goal import Goal
from batchscale.config.vocabulary import Point
from batchscale.records.rate_choice import best_score, crossing
from batchscale.records.row_types import Curve

GRACE = 1 / 3
"""Share of the epoch budget before which nothing is stopped."""
STANDARD_ERRORS = 3.0


class Race(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of an experiment that the rule uses.

    Attributes:
        goal: The score to reach.
        budget_examples: Examples in the epoch budget.
        validation_examples: Size of the validation split, which decides the noise of an error.
    """

    goal: Goal
    budget_examples: int
    validation_examples: int


def losers(race: Race, curves: Mapping[Point, Sequence[Curve]], examples: int) -> dict[Point, str]:
    """Return the points to stop, each with the reason.

    Args:
        race: Goal and budget.
        curves: For every point of one batch size, one curve per seed.
        examples: Examples seen so far; later evaluations in a curve are ignored.
    """
    if len(curves) < 2 or examples < GRACE * race.budget_examples:
        return {}
    times = {point: [_time(race, curve, examples) for curve in group] for point, group in curves.items()}
    fastest = min(map(median, times.values()))
    errors = {point: _error(race.goal, group, examples) for point, group in curves.items()}
    lowest = min(errors.values())
    seeds = min(len(group) for group in curves.values())
    found = {}
    for point in curves:
        beaten = _beaten(race, errors[point], lowest, seeds, examples)
        reason = _reason(race, times[point], fastest, beaten, examples)
        if reason:
            found[point] = reason
    return found


def _reason(race: Race, times: Sequence[float], fastest: float, beaten: str | None, examples: int) -> str | None:
    if math.isfinite(median(times)):
        return None
    # The best median that is still possible: seeds short of the target reach it at this very evaluation.
    least = median(min(time, examples) for time in times)
    if examples >= race.budget_examples and fastest < least:
        return f"another setting reached the target after {fastest:.0f} examples"
    return beaten


def _time(race: Race, curve: Curve, examples: int) -> float:
    """Return the examples to the target, infinity if it was not reached within `examples`.

    The curve of a trial that finished earlier holds later evaluations, which a running trial must not race against.
    """
    crossed = crossing(curve, race.goal)
    return crossed.examples if crossed and crossed.examples <= examples else math.inf


def _error(goal: Goal, group: Sequence[Curve], examples: int) -> float:
    """Return the mean over seeds of the lowest validation error so far."""
    best = [best_score(curve, goal, examples) or 0.0 for curve in group]
    return goal.gap(sum(best) / len(best))


def _beaten(race: Race, error: float, lowest: float, seeds: int, examples: int) -> str | None:
    factor = 1.5 if examples >= 2 * GRACE * race.budget_examples else 2.0
    # The binomial variance of an error rate over the validation split.
    variance = (error * (1 - error) + lowest * (1 - lowest)) / (race.validation_examples * seeds)
    if error > factor * lowest and error - lowest > STANDARD_ERRORS * math.sqrt(variance):
        return f"error {error:.4f} vs {lowest:.4f} for the best rate after {examples:,} examples"
    return None
