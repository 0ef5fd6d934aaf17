"""Read raw evaluations of one run: the first one that reaches the goal, and the best score within a budget.

The first evaluation at the target is what a training run that stops there would see. Estimates that do not depend on
how often a run is evaluated are in `crossings`.
"""

from __future__ import annotations

import math

import msgspec

from batchscale.config.goal import Goal
from batchscale.records.row_types import Curve


class FirstEvaluation(msgspec.Struct, frozen=True):
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


def first_at_target(curve: Curve, goal: Goal) -> FirstEvaluation | None:
    """Find the evaluation at which a curve first reaches the goal; None if it never does."""
    at = first_place(curve, goal)
    if at is None:
        return None
    return FirstEvaluation(curve.examples[at], curve.steps[at], curve.examples[at - 1] if at else 0)


def first_place(curve: Curve, goal: Goal) -> int | None:
    """Return the number of the first evaluation that reaches the goal, from 0; None if none does."""
    return next((at for at, score in enumerate(curve.values(goal.metric)) if goal.reached(score)), None)


def best_score(curve: Curve, goal: Goal, budget: float = math.inf) -> float | None:
    """Return the best validation score within a budget of training, counted as the curve counts it.

    None if nothing was evaluated within it.
    """
    seen = zip(curve.trained, curve.values(goal.metric), strict=True)
    return goal.best(score for at, score in seen if at <= budget)


def best_or_worst(curve: Curve, goal: Goal, budget: float = math.inf) -> float:
    """Return the best validation score within a budget of training, or the worst possible one if there is none."""
    found = best_score(curve, goal, budget)
    return goal.kind.worst if found is None else found
