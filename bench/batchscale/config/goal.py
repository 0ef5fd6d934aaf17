"""The goal of a workload: the score that trials are compared by, and the value of it at which training is done."""

from __future__ import annotations

import math
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
MetricName = Literal["accuracy", "loss", "bits_per_byte", "score", "cost"]


class Metric(msgspec.Struct, frozen=True, kw_only=True):
    """A score that training can aim at.

    Attributes:
        direction: Which side of a threshold counts as reached.
        ideal: Value that no score can beat; None where none is known, as for the reward of a game.
        worst: Score of a trial that was never evaluated.
        unit: Unit of the score; empty for a share.
        measured_as: Name of the score in a curve, if this metric is a multiple of it.
        scale: The metric divided by the score that it is measured as.
        is_share: True if it is a share of the examples, from 0 to 1, which people read in percent.
    """

    direction: Direction
    ideal: float | None
    worst: float
    unit: str = ""
    measured_as: str
    scale: float = 1.0
    is_share: bool = False


METRICS: dict[MetricName, Metric] = {
    "accuracy": Metric(direction="at least", ideal=1.0, worst=0.0, measured_as="accuracy", is_share=True),
    "loss": Metric(direction="at most", ideal=0.0, worst=math.inf, measured_as="loss"),
    "bits_per_byte": Metric(
        direction="at most", ideal=0.0, worst=math.inf, unit="bits per byte", measured_as="loss", scale=1 / math.log(2)
    ),
    "score": Metric(direction="at least", ideal=None, worst=-math.inf, measured_as="score"),
    "cost": Metric(direction="at most", ideal=None, worst=math.inf, measured_as="cost"),
}
"""Every metric by the name that a TOML file gives it. One nat is 1 / log(2) bits. A score and a cost may be any number,
negative ones too; more of a score and less of a cost is better."""


class Goal(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A score to reach. Every comparison of two scores, in either half of the suite, is made here.

    Attributes:
        metric: Name of the score.
        threshold: Value of the score that counts as reached.
        name: What the user calls the score, such as val_bleu; None where the name of the metric says it.
    """

    metric: MetricName
    threshold: float
    name: str | None = None

    @property
    def kind(self) -> Metric:
        """Direction, ideal and unit of the metric."""
        return METRICS[self.metric]

    @property
    def direction(self) -> Direction:
        """Which side of the threshold counts: "at least" for an accuracy, "at most" for a loss."""
        return self.kind.direction

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
        """Return the best of several scores, ignoring NaN; None if there are none."""
        better_of = max if self.direction == "at least" else min
        return better_of((value for value in values if not math.isnan(value)), default=None)

    def gap(self, value: Score) -> Score:
        """Return how far a score is from the ideal one, 0 or more: 1 - accuracy, or the loss itself.

        Without an ideal one it is the score itself, negated where more is better.
        """
        return self.rising(self.kind.ideal or 0.0) - self.rising(value)
