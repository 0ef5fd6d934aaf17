"""The types of `summary.json`, schema 2: every kind of answer, with its interval and the data that it rests on."""

from __future__ import annotations

from typing import Literal

import msgspec

from batchscale.analysis.summary_parts import (
    Ceilings,
    LearningRates,
    Looks,
    Part,
    Recommended,
    ScoreSurface,
    TimeBudget,
    Totals,
)
from batchscale.config.goal import Goal
from batchscale.config.vocabulary import Loop, Phase
from batchscale.records.curves import CountedIn
from batchscale.statistics.estimate import Estimate, Interval

Regime = Literal["below_useful_range", "perfect_scaling", "diminishing_returns", "saturated"]
"""How a batch size scales. Below the useful range, it needs more examples than a larger batch size. With perfect
scaling, it needs at most 20% more examples than the least: E_min of the fit or, without a fit, the fewest at any batch
size up to this one. Saturated, it needs at most 20% more steps than the least: S_min of the fit. Otherwise, returns
diminish."""

Limit = Literal["arithmetic", "copying", "fixed_cost"]
"""A lower bound of the time of a step: its arithmetic or its bytes at the calibrated rates, or its fixed cost."""


class Workload(Part, frozen=True, kw_only=True):
    """What was trained."""

    dataset: str
    model: str
    optimizer: str


