"""`summary.json`, schema 1: the answer, in numbers, with what each rests on."""

from __future__ import annotations

from typing import Literal

import msgspec

SCHEMA = 1


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """A median over seeds (null = infinite: not reached) with a 95% interval; an end that is infinite is null."""

    median: float | None
    interval: tuple[float | None, float | None]


class Optimum(msgspec.Struct, frozen=True, kw_only=True):
    """What every optimum says of itself."""

    batch_size: int
    interval: tuple[float | None, float | None]
    tied: list[int]
    at_edge: bool
    margin: float | None = None


class TimeOptimal(Optimum, frozen=True, kw_only=True):
    """The batch size with the least time to the target."""

    seconds: float
    fitted_batch_size: float | None = None


class AccuracyOptimal(Optimum, frozen=True, kw_only=True):
    """The batch size with the best accuracy under `budget`."""

    accuracy: float
    budget: str


class ThroughputOptimal(Optimum, frozen=True, kw_only=True):
    """The batch size with the most examples per second, and the smallest one nearly as fast."""

    examples_per_second: float
    smallest_within_5_percent: int


class EnergyOptimal(Optimum, frozen=True, kw_only=True):
    """The batch size with the least energy to the target."""

    joules: float


class CriticalBatchSize(msgspec.Struct, frozen=True, kw_only=True):
    """B_crit of S(B) = S_min (1 + B_crit / B)."""

    value: float
    interval: tuple[float | None, float | None]
    fit_error: float


class CellSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One batch size. What was not measured or not reached is null, and `status` says why."""

    batch_size: int
    status: Literal["ok", "diverged", "out_of_memory", "not_reached", "failed", "not_measured"]
    loop: str | None
    examples_per_second: float | None
    seconds_per_step: float | None
    best_learning_rate: float | None
    at_grid_edge: bool | None
    epochs_to_target: Estimate
    time_to_target: Estimate
    best_accuracy: Estimate
    compile_seconds: float | None
    peak_bytes: int | None
