"""One answer for each group of runs, and how the best batch size and rate move with what distinguishes the groups."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
import numpy as np

from batchscale.analysis.metrics import final_scores
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.summary.build import score_optimal
from batchscale.analysis.summary_parts import Part, Ranged, ScoreSurface
from batchscale.analysis.summary_types import ScoreOptimal
from batchscale.config.goal import MetricName
from batchscale.statistics.curve_fit import Refusal, fit_powers

Moved = Literal["batch_size", "learning_rate"]
Rests = Literal["surface", "best run"]
"""Where an optimum is taken from: the fitted surface, or the batch size with the best score, at its best rate."""


class GroupAnswer(Part, frozen=True, kw_only=True):
    """The answer for one group.

    Attributes:
        group: value of each column that groups runs, as the file writes it.
        runs: how many runs it has.
        score_optimal: the batch size with the best score, with ties; null where no run learned anything.
        learning_rate: the best rate there.
        score_surface, score_surface_reason: the fitted surface, or why there is none.
    """

    group: dict[str, str]
    runs: int
    score_optimal: ScoreOptimal | None
    learning_rate: float | None
    score_surface: ScoreSurface | None
    score_surface_reason: str | None

    def optimum(self, moved: Moved, rests: Rests) -> float | None:
        """Return the best batch size or rate."""
        if rests == "surface":
            return getattr(self.score_surface, moved).value if self.score_surface else None
        return (
            self.learning_rate if moved == "learning_rate" or not self.score_optimal else self.score_optimal.batch_size
        )


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
        metric: the score.
        columns: the columns that group runs.
        answers: one for each group, sorted by the columns.
        movements: how the best batch size and the best rate move.
    """

    schema: Literal[1] = 1
    metric: MetricName
    columns: list[str]
    answers: list[GroupAnswer]
    movements: list[Movement]


def answer_of(group: Mapping[str, str], of: Sweep) -> GroupAnswer:
    """Return the answer for the runs of one group."""
    best = score_optimal(of)
    claim = of.claims.get(best.batch_size) if best else None
    known = claim is not None and of.frames.imported is not None and of.frames.imported.learning_rates
    surface, reason = final_scores.surface(of)
    return GroupAnswer(
        group=dict(group),
        runs=len(of.frames.trials),
        score_optimal=best,
        learning_rate=float(claim.for_score["learning_rate"].iloc[0]) if claim is not None and known else None,
        score_surface=surface,
        score_surface_reason=reason,
    )


def together(metric: MetricName, columns: Sequence[str], answers: Sequence[GroupAnswer]) -> Groups:
    """Sort the answers by the columns, and fit how the optima move."""
    ordered = sorted(answers, key=lambda one: [_sorted_as(one.group[column]) for column in columns])
    numbers = numeric(columns, ordered)
    movements = [_movement(quantity, numbers, ordered) for quantity in ("batch_size", "learning_rate")]
    return Groups(metric=metric, columns=list(columns), answers=ordered, movements=movements)


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


def _movement(quantity: Moved, columns: Sequence[str], answers: Sequence[GroupAnswer]) -> Movement:
    enough = sum(one.score_surface is not None for one in answers) >= len(columns) + 3
    rests: Rests = "surface" if enough else "best run"
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