class Optimum(Part, frozen=True, kw_only=True):
    """The best batch size by one metric.

    Attributes:
        batch_size: the best by its median.
        interval: 95% interval of the quantity at the best batch size.
        tied: the batch sizes that `test` cannot distinguish from the best, the best included.
        at_edge: True if the best is at an end of the sweep, unless memory ends it there or, of several, the best is 1.
        edge: the end at which the best is; "only" where a single batch size was measured.
        margin: how much worse the next best is: a fraction of the best or, for accuracies, the difference.
        next_best: the batch size that `margin` is about.
        metric: the quantity compared, in words.
        test: how `tied` was found, in words.
        level: confidence of the interval and of the test.
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
    """The batch size whose typical run takes the least time to the target, `seconds`.

    `recommended` is the batch size to take, with its bound; null where nothing was repeated.
    `fitted_batch_size` is B*, where the fitted curves put the least time, and `fitted_interval` its 95% interval.
    """

    seconds: float
    recommended: Recommended | None = None
    fitted_batch_size: float | None = None
    fitted_interval: Interval | None = None


ScoreClaim = Literal["within this budget", "levelled off"]
"""How far a claim on the best score reaches: longer training may change it, or the budget was long enough."""


class ScoreOptimal(Optimum, frozen=True, kw_only=True):
    """The batch size with the best validation score in a budget.

    Attributes:
        score: the median over seeds of the best score of a run.
        budget: the budget, in words.
        claim: "levelled off" where the budget was long enough for the curve of every batch size to level off.
        still_improving: the batch sizes whose curves are not shown to have levelled off.
        examples_error: the standard error of the score because validation examples are few. All batch sizes share it,
            so ties do not contain it. Null where the rows do not hold the spread over examples.
        tolerance, within_tolerance: a share of the score, and the batch sizes within it; null where none was given.
    """

    score: float
    budget: str
    tolerance: float | None = None
    within_tolerance: list[int] | None = None
    claim: ScoreClaim = "within this budget"
    still_improving: list[int] = msgspec.field(default_factory=list)
    examples_error: float | None = None


class ThroughputOptimal(Optimum, frozen=True, kw_only=True):
    """The batch size with the most `examples_per_second` in the median, and the smallest with at least 95% of it."""

    examples_per_second: float
    smallest_within_5_percent: int


class MaxBatchSize(Part, frozen=True, kw_only=True):
    """The largest batch size whose training step fits.

    Attributes:
        batch_size: the largest that fits.
        bound: the limit that ends the search there. If it is the training set, memory might hold more.
        confirmed: True if a step of this batch size was run.
        predicted_bytes: memory of the step as the compiler predicts it.
        memory_bytes: memory that was free.
    """

    batch_size: int
    bound: Literal["memory", "training_set"]
    confirmed: bool
    predicted_bytes: int | None
    memory_bytes: int


class EnergyOptimal(Optimum, frozen=True, kw_only=True):
    """The batch size with the least energy to the target; `joules` is the estimate of it."""

    joules: float


class CostOptimal(Optimum, frozen=True, kw_only=True):
    """The batch size with the least `cost` to the target: median hours times `price_per_hour`, in its currency."""

    cost: float
    price_per_hour: float


class Fit(Part, frozen=True, kw_only=True):
    """A fitted curve with one knee.

    Attributes:
        interval: 95% interval of the knee.
        fit_error: root mean square of the relative residuals.
        batch_sizes: those that were fitted.
        outliers: those of `batch_sizes` that have no influence on the fit.
    """

    interval: Interval
    fit_error: float
    batch_sizes: list[int]
    outliers: list[int]


class CriticalBatchSize(Fit, frozen=True, kw_only=True):
    """The fit of S(B) = S_min (1 + B_crit / B) steps, E(B) = E_min (1 + B / B_crit) examples (McCandlish et al., 2018).

    Attributes:
        value: B_crit, the knee, in examples.
        steps_min: S_min, the steps that an infinite batch would need.
        examples_min: E_min, the examples that the smallest batch would need.
    """

    value: float
    steps_min: float
    examples_min: float


class AffineStepTime(Fit, frozen=True, kw_only=True):
    """The fit of seconds per step = alpha + beta B.

    Attributes:
        alpha_seconds: the fixed cost of a step.
        beta_seconds: the cost of each example.
        knee_batch_size: alpha / beta, where both costs are equal.
    """

    alpha_seconds: float
    beta_seconds: float
    knee_batch_size: float


class GradientNoise(Part, frozen=True, kw_only=True):
    """The gradient noise scale B_simple = tr(Sigma) / |G|^2, both averaged before division (McCandlish et al., 2018).

    Attributes:
        value: B_simple over the whole of training, in examples.
        interval: 95% interval from resampling trials; unknown with one trial.
        start, end: B_simple in the first and last stretch of training; null where noise made an estimate negative.
        trials, batch_sizes: how many trials it is from, and their batch sizes.
        ratio_to_critical: `value` over the critical batch size.
    """

    value: float
    interval: Interval
    start: float | None
    end: float | None
    trials: int
    ratio_to_critical: float | None = None
    batch_sizes: list[int] | None = None


class Verdict(Part, frozen=True, kw_only=True):
    """The verdict of the rows on one claim of the 2015 experiment, with the numbers that it rests on, in words."""

    claim: int
    statement: str
    verdict: Literal["supported", "contradicted", "undecided"]
    numbers: str


class FurtherTarget(Part, frozen=True, kw_only=True):
    """The answer for another threshold of the goal's score, from the same curves.

    Targets harder than the experiment's are judged within the epoch budget, since trials may stop there. If the best
    rate for this target differs from the confirmed one, only search seeds exist for it.

    Attributes:
        threshold: the target.
        reached: batch sizes that reached it in the median.
        unconfirmed: those of `reached` whose rate has search seeds alone.
        within_epochs: epochs that every trial was given to reach it.
        time_optimal, time_optimal_reason: the batch size with the least time to it, or why there is none.
        critical_batch_size, critical_batch_size_reason: the fit of the examples to it, or why there is none.
    """

    threshold: float
    reached: list[int]
    unconfirmed: list[int] = msgspec.field(default_factory=list)
    within_epochs: float | None = None
    time_optimal: TimeOptimal | None
    time_optimal_reason: str | None
    critical_batch_size: CriticalBatchSize | None
    critical_batch_size_reason: str | None


class Trend(Part, frozen=True, kw_only=True):
    """The relative `change` of a series from the first to the last round, and the p-value of a Mann-Kendall test."""

    change: float
    p_value: float


class CellTrend(Trend, frozen=True, kw_only=True):
    """The trend of the seconds per step of one timed cell, whose fields are those of `CellKey`."""

    batch_size: int
    loop: str
    input: str
    precision: str
    devices: int
    accumulation: int


class Drift(Part, frozen=True, kw_only=True):
    """Whether timed rounds became slower or faster.

    Attributes:
        rounds: how many were timed.
        together: trend of the median over all timed cells.
        drifts: True if that trend is significant and at least 2%.
        cells: the single cells with a significant trend, corrected for their number.
        throttled: True if the clock of the device fell significantly.
        clock_mhz, celsius: clock and temperature of the device in the first and in the last round.
        off_clock: rounds whose clock is more than 3% from the median of all rounds.
        disturbed: rounds during which other processes computed on the device.
    """

    rounds: int
    together: Trend
    drifts: bool
    cells: list[CellTrend]
    throttled: bool = False
    clock_mhz: tuple[float, float] | None = None
    celsius: tuple[float, float] | None = None
    off_clock: int = 0
    disturbed: int = 0


class ParallelPoint(Part, frozen=True, kw_only=True):
    """A batch in equal parts on several devices, joined with the training runs at that batch size.

    Attributes:
        devices, batch_size: how many devices share a batch, and the examples of the whole batch.
        examples_per_second: speed of all devices together.
        strong_efficiency: speed over `devices` times the speed of one device at the same batch size.
        weak_efficiency: speed over `devices` times the speed of one device at its part of the batch.
        updates_per_epoch: training examples over the batch size.
        epochs_to_target, time_to_target: medians at this batch size, in epochs and seconds.
        epochs_ratio: `epochs_to_target` over the epochs at one device's part of the batch.
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


