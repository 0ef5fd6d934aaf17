"""When a point can no longer win, it is stopped: the rule, as a pure function of the curves so far.

A point (a learning rate with the options beside it) is *slower for certain* when another of its batch size has a
median time to the target that this one, whose median seed is still short of it, can no longer come below: not even if
all its seeds reached the target at once.
It is *beaten* when, after a third of the epoch budget, its validation error exceeds the leader's by more than three
standard errors of their difference and by a factor (2, and 1.5 once two thirds of the budget are spent). It is stopped
when it can win neither claim: before the end of the budget when it is beaten and short of the target, after it when it
is slower for certain or beaten.
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
STANDARD_ERRORS = 3.0


class Race(msgspec.Struct, frozen=True, kw_only=True):
    """What the rule needs to know of an experiment."""

    goal: Goal
    budget_examples: int
    validation_examples: int


def losers(race: Race, curves: Mapping[Point, Sequence[Curve]], examples: int) -> dict[Point, str]:
    """Points to stop after `examples`, each with the reason; `curves` holds one curve per seed for every point."""
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
    least = median(min(time, examples) for time in times)
    if examples >= race.budget_examples and fastest < least:
        return f"another setting reached the target after {fastest:.0f} examples"
    return beaten


def _time(race: Race, curve: Curve, examples: int) -> float:
    """Examples to the target, of those seen so far: the curve of a finished trial goes on."""
    crossed = crossing(curve, race.goal)
    return crossed.examples if crossed and crossed.examples <= examples else math.inf


def _error(goal: Goal, group: Sequence[Curve], examples: int) -> float:
    """Return the mean over seeds of the lowest validation error so far."""
    best = [best_score(curve, goal, examples) or 0.0 for curve in group]
    return goal.gap(sum(best) / len(best))


def _beaten(race: Race, error: float, lowest: float, seeds: int, examples: int) -> str | None:
    factor = 1.5 if examples >= 2 * GRACE * race.budget_examples else 2.0
    variance = (error * (1 - error) + lowest * (1 - lowest)) / (race.validation_examples * seeds)
    if error > factor * lowest and error - lowest > STANDARD_ERRORS * math.sqrt(variance):
        return f"its error {error:.4f} stands beside {lowest:.4f} for the leader after {examples} examples"
    return None
