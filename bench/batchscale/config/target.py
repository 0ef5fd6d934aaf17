"""The target of an experiment: one metric of the validation split, and the value of it that training is timed to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from batchscale.config.goal import METRICS, MetricName
from batchscale.config.vocabulary import SCORE_NAME_PATTERN, SCORE_NAME_RULE
from batchscale.errors import InputError
from batchscale.printable import printable

Fraction = Annotated[float, Meta(gt=0, lt=1)]
LARGEST_LOSS = 1e6
Loss = Annotated[float, Meta(gt=0, le=LARGEST_LOSS)]
Score = Annotated[float, Meta(ge=-1e12, le=1e12)]
ScoreName = Annotated[str, Meta(pattern=SCORE_NAME_PATTERN, description=SCORE_NAME_RULE)]


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The validation score that trials are timed to: exactly one of the metrics.

    Attributes:
        accuracy: Training is timed to the first evaluation at or above it.
        loss: Training is timed to the first evaluation at or below this mean loss: in nats for classes and text.
        bits_per_byte: As `loss`, in bits; for text.
        score: Training is timed to the first evaluation at or above it; any number, such as a reward.
        cost: Training is timed to the first evaluation at or below it; any number, such as an energy.
        name: What pages call the score, such as reward; by default the name of the metric.
        also: Further targets of the same score, judged on the same curves. Harder targets are evaluated only up to
            `budget.epochs`, because trials that reach the first target stop there.
    """

    accuracy: Fraction | None = None
    loss: Loss | None = None
    bits_per_byte: Loss | None = None
    score: Score | None = None
    cost: Score | None = None
    name: ScoreName | None = None
    also: Annotated[list[Score], Meta(max_length=16)] = []

    @property
    def given(self) -> dict[MetricName, float]:
        """The scores that are given, by name."""
        values: dict[MetricName, float | None] = {name: getattr(self, name) for name in METRICS}
        return {name: value for name, value in values.items() if value is not None}


def check_target(target: Target, field: str) -> None:
    """Refuse a target without exactly one metric, and further targets that its metric cannot have."""
    if len(target.given) != 1:
        found = " and ".join(target.given) or "none of them"
        raise InputError(f"{field}: holds {found}, expected exactly one of {', '.join(METRICS)}")
    check_each_once(target.also, f"{field}.also")
    [metric] = target.given
    if METRICS[metric].ideal is None:
        return
    most = 1.0 if METRICS[metric].is_share else math.inf
    for value in target.also:
        if not 0 < value < most:
            raise InputError(f"{field}.also: {value}, expected numbers above 0{' and below 1' * (most == 1)}")


def check_each_once(values: Sequence[object], field: str) -> None:
    """Refuse a list that holds a value twice."""
    for at, value in enumerate(values):
        if value in values[:at]:
            raise InputError(f"{field}: {printable(values)} holds {printable(value)} twice, expected it once")