Status = Literal["ok", "diverged", "out_of_memory", "not_reached", "failed", "not_measured"]
"""The outcome at a batch size; "ok" means that it was timed and that its typical run reached the target."""


class BatchSizeSummary(Part, frozen=True, kw_only=True):
    """One batch size. A value that was not measured or not reached is null; `status` gives the reason.

    Attributes:
        batch_size, batch_size_tokens: examples of a step, and their tokens where the data is text.
        status, message: the outcome, and more about it, such as the error of a step that failed.
        loop: the faster way to run steps, whose times are used.
        accumulation: microbatches of a step; more than 1 only where the whole batch does not fit.
        examples_per_second, examples_per_second_interval: median over rounds, and its 95% interval.
        seconds_per_step, seconds_per_epoch: median over rounds; a table may time epochs instead of steps.
        best_learning_rate, best_options: rate and searched options with the fewest median examples to the target.
        best_learning_rate_for_score, best_options_for_score: those with the best score in the epoch budget.
        at_grid_edge, at_grid_edge_for_score: True if these rates are at the edge of the rates tried.
        claims_on: phase of the trials that the numbers rest on.
        seeds, seeds_reached: how many trials these are, and how many of them reached the target.
        tokens_per_second, tokens_to_target: of these examples, and until the target, where the data is text.
        epochs_to_target, steps_to_target: epochs and steps after which the typical run reached the target.
        first_evaluation_epochs: median over seeds of the epochs at the first evaluation that reached it.
        typical_run: False where first evaluations stand for it, because runs crossed before the curve begins.
        doubt: why the examples to the target are not to be trusted, in words.
        time_to_target, joules_to_target, cost_to_target: seconds, joules, and cost in the currency of the price.
        best_score, best_score_by_steps: best validation score in the epoch and in the step budget.
        levelled_off: True where the budget was long enough for the curve to level off; null where it is not known.
        best_averaged_score: best validation score of the averaged parameters in the epoch budget.
        averaged_score_gain: how much averaging the parameters improves the best score, run by run.
        test_score: median score on the test split; nothing was chosen by it.
        regime: how it scales.
        compile_seconds: time to compile the timed step.
        peak_bytes, predicted_bytes: most memory in use once the step had run, and memory as the compiler predicts it.
        achieved_flops_per_second, fraction_of_peak: FLOPs of the model per second, and over the calibrated rate.
        flops_per_byte: FLOPs of the model per byte that the program reads or writes.
        limited_by: the limit of the machine that explains most of a step, where it explains half or more.
        limit_share: the share of the time of a step that the nearest limit explains.
    """

    batch_size: int
    batch_size_tokens: int | None = None
    status: Status
    message: str | None = None
    loop: Loop | None
    accumulation: int | None = None
    examples_per_second: float | None
    examples_per_second_interval: Interval = (None, None)
    tokens_per_second: float | None = None
    seconds_per_step: float | None
    seconds_per_epoch: float | None = None
    best_learning_rate: float | None
    best_options: dict[str, float] = msgspec.field(default_factory=dict)
    best_learning_rate_for_score: float | None = None
    best_options_for_score: dict[str, float] = msgspec.field(default_factory=dict)
    at_grid_edge: bool | None
    at_grid_edge_for_score: bool | None = None
    claims_on: Phase | None = None
    seeds: int = 0
    seeds_reached: int = 0
    epochs_to_target: Estimate
    steps_to_target: Estimate
    tokens_to_target: Estimate | None = None
    first_evaluation_epochs: float | None = None
    typical_run: bool = True
    doubt: str | None = None
    time_to_target: Estimate
    joules_to_target: Estimate | None = None
    cost_to_target: Estimate | None = None
    best_score: Estimate
    levelled_off: bool | None = None
    best_score_by_steps: Estimate | None = None
    best_averaged_score: Estimate | None = None
    averaged_score_gain: Estimate | None = None
    test_score: float | None = None
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
        """Memory of the step: the compiler's prediction, or else the peak, which earlier batch sizes may have set."""
        return self.predicted_bytes or self.peak_bytes


