"""Judge the nine claims of a widely read 2015 experiment by the rows of a folder, with the numbers in a sentence.

The experiment is LeNet on MNIST at batch sizes from 5000 to 1 (Cheng Yin, 2015, zhuanlan.zhihu.com/p/32673260).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from batchscale.analysis import number_format
from batchscale.analysis.frames.schema import only, values
from batchscale.analysis.metrics.observations import SAME_RATE
from batchscale.analysis.metrics.scaling import exponent, gradient_variances, why_no_learning_rates
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.summary_parts import LearningRates
from batchscale.analysis.summary_types import (
    BatchSizeSummary,
    GradientNoise,
    Optimum,
    ParallelPoint,
    Verdict,
)
from batchscale.statistics.intervals import Array, Locations, exp, interval

Finding = Literal["supported", "contradicted", "undecided"]

NOTICEABLE = 0.05
"""Relative differences below this are ignored."""
NEAR_THE_LAW = 0.25
"""Largest difference from an expected exponent that still supports it."""


class Judgement(NamedTuple):
    """A finding, and a sentence with the numbers that it rests on."""

    finding: Finding
    numbers: str


class Evidence(NamedTuple):
    """The answers that claims are judged by."""

    sweep: Sweep
    cells: Sequence[BatchSizeSummary]
    time: Optimum | None
    score: Optimum | None
    throughput: Optimum | None
    noise: GradientNoise | None
    rates: LearningRates | None
    shared: Sequence[ParallelPoint] = ()


def verdicts(evidence: Evidence) -> list[Verdict]:
    """Return one verdict for each claim, in order."""
    judged = [(statement, judge(evidence)) for statement, judge in CLAIMS.items()]
    return [
        Verdict(claim=number, statement=statement, verdict=one.finding, numbers=one.numbers)
        for number, (statement, one) in enumerate(judged, 1)
    ]


def small_batches_fail(evidence: Evidence) -> Judgement:
    """Judge whether the smallest batch sizes miss the target at one fixed rate; tuned runs show the cause."""
    of = evidence.sweep
    fixed = _at_the_fixed_rate(of)
    if not len(fixed):
        return Judgement("undecided", "No runs at one fixed learning rate for all batch sizes were made.")
    rate = number_format.point(values(fixed, "learning_rate")[0], dict(fixed["options"].iloc[0]))
    reached = fixed.groupby("batch_size")["examples_to_target"].median()
    missed = [int(size) for size, need in zip(reached.index, reached, strict=True) if np.isinf(need)]
    smallest = int(min(reached.index))
    tuned = [cell.batch_size for cell in evidence.cells if cell.epochs_to_target.median is not None]
    if smallest not in missed:
        return Judgement("contradicted", f"At the fixed rate {rate} even batch size {smallest:,} reached the target.")
    if len(missed) == len(reached):
        return Judgement(
            "undecided", f"At the fixed rate {rate} no batch size reached the target in the median, small or large."
        )
    saved = [size for size in missed if size in tuned]
    chosen = " and ".join(["the rate", *map(number_format.option, of.frames.experiment.searched)])
    cause = f"; with {chosen} tuned, {_list(saved)} reached it: the cause is {chosen}, not the size" if saved else ""
    return Judgement("supported", f"At the fixed rate {rate} batch sizes {_list(missed)} missed the target{cause}.")


def _at_the_fixed_rate(of: Sweep) -> pd.DataFrame:
    """Return the runs at the fixed rate of the experiment; a folder may hold runs at an earlier fixed rate."""
    trials, rate = of.frames.trials, of.frames.experiment.learning_rate.fixed
    if rate is None:
        return trials.iloc[:0]
    run = only(trials, (trials["phase"] == "fixed") & (trials["status"] != "failed"))
    return only(run, np.isclose(values(run, "learning_rate"), rate, rtol=SAME_RATE, atol=0))


def larger_is_faster(evidence: Evidence) -> Judgement:
    """Judge whether examples per second rise up to the largest batch size."""
    of, by_epoch = evidence.sweep, evidence.sweep.frames.timed_in == "epochs"
    timed = np.flatnonzero(np.isfinite(of.round_seconds.medians))
    if len(timed) < 2:
        return Judgement("undecided", "Fewer than two batch sizes were timed.")
    speed = np.exp((0.0 if by_epoch else of.log_sizes) - of.round_seconds.medians)[timed]
    sizes, peak = of.sizes[timed], int(np.argmax(speed))
    first, last, most = (
        number_format.seconds(1 / one) if by_epoch else f"{one:,.0f}" for one in speed[[0, -1, peak]].tolist()
    )
    unit, extreme = ("an epoch", "the least") if by_epoch else ("examples per second", "the highest speed")
    numbers = (
        f"{first} {unit} at batch size {sizes[0]:,}, {last} at {sizes[-1]:,}; {extreme} is {most} at {sizes[peak]:,}."
    )
    if speed[-1] >= speed[peak] * (1 - NOTICEABLE):
        return Judgement("supported" if speed[-1] > speed[0] * (1 + NOTICEABLE) else "undecided", numbers)
    is_tied = evidence.throughput is not None and sizes[-1] in evidence.throughput.tied
    return Judgement("undecided" if is_tied else "contradicted", numbers)


def larger_needs_more_epochs(evidence: Evidence) -> Judgement:
    """Compare the examples to the target at the largest and at the smallest batch size that reached it."""
    of = evidence.sweep
    if unknown := _without_epochs(of):
        return unknown
    reached = np.flatnonzero(np.isfinite(of.training.medians))
    if len(reached) < 2:
        return Judgement("undecided", "Fewer than two batch sizes reached the target.")
    needed, last = of.training.medians[reached], reached[-1]
    fewest = of.sizes[reached[np.isclose(needed, needed.min(), rtol=0, atol=1e-9)]].tolist()
    missed = _missed_above(of, int(last))
    low, high = _ratio_interval(of, int(last), int(reached[0]))
    ratio = float(np.exp(of.training.medians[last] - of.training.medians[reached[0]]))
    numbers = (
        f"Batch size {of.sizes[last]:,} needed {ratio:.2f} times the epochs of {of.sizes[reached[0]]:,}"
        f" (95%: {_span(low, high)}); {_list(fewest)} needed the fewest{_not_reached(missed)}."
    )
    if (low is not None and low > 1) or missed:
        return Judgement("supported", numbers)
    return Judgement("contradicted" if high is not None and high < 1 + NOTICEABLE else "undecided", numbers)


def _without_epochs(of: Sweep) -> Judgement | None:
    """Return that a claim on epochs is undecided, where training is counted in what epochs are not in proportion to."""
    if of.amounts.counted_in in ("examples", "epochs"):
        return None
    reason = of.amounts.why_no("epochs")
    return Judgement("undecided", number_format.sentence(reason)) if reason else None


def some_size_is_time_optimal(evidence: Evidence) -> Judgement:
    """Judge whether the time to the target has its minimum inside the sweep."""
    behind = f", by {evidence.time.margin:.1%}" if evidence.time and evidence.time.margin is not None else ""
    return _inside(evidence.sweep.sizes[_tried(evidence.sweep.time)], evidence.time, "time to the target", behind)


def some_size_is_score_optimal(evidence: Evidence) -> Judgement:
    """Judge whether the best score is inside the sweep."""
    best, goal = evidence.score, evidence.sweep.goal
    points = " points" * (goal.kind.is_share)
    behind = (
        f", by {number_format.gain(goal, best.margin).lstrip('+')}{points}" if best and best.margin is not None else ""
    )
    sizes = evidence.sweep.sizes[_tried(evidence.sweep.score)]
    return _inside(sizes, best, f"{number_format.metric(goal)} within the budget", behind)


def _tried(locations: Locations) -> NDArray[np.bool_]:
    return ~np.isnan(locations.medians)


def _inside(sizes: NDArray[np.int64], best: Optimum | None, what: str, behind: str) -> Judgement:
    """Support the claim if no end of the sweep is tied with the best; contradict it if only ends are."""
    if best is None:
        return Judgement("undecided", f"No {what} was measured.")
    ends = {int(sizes[0]), int(sizes[-1])}
    others = [size for size in best.tied if size != best.batch_size]
    tied = f"tied with it: {_list(others)}" if others else "no other batch size is tied with it"
    numbers = f"Batch size {best.batch_size:,} has the best {what}{behind}; {tied}."
    if not ends & set(best.tied):
        return Judgement("supported", numbers)
    if len(sizes) < 3:
        return Judgement("undecided", numbers)
    return Judgement("contradicted" if set(best.tied) <= ends else "undecided", numbers)


def gradient_variance_falls(evidence: Evidence) -> Judgement:
    """Judge the power of the number of examples that the variance of the gradient is proportional to."""
    noise, power = evidence.noise, exponent(gradient_variances(evidence.sweep))
    if power is None:
        return Judgement("undecided", "Gradient noise was not estimated over enough parts of the batches.")
    low, high = power.interval
    signal = f"; its direction is mostly signal beyond about {noise.value:,.0f} examples" if noise else ""
    numbers = (
        f"The variance of the gradient is proportional to the number of examples to the power {power.value:.2f}"
        f" (95%: {_span(low, high)}){signal}."
    )
    if abs(power.value + 1) < NEAR_THE_LAW:
        return Judgement("supported", numbers)
    outside = low is not None and high is not None and not low <= -1 <= high
    return Judgement("contradicted" if outside else "undecided", numbers)


def rate_should_grow(evidence: Evidence) -> Judgement:
    """Judge the power of the batch size that the best learning rate is proportional to."""
    rates = evidence.rates
    if rates is None or rates.overall is None:
        return Judgement("undecided", number_format.sentence(why_no_learning_rates(evidence.sweep)))
    low, high = rates.overall.interval
    power = f"{rates.overall.value:.2f} (95%: {_span(low, high)})"
    numbers = f"{number_format.best_rate(effective=rates.effective)} grows as the batch size to the power {power}."
    if low is not None and low > 0:
        return Judgement("supported", numbers + " Warm-up was not varied.")
    return Judgement("contradicted" if high is not None and high < 0.1 else "undecided", numbers)


def memory_grows(evidence: Evidence) -> Judgement:
    """Judge the memory at the smallest and largest batch size, and whether some did not fit."""
    whole = [cell for cell in evidence.cells if (cell.accumulation or 1) == 1]
    known = [(cell.batch_size, need) for cell in whole if (need := cell.memory_bytes)]
    full = [cell.batch_size for cell in evidence.cells if cell.status == "out_of_memory" or cell not in whole]
    limit = f"; {_list(full)} did not fit" if full else "; no batch size of the sweep was too large"
    if len(known) < 2:
        return Judgement("supported" if full else "undecided", f"Memory is known for {len(known)} batch sizes{limit}.")
    (small, least), (large, most) = known[0], known[-1]
    numbers = f"{least / 2**20:,.1f} MiB at batch size {small:,}, {most / 2**20:,.1f} MiB at {large:,}{limit}."
    return Judgement("supported" if most > least * (1 + NOTICEABLE) else "contradicted", numbers)


def workers_cost_at_most_their_number(evidence: Evidence) -> Judgement:
    """Judge whether epochs at K B are at most K times those at B, so that steps do not grow."""
    of = evidence.sweep
    if unknown := _without_epochs(of):
        return unknown
    reached = np.flatnonzero(np.isfinite(of.training.medians)).tolist()
    if len(reached) < 2:
        return Judgement("undecided", "Fewer than two batch sizes reached the target.")
    pairs = list(pairwise(reached))
    growth = {pair: float(np.exp(of.training.medians[pair[1]] - of.training.medians[pair[0]])) for pair in pairs}
    factor = {(small, large): float(of.sizes[large] / of.sizes[small]) for small, large in pairs}
    worst = max(pairs, key=lambda pair: growth[pair] / factor[pair])
    low, _ = _ratio_interval(of, worst[1], worst[0])
    missed = _missed_above(of, reached[-1])
    numbers = (
        f"Batch size {of.sizes[worst[1]]:,} takes {growth[worst]:.2f} times the epochs of {of.sizes[worst[0]]:,}, as"
        f" with {factor[worst]:g} workers. This is the largest ratio relative to the number of workers"
        f"{_not_reached(missed)}.{_most_workers(evidence)}"
    )
    if low is not None and low > factor[worst]:
        return Judgement("contradicted", numbers)
    within = growth[worst] <= factor[worst] and _ended_in_time(of, missed, reached[-1])
    return Judgement("supported" if within else "undecided", numbers)


def _ended_in_time(of: Sweep, missed: Sequence[int], last: int) -> bool:
    """Return True if all missed runs ended before K times the epochs of the largest batch size that reached it."""
    trained = of.frames.experiment.max_epochs * of.amounts.per("epochs")
    return all(trained / np.exp(of.training.medians[last]) <= size / of.sizes[last] for size in missed)


def _missed_above(of: Sweep, last: int) -> list[int]:
    """Return the batch sizes above the largest that reached the target."""
    return of.sizes[np.isposinf(of.training.medians) & (of.sizes > of.sizes[last])].tolist()


def _not_reached(missed: Sequence[int]) -> str:
    return f"; {_list(missed)} did not reach the target" if missed else ""


def _most_workers(evidence: Evidence) -> str:
    """Describe updates, epochs and, unless devices are virtual, speed with the most devices in use."""
    joined = [one for one in evidence.shared if one.epochs_ratio and one.weak_efficiency]
    if not joined:
        return ""
    one = max(joined, key=lambda one: (one.devices, one.batch_size))
    virtual = evidence.sweep.frames.machine.machine.virtual_devices
    faster = f", {one.devices * (one.weak_efficiency or 0.0):.2f} times the examples per second"
    return (
        f" {one.devices} devices with {one.batch_size // one.devices:,} examples each: 1/{one.devices} of the updates"
        f" in an epoch, {one.epochs_ratio:.2f} times the epochs{'' if virtual else faster}."
    )


def _ratio_interval(of: Sweep, above: int, below: int) -> tuple[float | None, float | None]:
    """Return the interval of the ratio of the examples to the target at two indices."""
    draws: Array = of.training.draws
    with np.errstate(invalid="ignore"):
        difference = draws[:, above] - draws[:, below]
    return interval(exp(np.where(np.isnan(difference), np.inf, difference)))


def _span(low: float | None, high: float | None) -> str:
    if low is None and high is None:
        return "unknown"
    return f"{'unknown' if low is None else f'{low:.2f}'} to {'unknown' if high is None else f'{high:.2f}'}"


def _list(sizes: Sequence[int]) -> str:
    return ", ".join(f"{size:,}" for size in sizes)


CLAIMS: dict[str, Callable[[Evidence], Judgement]] = {
    "At a fixed learning rate, too small a batch does not converge": small_batches_fail,
    "A larger batch processes the same data faster": larger_is_faster,
    "A larger batch needs more epochs for the same accuracy": larger_needs_more_epochs,
    "So some batch size takes the least time": some_size_is_time_optimal,
    "And some batch size gives the best accuracy": some_size_is_score_optimal,
    "The variance of the gradient falls as one over the batch size": gradient_variance_falls,
    "So the learning rate should grow with the batch size": rate_should_grow,
    "Memory grows with the batch size, up to a limit": memory_grows,
    "With K workers the epochs to the same accuracy grow at most K times": workers_cost_at_most_their_number,
}
