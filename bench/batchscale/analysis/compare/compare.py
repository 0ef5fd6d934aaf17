"""Results of one workload side by side: ratios with intervals, a verdict for each, and one batch size for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from batchscale.analysis.compare import compatibility
from batchscale.analysis.frames import frames
from batchscale.analysis.frames.frames import Frames
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.statistics.intervals import LEVEL, SEED, Array, Locations, exp, finite
from batchscale.analysis.summary.build import summarize
from batchscale.analysis.summary_types import Interval, Summary
from batchscale.errors import InputError

LEAST_DIFFERENCE = 0.03
"""Two runs of one program on one machine differ by this much for reasons that rounds within a run do not show."""
BETTER: dict[Quantity, tuple[Outcome, Outcome]] = {
    "examples_per_second": ("slower", "faster"),
    "time_to_target": ("faster", "slower"),
    "joules_to_target": ("less", "more"),
}
"""What a ratio below 1 and a ratio above 1 mean."""


@dataclass(frozen=True)
class Side:
    """One folder, read."""

    label: str
    sweep: Sweep
    summary: Summary

    def locations(self, quantity: Quantity) -> Locations:
        """Logarithms of a quantity, cell by cell."""
        if quantity == "examples_per_second":
            seconds = self.sweep.step_seconds.shifted(-self.sweep.log_sizes)
            return Locations(-seconds.medians, -seconds.centres, -seconds.errors, -seconds.draws)
        return self.sweep.time if quantity == "time_to_target" else self.sweep.energy


def compare(folders: Sequence[Path], *, throughput_only: bool = False) -> Comparison:
    """Compare results folders with the first of them.

    Raises:
        InputError: on fewer than two folders, a folder that cannot be read, or unlike workloads, targets or protocols.
    """
    if len(folders) < 2:
        raise InputError(f"compare: {len(folders)} results folders, expected two or more")
    read = [frames.load(folder) for folder in folders]
    compatibility.refuse_unlike([str(folder) for folder in folders], read, throughput_only=throughput_only)
    sweeps = [Sweep.of(one) for one in read]
    return compare_sweeps(sweeps, [summarize(one) for one in sweeps], throughput_only=throughput_only)


def compare_sweeps(
    sweeps: Sequence[Sweep], summaries: Sequence[Summary], *, throughput_only: bool = False
) -> Comparison:
    """Compare results that are loaded and summarized with the first of them; the caller knows that they are alike."""
    read = [one.frames for one in sweeps]
    sides = [Side(*side) for side in zip(compatibility.labels(read), sweeps, summaries, strict=True)]
    return Comparison(
        labels=[side.label for side in sides],
        summaries=[side.summary for side in sides],
        differences=compatibility.differences(read),
        throughput_only=throughput_only,
        against=[_against(sides[0], other, throughput_only) for other in sides[1:]],
        fleet=None if throughput_only else _fleet(sides),
    )


def _against(first: Side, other: Side, throughput_only: bool) -> Against:
    wanted = QUANTITIES[:1] if throughput_only else QUANTITIES
    return Against(label=other.label, ratios=[one for quantity in wanted for one in ratios(first, other, quantity)])


def ratios(first: Side, other: Side, quantity: Quantity) -> list[Ratio]:
    """At every batch size that both sides have; the intervals are simultaneous over them (maximum of Student's t)."""
    if quantity == "time_to_target" and _same_trials(first.sweep.frames, other.sweep.frames):
        reached = set(first.sweep.sizes[np.isfinite(first.sweep.time.medians)].tolist())
        return _turned_over(ratios(first, other, "examples_per_second"), reached)
    shared, own, others = np.intersect1d(first.sweep.sizes, other.sweep.sizes, return_indices=True)
    left, right = first.locations(quantity), other.locations(quantity)
    with np.errstate(invalid="ignore"):
        difference = right.medians[others] - left.medians[own]
        errors = _shuffled(right.errors)[:, others] - left.errors[:, own]
    usable = np.isfinite(difference)
    reach = np.full(len(shared), np.nan)
    reach[usable] = _simultaneous_reach(errors[:, usable])
    return [
        _ratio(quantity, int(size), difference[at], reach[at])
        for at, size in enumerate(shared)
        if not np.isnan(left.medians[own[at]]) and not np.isnan(right.medians[others[at]])
    ]


def _same_trials(first: Frames, other: Frames) -> bool:
    """Whether both join their speeds with the very same training runs, whose scatter then cancels."""
    return len(first.trials) > 0 and first.trials.equals(other.trials)


def _turned_over(speeds: list[Ratio], reached: set[int]) -> list[Ratio]:
    """Ratios of time where steps are the same ones: those of speed, inverted."""
    return [
        msgspec.structs.replace(
            ratio,
            quantity="time_to_target",
            value=1 / ratio.value if ratio.value else None,
            interval=tuple(1 / end if end else None for end in reversed(ratio.interval)),
        )
        for ratio in speeds
        if ratio.batch_size in reached
    ]


def _shuffled(errors: Array) -> Array:
    """The draws in another order: both sides are located with the same random numbers, yet err independently."""
    return np.random.default_rng(SEED).permutation(errors, axis=0)


def _simultaneous_reach(errors: Array) -> Array:
    """How far the intervals (cells,) reach to either side so that all hold together with 95% confidence."""
    if not errors.shape[1]:
        return np.empty(0)
    scale = np.maximum(np.sqrt(np.mean(errors**2, axis=0)), 1e-12)
    return scale * np.quantile(np.max(np.abs(errors) / scale, axis=1), LEVEL)


def _ratio(quantity: Quantity, batch_size: int, difference: float, reach: float) -> Ratio:
    ends = exp(np.array([difference - reach, difference + reach]))
    low, high = finite(ends[0]), finite(ends[1])
    value = finite(np.exp(difference)) if np.isfinite(difference) else None
    outcome = _outcome(quantity, difference, reach)
    return Ratio(quantity=quantity, batch_size=batch_size, value=value, interval=(low, high), outcome=outcome)


def _outcome(quantity: Quantity, difference: float, reach: float) -> Outcome:
    """A side that never reaches the target where the other does is slower (or more) beyond any ratio."""
    below, above = BETTER[quantity]
    if np.isinf(difference):
        return above if difference > 0 else below
    if np.isnan(difference) or np.isnan(reach):
        return "not comparable"
    if abs(difference) <= max(reach, np.log1p(LEAST_DIFFERENCE)):
        return "same"
    return above if difference > 0 else below


def _fleet(sides: Sequence[Side]) -> Fleet | None:
    """Least greatest loss over the batch sizes that every side brings to the target."""
    times = [dict(zip(side.sweep.sizes.tolist(), side.sweep.time.medians, strict=True)) for side in sides]
    reached = [{size for size, log in one.items() if np.isfinite(log)} for one in times]
    shared = sorted(set.intersection(*reached))
    if not shared:
        return None
    least = [min(one[size] for size in found) for one, found in zip(times, reached, strict=True)]
    losses = {
        size: [float(np.expm1(one[size] - low)) for one, low in zip(times, least, strict=True)] for size in shared
    }
    best = min(shared, key=lambda size: max(losses[size]))
    named = dict(zip([side.label for side in sides], losses[best], strict=True))
    return Fleet(batch_size=best, greatest_loss=max(losses[best]), losses=named)


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