class Summary(Part, frozen=True, kw_only=True):
    """All answers of a results folder. An answer that the rows do not support is null; `<name>_reason` explains it.

    Attributes:
        schema: version of this format.
        experiment, title, machine, workload: the names of what was measured, and where.
        goal, scored: the validation score to reach; where no target was given, `scored` has the metric, no threshold.
        train_examples: examples in an epoch; null where imported tables do not give them.
        counted_in: what the training of all runs is counted in; only from examples do steps follow.
        steps_reason, epochs_reason: why steps, or epochs, to the target are not known; null where they are.
        tokens_per_example: tokens of an example, a window of text; null where the data is no text.
        claims_on, seeds: the surest phase of trials, and the most trials, that any batch size rests on.
        looks: how seeds were spent where they are undecided; null where every batch size got as many.
        notice: what the experiment asks every reader to know.
        convergence_from, speeds_from: the machine whose training runs, or table or folder whose speeds, were joined.
        trained_on: the machines that trained before the run was continued on this one.
        evaluation_quantum_epochs: the widest gap between the two evaluations around a crossing of the target.
        time_optimal, score_optimal: least time to the target; best score in the epoch budget.
        score_surface: where the fitted surface of final scores over batch size and rate is best.
        time_budgets, within: best score within times of training; the same for a time that was asked for.
        score_optimal_by_steps: best score in the steps that the largest batch size takes in that budget.
        throughput_optimal, max_batch_size: most examples per second; largest batch size that fits.
        energy_optimal, price_per_hour, cost_optimal: least energy; the price that the user gave; least cost.
        critical_batch_size, affine_step_time: fits of the steps to the target and of the seconds per step.
        learning_rates, gradient_noise: how the best rate changes with the batch size; the gradient noise scale.
        ceilings, drift: calibrated rates of the machine; whether timed rounds became slower or faster.
        cells, data_parallel: every batch size, smallest first; every batch that was timed on several devices.
        virtual_devices: True if these devices share the cores of one processor.
        further_targets, verdicts: answers for other targets; verdicts on the claims of the 2015 experiment.
        totals: the cost of measuring.
    """

    schema: Literal[2] = 2
    experiment: str
    title: str
    machine: str
    workload: Workload
    goal: Goal | None
    scored: Goal | None = None
    train_examples: int | None
    counted_in: CountedIn = "examples"
    steps_reason: str | None = None
    epochs_reason: str | None = None
    tokens_per_example: int | None = None
    claims_on: Phase | None
    seeds: int
    looks: Looks | None = None
    notice: str = ""
    convergence_from: str | None = None
    speeds_from: str | None = None
    trained_on: list[str] = msgspec.field(default_factory=list)
    evaluation_quantum_epochs: float | None = None
    time_optimal: TimeOptimal | None
    time_optimal_reason: str | None = None
    score_optimal: ScoreOptimal | None
    score_optimal_reason: str | None = None
    score_surface: ScoreSurface | None = None
    score_surface_reason: str | None = None
    time_budgets: list[TimeBudget] = msgspec.field(default_factory=list)
    within: TimeBudget | None = None
    score_optimal_by_steps: ScoreOptimal | None
    score_optimal_by_steps_reason: str | None = None
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

    @property
    def example(self) -> str:
        """What a reader calls an example: a window, where the data is text."""
        return "window" if self.tokens_per_example else "example"

    def known(self, quantity: str) -> list[BatchSizeSummary]:
        """Return the batch sizes whose estimate named `quantity` has a finite median, smallest first."""
        found = [cell for cell in self.cells if (estimate := getattr(cell, quantity)) and estimate.median is not None]
        return sorted(found, key=lambda cell: cell.batch_size)
