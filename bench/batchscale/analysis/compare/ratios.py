"""What a comparison of several results says: ratios, verdicts, one batch size for all."""

from __future__ import annotations

from typing import Literal

import msgspec

from batchscale.analysis.statistics.intervals import LEVEL
from batchscale.analysis.summary_types import Interval, Summary

Quantity = Literal["examples_per_second", "time_to_target", "joules_to_target"]
Outcome = Literal["faster", "slower", "less", "more", "same", "not comparable"]

QUANTITIES: tuple[Quantity, ...] = ("examples_per_second", "time_to_target", "joules_to_target")


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """Another side's value over the first side's, with an interval that holds for all batch sizes together."""

    quantity: Quantity
    batch_size: int
    value: float | None
    interval: Interval
    outcome: Outcome


class Against(msgspec.Struct, frozen=True, kw_only=True):
    """One side held against the first."""

    label: str
    ratios: list[Ratio]


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """The batch size whose greatest loss on any side, against that side's own best, is least."""

    batch_size: int
    greatest_loss: float
    losses: dict[str, float]


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a comparison says."""

    schema: Literal[1] = 1
    labels: list[str]
    summaries: list[Summary]
    differences: list[str]
    throughput_only: bool
    against: list[Against]
    fleet: Fleet | None
    level: float = LEVEL

    def slower_than(self, fraction: float) -> list[str]:
        """One line for each batch size at which a side trains fewer examples per second by more than `fraction`."""
        return [
            f"{side.label}: batch size {ratio.batch_size}: {ratio.value:.3f} times the examples per second"
            for side in self.against
            for ratio in side.ratios
            if ratio.quantity == "examples_per_second"
            and ratio.outcome == "slower"
            and ratio.value is not None
            and ratio.value < 1 - fraction
        ]
