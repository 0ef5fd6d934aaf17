"""Early stopping of trials that cannot win, as a pure function of the curves so far.

A *point* is a learning rate with the options searched next to it. Points of one batch size race against each other.
A point is certainly *slower* if another point already has a smaller median time to the target than this one could still
achieve, even if all its remaining seeds reached the target now. A point is *beaten* if a third of the epoch budget is
spent, and its best score is clearly behind the leader's: by more than three standard errors of their difference, and
by a margin. The margin of an accuracy is a factor on the error: 2, and 1.5 once two thirds of the budget are spent. A
loss has a floor that is not known, so factors on it mean little. Its margin is in time: the leader was as good with a
quarter of the examples, and with half of them once two thirds of the budget are spent.

Two claims can be won: the shortest time to the target, and the best score within the budget. Before the end of the
budget a point is stopped if it is beaten and short of the target. After it, a point short of the target is stopped if
it is certainly slower or beaten.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import NamedTuple

import msgspec

from batchscale.config.goal import Goal
from batchscale.config.vocabulary import Point
from batchscale.decisions.evaluations import best_or_worst, first_at_target
from batchscale.records.row_types import Curve

GRACE = 1 / 3
"""Share of the epoch budget before which nothing is stopped."""
STANDARD_ERRORS = 3.0
FACTORS = {False: 2.0, True: 1.5}
"""Factor on the leader's error, before and after two thirds of the budget."""
SHARES = {False: 0.25, True: 0.5}
"""Share of the examples with which the leader was as good, before and after two thirds of the budget."""


class Race(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of an experiment that the rule uses.

    Attributes:
        goal: The score to reach.
        budget_examples: Examples in the epoch budget.
        validation_examples: Size of the validation split, which decides the noise of a score.
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
    standings = {point: Standing.of(race, group, examples) for point, group in curves.items()}
    leader = min(standings, key=lambda point: standings[point].gap)
    found = {}
    for point in curves:
        beaten = _beaten(race, standings[point], standings[leader], curves[leader], examples)
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
    crossed = first_at_target(curve, race.goal)
    return crossed.examples if crossed and crossed.examples <= examples else math.inf


class Standing(NamedTuple):
    """How well a point does so far.

    Attributes:
        gap: Mean over seeds of the smallest gap between the validation score and the ideal one.
        variance: Of the gap, from the deviation of the score over the validation examples.
    """

    gap: float
    variance: float

    @classmethod
    def of(cls, race: Race, group: Sequence[Curve], examples: int) -> Standing:
        """Return the standing of the curves of a point after `examples`."""
        metric, goal = race.goal.metric, race.goal
        gaps = [goal.gap(best_or_worst(curve, goal, examples)) for curve in group]
        variances = []
        for curve, gap in zip(group, gaps, strict=True):
            at_best = (
                variance
                for seen, score, variance in zip(
                    curve.examples, curve.values(metric), curve.variances(metric), strict=True
                )
                if seen <= examples and goal.gap(score) == gap
            )
            variances.append(next(at_best, 0.0))
        count = len(group)
        return cls(sum(gaps) / count, sum(variances) / (race.validation_examples * count**2))


def _beaten(race: Race, own: Standing, lead: Standing, leaders: Sequence[Curve], examples: int) -> str | None:
    late = examples >= 2 * GRACE * race.budget_examples
    # Scores of two points on the same examples rise together, so the variance of their difference is below this sum.
    error = math.sqrt(own.variance + lead.variance)
    if not own.gap - lead.gap > STANDARD_ERRORS * error:
        return None
    if race.goal.kind.is_share:
        factor = FACTORS[late]
        if own.gap > factor * lead.gap:
            return f"error {own.gap:.4f} vs {lead.gap:.4f} for the best rate after {examples:,} examples"
        return None
    earlier = int(examples * SHARES[late])
    if Standing.of(race, leaders, earlier).gap < own.gap:
        goal, better = race.goal, "more" if race.goal.direction == "at least" else "less"
        score = goal.rising(goal.rising(goal.kind.ideal or 0.0) - own.gap)
        return f"{goal.metric} {score:.4f} after {examples:,} examples vs {better} after {earlier:,} for the best rate"
    return None
