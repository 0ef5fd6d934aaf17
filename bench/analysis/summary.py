"""`summary.json`, schema 1: the answer, in numbers, with what each rests on."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from bench import store
from bench.analysis.answers import (
    AccuracyOptimal,
    AffineStepTime,
    Ceilings,
    CellTrend,
    CostOptimal,
    CriticalBatchSize,
    Drift,
    EnergyOptimal,
    EnergyTimeOptimal,
    Estimate,
    FurtherTarget,
    GradientNoise,
    Interval,
    LearningRates,
    Limit,
    MaxBatchSize,
    Optimum,
    ParallelPoint,
    Part,
    Phase,
    ReferenceRow,
    Regime,
    ThroughputOptimal,
    TimeOptimal,
    Totals,
    Trend,
    Verdict,
    Workload,
)
from bench.decoding import read_json
from bench.rows import Loop

# Readers of summaries need one import.
__all__ = [
    "SCHEMA",
    "AccuracyOptimal",
    "AffineStepTime",
    "Ceilings",
    "CellStatus",
    "CellSummary",
    "CellTrend",
    "CostOptimal",
    "CriticalBatchSize",
    "Drift",
    "EnergyOptimal",
    "EnergyTimeOptimal",
    "Estimate",
    "FurtherTarget",
    "GradientNoise",
    "Interval",
    "LearningRates",
    "Limit",
    "MaxBatchSize",
    "Optimum",
    "ParallelPoint",
    "Part",
    "Phase",
    "ReferenceRow",
    "Regime",
    "Summary",
    "ThroughputOptimal",
    "TimeOptimal",
    "Totals",
    "Trend",
    "Verdict",
    "Workload",
    "read",
    "write",
]

SCHEMA = 1
LARGEST_FILE_BYTES = 32 << 20

CellStatus = Literal["ok", "diverged", "out_of_memory", "not_reached", "failed", "not_measured"]


class CellSummary(Part, frozen=True, kw_only=True):
    """One batch size. What was not measured or not reached is null, and `status` says why.

    `limit_share` is how much of a step's time the nearest limit of the machine explains, and `limited_by` that limit
    where it is half or more. `best_ema_accuracy` is of the averaged parameters, where an average was kept, and
    `ema_accuracy_gain` the median over seeds of what it is better by than `best_accuracy` in the same run.
    """

    batch_size: int
    status: CellStatus
    message: str | None = None
    loop: Loop | None
    accumulation: int | None = None
    examples_per_second: float | None
    examples_per_second_interval: Interval = (None, None)
    seconds_per_step: float | None
    best_learning_rate: float | None
    best_options: dict[str, float] = msgspec.field(default_factory=dict)
    best_learning_rate_for_accuracy: float | None = None
    best_options_for_accuracy: dict[str, float] = msgspec.field(default_factory=dict)
    at_grid_edge: bool | None
    at_grid_edge_for_accuracy: bool | None = None
    claims_on: Phase | None = None
    seeds: int = 0
    seeds_reached: int = 0
    epochs_to_target: Estimate
    steps_to_target: Estimate
    time_to_target: Estimate
    joules_to_target: Estimate | None = None
    cost_to_target: Estimate | None = None
    best_accuracy: Estimate
    best_accuracy_by_steps: Estimate | None = None
    best_ema_accuracy: Estimate | None = None
    ema_accuracy_gain: Estimate | None = None
    test_accuracy: float | None = None
    regime: Regime | None = None
    compile_seconds: float | None
    peak_bytes: int | None
    predicted_bytes: int | None = None
    achieved_flops_per_second: float | None = None
    fraction_of_peak: float | None = None
    flops_per_byte: float | None = None
    limited_by: Limit | None = None
    limit_share: float | None = None

    @property
    def memory_bytes(self) -> int | None:
        """What the compiler says its step needs, the same way for every cell; a peak is also what came before it."""
        return self.predicted_bytes or self.peak_bytes


class Summary(Part, frozen=True, kw_only=True):
    """Everything a results folder says. Each answer that nothing supports is null, and `<name>_reason` says why."""

    schema: Literal[1] = 1
    experiment: str
    title: str
    machine: str
    workload: Workload
    target_accuracy: float | None
    train_examples: int | None
    claims_on: Phase | None
    seeds: int
    notice: str = ""
    convergence_from: str | None = None
    speeds_from: str | None = None
    evaluation_quantum_epochs: float | None = None
    time_optimal: TimeOptimal | None
    time_optimal_reason: str | None = None
    accuracy_optimal: AccuracyOptimal | None
    accuracy_optimal_reason: str | None = None
    accuracy_optimal_by_steps: AccuracyOptimal | None
    accuracy_optimal_by_steps_reason: str | None = None
    throughput_optimal: ThroughputOptimal | None
    throughput_optimal_reason: str | None = None
    max_batch_size: MaxBatchSize | None = None
    max_batch_size_reason: str | None = None
    energy_optimal: EnergyOptimal | None = None
    energy_optimal_reason: str | None = None
    energy_time_optimal: EnergyTimeOptimal | None = None
    energy_time_optimal_reason: str | None = None
    price_per_hour: float | None = None
    cost_optimal: CostOptimal | None = None
    cost_optimal_reason: str | None = None
    critical_batch_size: CriticalBatchSize | None
    critical_batch_size_reason: str | None = None
    affine_step_time: AffineStepTime | None
    affine_step_time_reason: str | None = None
    learning_rates: LearningRates | None = None
    learning_rates_reason: str | None = None
    gradient_noise: GradientNoise | None = None
    gradient_noise_reason: str | None = None
    ceilings: Ceilings | None = None
    ceilings_reason: str | None = None
    drift: Drift | None = None
    drift_reason: str | None = None
    cells: list[CellSummary]
    data_parallel: list[ParallelPoint] = msgspec.field(default_factory=list)
    virtual_devices: bool = False
    further_targets: list[FurtherTarget] = msgspec.field(default_factory=list)
    verdicts: list[Verdict] = msgspec.field(default_factory=list)
    reference: list[ReferenceRow] = msgspec.field(default_factory=list)
    totals: Totals


def write(folder: Path, summary: Summary) -> Path:
    """Write `summary.json` in one move; returns its path.

    Raises:
        InputError: when the disk refuses.
    """
    path = folder / "summary.json"
    store.write_json(path, summary)
    return path


def read(folder: Path) -> Summary:
    """The validated `summary.json` of a results folder.

    Raises:
        InputError: when it is missing, too large or not valid.
    """
    return read_json(folder / "summary.json", Summary, LARGEST_FILE_BYTES)
