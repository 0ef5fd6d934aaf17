"""The goal of a workload: the score that trials are compared by, and the value of it at which training is done."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, TypeVar, overload

import msgspec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Scores = NDArray[np.float64]

Score = TypeVar("Score", float, "Scores")
"""One score, or a numpy array of scores."""

Direction = Literal["at least", "at most"]


class Goal(msgspec.Struct, frozen=True, kw_only=True):
    """A score to reach. Every comparison of two scores, in either half of the suite, is made here.

    Attributes:
        metric: Name of the score in a trial's curve, such as "accuracy".
        threshold: Value of the score that counts as reached.
        direction: Which side of the threshold counts: "at least" for an accuracy, "at most" for a loss.
        ideal: Value that no score can beat.
    """

    metric: str
    threshold: float
    direction: Direction = "at least"
    ideal: float = 1.0

    def at(self, threshold: float) -> Goal:
        """Return the same goal with another threshold."""
        return msgspec.structs.replace(self, threshold=threshold)

    def rising(self, scores: Score) -> Score:
        """Orient scores so that more is better: lower-is-better scores are negated."""
        return scores if self.direction == "at least" else -scores

    @overload
    def reached(self, value: float) -> bool: ...
    @overload
    def reached(self, value: Scores) -> NDArray[np.bool_]: ...
    def reached(self, value: float | Scores) -> bool | NDArray[np.bool_]:
        """Return whether a score meets the threshold; NaN does not."""
        return value >= self.threshold if self.direction == "at least" else value <= self.threshold

    @overload
    def better(self, a: float, b: float) -> bool: ...
    @overload
    def better(self, a: Scores, b: float | Scores) -> NDArray[np.bool_]: ...
    def better(self, a: float | Scores, b: float | Scores) -> bool | NDArray[np.bool_]:
        """Return whether score `a` is strictly better than score `b`."""
        return a > b if self.direction == "at least" else a < b

    def best(self, values: Iterable[float]) -> float | None:
        """Return the best of several scores; None if there are none."""
        better_of = max if self.direction == "at least" else min
        return better_of(values, default=None)

    def gap(self, value: Score) -> Score:
        """Return how far a score is from the ideal one, 0 or more: 1 - accuracy, or the loss itself."""
        return self.rising(self.ideal) - self.rising(value)
