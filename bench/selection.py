"""Which learning rate a batch size gets: decided on search trials alone, so that choosing does not flatter."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import mean, median

import msgspec

from bench.rows import Curve, Trial


class Crossing(msgspec.Struct, frozen=True):
    """The first evaluation at or above a target; the truth lies after `previous_examples` and up to `examples`."""

    examples: int
    steps: int
    previous_examples: int


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """The rates of one batch size. `tied` holds neighbours of `for_target` that evaluation cannot tell from it."""

    for_target: float
    for_accuracy: float
    tied: list[float]
    lowest: float
    highest: float

    @property
    def rates(self) -> list[float]:
        """Every rate worth confirming, once."""
        return list(dict.fromkeys([self.for_target, self.for_accuracy, *self.tied]))

    @property
    def at_lower_edge(self) -> bool:
        """Whether either best rate is the lowest tried."""
        return self.lowest in (self.for_target, self.for_accuracy) and self.lowest < self.highest

    @property
    def at_upper_edge(self) -> bool:
        """Whether either best rate is the highest tried."""
        return self.highest in (self.for_target, self.for_accuracy) and self.lowest < self.highest


def crossing(curve: Curve, target: float) -> Crossing | None:
    """Where a curve first reaches `target`; None when it never does."""
    previous = 0
    for examples, steps, accuracy in zip(curve.examples, curve.steps, curve.accuracy, strict=True):
        if accuracy >= target:
            return Crossing(examples, steps, previous)
        previous = examples
    return None


def examples_to_target(trial: Trial, target: float) -> float:
    """Examples until the target, infinity when it was not reached."""
    found = crossing(trial.curve, target)
    return found.examples if found else math.inf


def best_accuracy(trial: Trial, examples: float = math.inf) -> float:
    """The best validation accuracy within a budget of `examples`; 0 when nothing was evaluated there."""
    seen = zip(trial.curve.examples, trial.curve.accuracy, strict=True)
    return max((accuracy for at, accuracy in seen if at <= examples), default=0.0)


def choose(trials: Iterable[Trial], target: float, budget_examples: float) -> Choice | None:
    """Choose among the rates of one batch size by the median over seeds; None when there are no trials.

    The rate for the target is the one with the fewest median examples to it, ties broken by accuracy; the rate for
    accuracy is the one with the best mean accuracy within `budget_examples`, ties broken by speed.
    """
    by_rate: dict[float, list[Trial]] = defaultdict(list)
    for trial in trials:
        by_rate[trial.learning_rate].append(trial)
    if not by_rate:
        return None
    speed = {rate: median(examples_to_target(one, target) for one in group) for rate, group in by_rate.items()}
    quality = {rate: mean(best_accuracy(one, budget_examples) for one in group) for rate, group in by_rate.items()}
    rates = sorted(by_rate)
    fastest = min(rates, key=lambda rate: (speed[rate], -quality[rate]))
    best = max(rates, key=lambda rate: (quality[rate], -speed[rate]))
    neighbours = _neighbours(rates, fastest)
    tied = [rate for rate in neighbours if math.isfinite(speed[rate]) and speed[rate] <= speed[fastest]]
    return Choice(for_target=fastest, for_accuracy=best, tied=tied, lowest=rates[0], highest=rates[-1])


def _neighbours(rates: Sequence[float], rate: float) -> list[float]:
    at = rates.index(rate)
    return [*rates[max(0, at - 1) : at], *rates[at + 1 : at + 2]]
