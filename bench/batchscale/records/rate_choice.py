"""Choose the learning rate and options of each batch size, from rows.

Both halves make this choice: training confirms the chosen rates, and analysis reports them.

They are chosen on search trials alone. Claims rest on fresh seeds, so that they do not profit from the choice.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from statistics import mean, median

import msgspec

from batchscale.config.goal import Goal
from batchscale.config.vocabulary import Options, Point
from batchscale.records.row_types import Curve, Trial


class Crossing(msgspec.Struct, frozen=True):
    """The first evaluation that reaches the goal.

    Attributes:
        examples: Examples trained at that evaluation.
        steps: Optimizer steps taken at that evaluation.
        previous_examples: Examples trained at the evaluation before it, 0 if there is none: the goal was reached
            after these and by `examples`.
    """

    examples: int
    steps: int
    previous_examples: int


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """The points chosen for one batch size.

    Attributes:
        for_target: The point with the fewest examples to the target.
        for_score: The point with the best score within the budget.
        equally_fast: The neighbouring rates that reach the target at the same evaluation as `for_target`.
        tried: All points, sorted. A rate is at the edge if it is the lowest or highest tried with its options.
    """

    for_target: Point
    for_score: Point
    equally_fast: list[Point]
    tried: list[Point]

    @property
    def points(self) -> list[Point]:
        """The points to confirm, each once."""
        return list(dict.fromkeys([self.for_target, self.for_score, *self.equally_fast]))

    @property
    def lower_edges(self) -> list[Options]:
        """The options whose best rate is the lowest one tried."""
        return self._edges(0)

    @property
    def upper_edges(self) -> list[Options]:
        """The options whose best rate is the highest one tried."""
        return self._edges(-1)

    def _edges(self, end: int) -> list[Options]:
        grids = {point: with_options(self.tried, point.options) for point in (self.for_target, self.for_score)}
        return list(dict.fromkeys(one.options for one, grid in grids.items() if len(grid) > 1 and one == grid[end]))

    def is_at_edge(self, point: Point) -> bool:
        """Return True if a point's rate is the lowest or the highest of several tried with its options."""
        grid = with_options(self.tried, point.options)
        return len(grid) > 1 and point in (grid[0], grid[-1])

    @property
    def is_inside(self) -> bool:
        """True if a lower and a higher rate than the one for the target were tried."""
        grid = with_options(self.tried, self.for_target.options)
        return grid[0] < self.for_target < grid[-1]


def with_options(points: Iterable[Point], options: Options) -> list[Point]:
    """Return the points with these options, sorted by learning rate."""
    return sorted(point for point in points if point.options == options)


def crossing(curve: Curve, goal: Goal) -> Crossing | None:
    """Find the evaluation at which a curve first reaches the goal; None if it never does."""
    previous = 0
    for examples, steps, score in zip(curve.examples, curve.steps, curve.values(goal.metric), strict=True):
        if goal.reached(score):
            return Crossing(examples, steps, previous)
        previous = examples
    return None


def examples_to_target(trial: Trial, goal: Goal) -> float:
    """Return the examples trained until the goal was reached; infinity if it was not."""
    found = crossing(trial.curve, goal)
    return found.examples if found else math.inf


def best_score(curve: Curve, goal: Goal, examples: float = math.inf) -> float | None:
    """Return the best validation score within a budget of `examples`; None if nothing was evaluated within it."""
    seen = zip(curve.examples, curve.values(goal.metric), strict=True)
    return goal.best(score for at, score in seen if at <= examples)


def best_or_worst(curve: Curve, goal: Goal, examples: float = math.inf) -> float:
    """Return the best validation score within a budget of `examples`, or the worst possible one if there is none."""
    found = best_score(curve, goal, examples)
    return goal.kind.worst if found is None else found


def choose(trials: Iterable[Trial], goal: Goal, budget_examples: float) -> Choice | None:
    """Choose among the points of one batch size; None if none was evaluated.

    The point for the target has the fewest examples to it in the median over seeds; ties go to the better score. The
    point for the best score has the best mean score within `budget_examples`; ties go to the faster point. A trial that
    was not evaluated within the budget counts as the worst score, so that no point gains by missing evaluations.

    Args:
        trials: Search trials of one batch size.
        goal: The target, and the score to compare.
        budget_examples: Examples within which scores are compared.
    """
    by_point: dict[Point, list[Trial]] = defaultdict(list)
    for trial in trials:
        by_point[trial.point].append(trial)
    if not any(one.curve.examples for group in by_point.values() for one in group):
        return None
    speed = {point: median(examples_to_target(one, goal) for one in group) for point, group in by_point.items()}
    quality = {
        point: goal.rising(mean(best_or_worst(one.curve, goal, budget_examples) for one in group))
        for point, group in by_point.items()
    }
    points = sorted(by_point)
    fastest = min(points, key=lambda point: (speed[point], -quality[point]))
    best = max(points, key=lambda point: (quality[point], -speed[point]))
    equally_fast = [
        one for one in _neighbours(points, fastest) if math.isfinite(speed[one]) and speed[one] <= speed[fastest]
    ]
    return Choice(for_target=fastest, for_score=best, equally_fast=equally_fast, tried=points)


def _neighbours(points: Iterable[Point], point: Point) -> list[Point]:
    """Return the next lower and the next higher rate with the same options."""
    alike = with_options(points, point.options)
    at = alike.index(point)
    return [*alike[max(0, at - 1) : at], *alike[at + 1 : at + 2]]
