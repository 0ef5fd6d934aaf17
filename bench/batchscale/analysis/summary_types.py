"""What a summary is made of: every kind of answer with what it rests on."""

from __future__ import annotations

from typing import Literal

import msgspec

from batchscale.config.vocabulary import Loop, Phase

Interval = tuple[float | None, float | None]
"""A 95% interval; an end that is infinite, or not known, is null."""

Regime = Literal["below_useful_range", "perfect_scaling", "diminishing_returns", "saturated"]

Limit = Literal["arithmetic", "copying", "fixed_cost"]
"""What a step takes at least: its arithmetic at the machine's rate, its bytes at the machine's, or its fixed cost."""

Rule = Literal["sqrt", "linear", "none", "sqrt or linear", "neither", "undecided"]


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of a summary."""


class Estimate(Part, frozen=True, kw_only=True):
    """A median over seeds (null = infinite: not reached) with its interval."""

    median: float | None
    interval: Interval


class Workload(Part, frozen=True, kw_only=True):
    """What was trained."""

    dataset: str
    model: str
    optimizer: str


class Optimum(Part, frozen=True, kw_only=True):
    """What every optimum says of itself.

    `interval` is that of the quantity compared, `batch_size_interval` the span of `tied`, the batch sizes that `test`
    cannot tell from the best at `level`. `margin` is how far the next best lies behind: a fraction of the best, or,
    for accuracies, the difference. `edge` says at which end the best lies; at_edge is true where the sweep, and not
    the machine's memory, is what ends there.
    """

    batch_size: int
    interval: Interval
    tied: list[int]
    at_edge: bool
    edge: Literal["smallest", "largest", "memory", "only"] | None = None
    margin: float | None = None
    next_best: int | None = None
    metric: str
    test: str
    level: float = 0.95


class TimeOptimal(Optimum, frozen=True, kw_only=True):
    """The batch size with the least time to the target."""

    seconds: float
    fitted_batch_size: float | None = None
    fitted_interval: Interval | None = None


class AccuracyOptimal(Optimum, frozen=True, kw_only=True):
    """The batch size with the best accuracy under `budget`."""

    accuracy: float
    budget: str


class ThroughputOptimal(Optimum, frozen=True, kw_only=True):
    """The batch size with the most examples per second, and the smallest one nearly as fast."""

    examples_per_second: float
    smallest_within_5_percent: int


class MaxBatchSize(Part, frozen=True, kw_only=True):
    """The largest batch size whose step fits into `memory_bytes`; `confirmed` where a real step of it was run.

    `bound` says what ends there; where that is the training set, memory might hold more.
    """

    batch_size: int
    bound: Literal["memory", "training_set"]
    confirmed: bool
    predicted_bytes: int | None
    memory_bytes: int


class EnergyOptimal(Optimum, frozen=True, kw_only=True):
    """The batch size with the least energy to the target."""

    joules: float


class CostOptimal(Optimum, frozen=True, kw_only=True):
    """The least `cost` to the target, in the currency of `price_per_hour`: time to the target at that price."""

    cost: float
    price_per_hour: float


class CriticalBatchSize(Part, frozen=True, kw_only=True):
    """B_crit = `value` of S(B) = S_min (1 + B_crit / B) and, the same fit, E(B) = E_min (1 + B / B_crit).

    `fit_error` is the root mean square of the relative residuals.
    """

    value: float
    interval: Interval
    fit_error: float
    steps_min: float
    examples_min: float
    batch_sizes: list[int]
    outliers: list[int]


class AffineStepTime(Part, frozen=True, kw_only=True):
    """Seconds per step = alpha + beta B; the knee alpha / beta is where fixed and growing costs are equal."""

    alpha_seconds: float
    beta_seconds: float
    knee_batch_size: float
    interval: Interval
    fit_error: float
    batch_sizes: list[int]
    outliers: list[int]


class Exponent(Part, frozen=True, kw_only=True):
    """p of a quantity ~ B^p over some batch sizes."""

    value: float
    interval: Interval
    batch_sizes: list[int]


class LearningRates(Part, frozen=True, kw_only=True):
    """How the best rate moves with the batch size; `rule` is what the interval of `overall` allows.

    Of `effective` rates where momentum was searched beside the rate.
    """

    overall: Exponent | None
    rule: Rule
    at_grid_edge: list[int]
    effective: bool = False


class GradientNoise(Part, frozen=True, kw_only=True):
    """B_simple = tr(Sigma) / |G|^2, both averaged before they are divided (McCandlish et al., 2018)."""

    value: float
    interval: Interval
    start: float | None
    end: float | None
    trials: int
    ratio_to_critical: float | None = None
    batch_sizes: list[int] | None = None


class Verdict(Part, frozen=True, kw_only=True):
    """What the rows say of one claim of the reference experiment."""

    claim: int
    statement: str
    verdict: Literal["supported", "contradicted", "undecided"]
    numbers: str


class FurtherTarget(Part, frozen=True, kw_only=True):
    """The same question asked of another accuracy, read from the same curves.

    A harder one than the experiment's own is read within the budget of epochs: runs that have that one may end there.
    Where its best learning rate is another one, that has no confirmation seeds: batch sizes of which that holds are
    `unconfirmed`, and stand on the seeds that chose the rate.
    """

    accuracy: float
    reached: list[int]
    unconfirmed: list[int] = []
    within_epochs: float | None = None
    time_optimal: TimeOptimal | None
    time_optimal_reason: str | None
    critical_batch_size: CriticalBatchSize | None
    critical_batch_size_reason: str | None


class Ceilings(Part, frozen=True, kw_only=True):
    """What the machine did at best, by a short calibration; null where that was not measured."""

    matmul_flops_per_second: float | None = None
    copy_bytes_per_second: float | None = None
    timer_resolution_seconds: float | None = None


class Trend(Part, frozen=True, kw_only=True):
    """How a series changed from its first to its last value, relatively, and the probability of that without trend."""

    change: float
    p_value: float


class CellTrend(Trend, frozen=True, kw_only=True):
    """The trend of one timed cell's seconds per step."""

    batch_size: int
    loop: str
    input: str
    precision: str
    devices: int
    accumulation: int


