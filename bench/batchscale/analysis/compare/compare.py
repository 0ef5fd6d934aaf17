"""Compare results of one workload: ratios with intervals, a verdict for each, and one batch size for all."""

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
from batchscale.analysis.summary.build import summarize
from batchscale.analysis.summary_types import Interval, Summary
from batchscale.errors import InputError
from batchscale.statistics.intervals import LEVEL, SEED, Array, Locations, exp, finite

LEAST_DIFFERENCE = 0.03
"""Relative difference up to which two results count as equal. Two runs of one program on one machine may differ by this
much, even if the rounds within each run agree."""
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
        """Return the logarithms of a quantity at each batch size."""
        if quantity == "examples_per_second":
            return _inverse(self.sweep.step_seconds.shifted(-self.sweep.log_sizes))
        return self.sweep.time if quantity == "time_to_target" else self.sweep.energy

    @property
    def speed(self) -> Locations:
        """The logarithms of the units of training per second at each batch size."""
        return _inverse(self.sweep.pace)


def _inverse(seconds: Locations) -> Locations:
    return Locations(-seconds.medians, -seconds.centres, -seconds.errors, -seconds.draws)


def compare(folders: Sequence[Path], *, throughput_only: bool = False, within: float | None = None) -> Comparison:
    """Compare results folders with the first of them.

    Args:
        folders: two or more.
        throughput_only: whether to compare speeds alone.
        within: a time in seconds, for which the batch size with the best score is wanted too.

    Raises:
        InputError: on fewer than two folders, a folder that cannot be read, or unlike workloads, targets or protocols.
    """
    if len(folders) < 2:
        raise InputError(f"compare: {len(folders)} results folders, expected two or more")
    read = [frames.load(folder) for folder in folders]
    compatibility.refuse_unlike([str(folder) for folder in folders], read, throughput_only=throughput_only)
    sweeps = [Sweep.of(one) for one in read]
    return compare_sweeps(sweeps, [summarize(one, within) for one in sweeps], throughput_only=throughput_only)


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
    """Return the ratio at every batch size of both sides, with simultaneous intervals (maximum of Student's t)."""
    if quantity == "time_to_target" and _same_trials(first.sweep.frames, other.sweep.frames):
        reached = set(first.sweep.sizes[np.isfinite(first.sweep.time.medians)].tolist())
        return _turned_over(_ratios(first, other, "examples_per_second", first.speed, other.speed), reached)
    return _ratios(first, other, quantity, first.locations(quantity), other.locations(quantity))


def _ratios(first: Side, other: Side, quantity: Quantity, left: Locations, right: Locations) -> list[Ratio]:
    shared, own, others = np.intersect1d(first.sweep.sizes, other.sweep.sizes, return_indices=True)
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
    """Return True if both sides join their speeds with the same training runs, whose scatter then cancels."""
    return len(first.trials) > 0 and first.trials.equals(other.trials)


def _turned_over(speeds: list[Ratio], reached: set[int]) -> list[Ratio]:
    """Return the ratios of time when both sides have the same training runs.

    The steps are then equal, so these are the inverse ratios of speed.
    """
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
    """Shuffle draws: both sides are located with the same random numbers, but their errors are independent."""
    return np.random.default_rng(SEED).permutation(errors, axis=0)


def _simultaneous_reach(errors: Array) -> Array:
    """Return the half-widths of intervals (sizes,) that all hold together with 95% confidence."""
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
    """Judge a difference of logarithms. It is infinite where only one side reaches the target."""
    below, above = BETTER[quantity]
    if np.isinf(difference):
        return above if difference > 0 else below
    if np.isnan(difference) or np.isnan(reach):
        return "not comparable"
    if abs(difference) <= max(reach, np.log1p(LEAST_DIFFERENCE)):
        return "same"
    return above if difference > 0 else below


def _fleet(sides: Sequence[Side]) -> Fleet | None:
    """Find the batch size whose largest loss on any side is smallest.

    Only batch sizes that reach the target on every side are considered.
    """
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
    """The value of another side over that of the first side.

    Attributes:
        quantity: the quantity compared.
        batch_size: where.
        value: the ratio; null where one side never reached the target.
        interval: 95% interval that holds for all batch sizes together.
        outcome: the verdict, in the words of the quantity.
    """

    quantity: Quantity
    batch_size: int
    value: float | None
    interval: Interval
    outcome: Outcome


class Against(msgspec.Struct, frozen=True, kw_only=True):
    """One side compared with the first: its label and its ratios."""

    label: str
    ratios: list[Ratio]


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """One batch size for all sides: its largest loss on any side is the smallest possible.

    Attributes:
        batch_size: this batch size.
        greatest_loss: its largest loss of time to the target, as a fraction of the best of that side.
        losses: its loss on every side, by label.
    """

    batch_size: int
    greatest_loss: float
    losses: dict[str, float]


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """The comparison of several results folders with the first.

    Attributes:
        schema: version of this format.
        labels: name of each side.
        summaries: summary of each side.
        differences: settings in which the sides differ, in words.
        throughput_only: True if only speeds were compared.
        against: each other side compared with the first.
        fleet: one batch size for all sides; null if no batch size reaches the target on every side.
        level: confidence of the intervals.
    """

    schema: Literal[1] = 1
    labels: list[str]
    summaries: list[Summary]
    differences: list[str]
    throughput_only: bool
    against: list[Against]
    fleet: Fleet | None
    level: float = LEVEL

    def slower_than(self, fraction: float) -> list[str]:
        """Return a line for each batch size at which a side has fewer examples per second by more than `fraction`."""
        return [
            f"{side.label}: batch size {ratio.batch_size}: {ratio.value:.3f} times the examples per second"
            for side in self.against
            for ratio in side.ratios
            if ratio.quantity == "examples_per_second"
            and ratio.outcome == "slower"
            and ratio.value is not None
            and ratio.value < 1 - fraction
        ]