class Drift(Part, frozen=True, kw_only=True):
    """Whether timed rounds grew slower: all cells `together`, and the single `cells` whose trend is beyond doubt.

    `clock_mhz` and `celsius` are what the device told in the first and in the last round; it `throttled` where its
    clock fell from round to round.
    """

    rounds: int
    together: Trend
    drifts: bool
    cells: list[CellTrend]
    throttled: bool = False
    clock_mhz: tuple[float, float] | None = None
    celsius: tuple[float, float] | None = None


class ParallelPoint(Part, frozen=True, kw_only=True):
    """A batch in equal parts on several devices, joined with the training runs at that batch size.

    Efficiencies are the speed over `devices` times that of one device: `strong` at the same batch, `weak` at a
    device's part of it. `epochs_ratio` is the epochs to the target over those at a device's part: with K workers an
    epoch has 1/K of the updates, and this is claimed to stay at or below K.
    """

    devices: int
    batch_size: int
    examples_per_second: float
    strong_efficiency: float | None
    weak_efficiency: float | None
    updates_per_epoch: float | None
    epochs_to_target: float | None
    epochs_ratio: float | None
    time_to_target: float | None


class Totals(Part, frozen=True, kw_only=True):
    """What the measuring itself cost; `compile_seconds` are those of the timed programs, the rest is of all stages."""

    compilations: int
    compile_seconds: float
    throughput_seconds: float
    convergence_seconds: float
    trials: int
    trained_examples: int


SCHEMA = 1


Status = Literal["ok", "diverged", "out_of_memory", "not_reached", "failed", "not_measured"]


class BatchSizeSummary(Part, frozen=True, kw_only=True):
    """One batch size. What was not measured or not reached is null, and `status` says why.

    `limit_share` is how much of a step's time the nearest limit of the machine explains, and `limited_by` that limit
    where it is half or more. `best_ema_accuracy` is of the averaged parameters, where an average was kept, and
    `ema_accuracy_gain` the median over seeds of what it is better by than `best_accuracy` in the same run.
    """

    batch_size: int
    status: Status
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
    cells: list[BatchSizeSummary]
    data_parallel: list[ParallelPoint] = msgspec.field(default_factory=list)
    virtual_devices: bool = False
    further_targets: list[FurtherTarget] = msgspec.field(default_factory=list)
    verdicts: list[Verdict] = msgspec.field(default_factory=list)
    totals: Totals

    def known(self, quantity: str) -> list[BatchSizeSummary]:
        """The batch sizes whose `quantity` has a finite median, smallest first."""
        found = [cell for cell in self.cells if (estimate := getattr(cell, quantity)) and estimate.median is not None]
        return sorted(found, key=lambda cell: cell.batch_size)
