"""What each figure shows, said in words from the same numbers: the alternative text of the figure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from batchscale.analysis import number_format
from batchscale.analysis.frames.frames import Frames
from batchscale.analysis.frames.schema import batch_sizes, by_batch_size, only, values
from batchscale.analysis.metrics.hardware import roofline_cells
from batchscale.analysis.metrics.speeds import whole_batches
from batchscale.analysis.metrics.trials import at_best, searched_points, searched_trials
from batchscale.analysis.summary_types import AccuracyOptimal, BatchSizeSummary, Optimum, Summary
from batchscale.analysis.text.provenance import VIRTUAL, target_words
from batchscale.analysis.text.remarks import averaging, binding

LISTED_TIES = 3
VARIANCE_CLAIM = 6


def throughput(_: Frames, summary: Summary) -> str:
    """Where the peak is and how small a batch comes near it."""
    best = summary.throughput_optimal
    if best is None:
        return f"No fastest batch size: {summary.throughput_optimal_reason}."
    peak = f"Most at batch size {best.batch_size}: {number_format.examples_per_second(best.examples_per_second)}"
    return f"{peak}; {best.smallest_within_5_percent} is the smallest within 5% of it{edge(best)}."


def step_time(_: Frames, summary: Summary) -> str:
    """The fixed cost and the cost per example."""
    fit = summary.affine_step_time
    if fit is None:
        return f"No straight line fits the step times: {summary.affine_step_time_reason}."
    fixed, growing = number_format.seconds(fit.alpha_seconds), number_format.seconds(fit.beta_seconds)
    knee = number_format.number(fit.knee_batch_size)
    return f"A step costs {fixed} plus {growing} per example; both are equal at B = {knee}."


def memory(frames: Frames, summary: Summary) -> str:
    """The least and the largest need, what did not fit, and the largest that does."""
    cells = whole_batches(frames, frames.compilations)
    sizes, need = by_batch_size(cells, "predicted_bytes", np.max)
    if not sizes:
        sizes, need = by_batch_size(cells, "peak_bytes", np.max)
    first, last = (f"{number_format.mebibytes(need[at])} at batch size {sizes[at]}" for at in (0, -1))
    full = batch_sizes(only(cells, cells["status"] == "out_of_memory"))
    ends = f"; out of memory at {number_format.listed(full)}" if full else ""
    largest = summary.max_batch_size
    return f"From {first} to {last}{ends}{f'; {largest.batch_size} is the largest that fits' if largest else ''}."


def roofline(_: Frames, summary: Summary) -> str:
    """The most arithmetic per second, and the share of the measured ceiling that it is."""
    cells = roofline_cells(summary)
    if not cells:
        return "The ceilings of this machine were not measured."
    best = max(cells, key=lambda cell: cell.achieved_flops_per_second or 0.0)
    share = number_format.percent(best.fraction_of_peak or 0.0)
    most = f"{number_format.flops_per_second(best.achieved_flops_per_second or 0.0)}, at batch size {best.batch_size}"
    return f"At most {most}, {share} of the measured matrix-multiply rate. {binding(summary)}".rstrip()


def steps_to_target(_: Frames, summary: Summary) -> str:
    """How steps fall with the batch size, and where they stop doing so."""
    return f"{_fall(summary, 'steps_to_target', 'steps')} {_critical(summary)}"


def epochs_to_target(_: Frames, summary: Summary) -> str:
    """How epochs grow with the batch size."""
    return f"{_fall(summary, 'epochs_to_target', 'epochs')} {_critical(summary)}"


def frontier(_: Frames, summary: Summary) -> str:
    """What the fit says is the least of each."""
    fit = summary.critical_batch_size
    if fit is None:
        return _critical(summary)
    least = f"{number_format.short(fit.steps_min)} steps or {number_format.short(fit.examples_min)} examples"
    critical = number_format.number(fit.value, 2)
    return f"No batch size can need fewer than about {least}; at B = {critical} both are doubled."


def learning_curves(_: Frames, summary: Summary) -> str:
    """Who is first in epochs and who is first in seconds."""
    leaders = {
        name: min(cells, key=lambda cell: getattr(cell, quantity).median).batch_size
        for name, quantity in (("epochs", "epochs_to_target"), ("seconds", "time_to_target"))
        if (cells := summary.known(quantity))
    }
    said = [f"batch size {size} is first in {name}" for name, size in leaders.items()]
    return (
        f"To {target_words(summary)}, {number_format.listed(said)}."
        if said
        else f"None gets to {target_words(summary)}."
    )


def time_to_target(_: Frames, summary: Summary) -> str:
    """The fastest batch size, its interval, what is tied with it, and what the fits say."""
    best = summary.time_optimal
    if best is None:
        return f"No fastest batch size: {summary.time_optimal_reason}."
    fitted = best.fitted_batch_size
    joined = f" The fits put the best at B* = {number_format.number(fitted, 2)}." if fitted else ""
    took = f"{number_format.seconds(best.seconds)} ({number_format.seconds_between(best.interval, best.seconds)})"
    return f"Batch size {best.batch_size}: {took}{edge(best)}; {tied(best, summary)}.{joined}"


def best_accuracy(_: Frames, summary: Summary) -> str:
    """The best batch size under each budget."""
    budgets = [best for best in (summary.accuracy_optimal, summary.accuracy_optimal_by_steps) if best]
    said = " ".join(f"{_accurate(best, summary)}." for best in budgets) or f"{summary.accuracy_optimal_reason}."
    return f"{said} {averaging(summary)}".rstrip()


def best_learning_rate(_: Frames, summary: Summary) -> str:
    """The exponent of the best rate."""
    rates = summary.learning_rates
    if rates is None or rates.overall is None:
        return f"No rule can be read from the rates: {summary.learning_rates_reason or 'too few batch sizes'}."
    exponent = rates.overall
    interval = number_format.between(exponent.interval, lambda value: number_format.number(value, 2))
    at_edge = (
        f" At the edge of the rates tried: {number_format.listed(rates.at_grid_edge)}." if rates.at_grid_edge else ""
    )
    growth = (
        f"{number_format.best_rate(effective=rates.effective)} grows as B^{number_format.number(exponent.value, 2)}"
    )
    return f"{growth} ({interval}); rule: {rates.rule}.{at_edge}"


def searched_options(frames: Frames, summary: Summary) -> str:
    """The value of each option that was chosen at each batch size, and how often that was close."""
    points = searched_points(frames)
    return " ".join(_chosen_values(option, points, frames, summary) for option in frames.experiment.searched)


def _chosen_values(option: str, points: pd.DataFrame, frames: Frames, summary: Summary) -> str:
    chosen: dict[float, list[int]] = {}
    for cell in summary.cells:
        if option in cell.best_options:
            chosen.setdefault(cell.best_options[option], []).append(cell.batch_size)
    tried = frames.experiment.search[option]
    each = [
        f"{value:g}{_end(value, tried)} at {number_format.listed(sizes)}" for value, sizes in sorted(chosen.items())
    ]
    best = at_best(points, option)
    quickest = np.asarray(best.groupby("batch_size")["epochs"].transform("min"), dtype=np.float64)
    within = np.isfinite(quickest) & (values(best, "epochs") <= quickest + (summary.evaluation_quantum_epochs or 0.0))
    sizes = values(only(best, within), "batch_size").tolist()
    close = sum(sizes.count(size) > 1 for size in set(sizes))
    said = f"Chosen {number_format.option(option)}: {'; '.join(each) or 'none'}."
    return f"{said} At {close} of {len(batch_sizes(best))} batch sizes another comes within one evaluation of it."


def _end(value: float, tried: Sequence[float]) -> str:
    """Whether a better value may lie beyond those tried; below 0 there is none."""
    if value == max(tried):
        return " (the largest tried)"
    return " (the smallest tried)" if 0 < value == min(tried) else ""


def rate_map(frames: Frames, _: Summary) -> str:
    """How many trials reached the target, and how many diverged."""
    trials = searched_trials(frames)
    reached = np.isfinite(values(trials, "examples_to_target")).sum()
    diverged = len(only(trials, trials["status"] == "diverged"))
    return f"Of {len(trials)} search trials {reached} reached the target and {diverged} diverged."


def gradient_variance(_: Frames, summary: Summary) -> str:
    """The exponent, as the verdict on its claim has it."""
    return next(verdict.numbers for verdict in summary.verdicts if verdict.claim == VARIANCE_CLAIM)


def gradient_noise_scale(_: Frames, summary: Summary) -> str:
    """The noise scale beside the critical batch size."""
    noise = summary.gradient_noise
    if noise is None:
        return f"No gradient noise scale: {summary.gradient_noise_reason}."
    ratio = noise.ratio_to_critical
    beside = f", {number_format.number(ratio, 2)} times the critical batch size" if ratio else ""
    interval = number_format.between(noise.interval, lambda value: number_format.number(value, 2))
    return f"On average {number_format.number(noise.value, 2)} ({interval}){beside}."


def energy(_: Frames, summary: Summary) -> str:
    """The batch size with the least energy to the target."""
    best = summary.energy_optimal
    if best is None:
        return f"Energy was measured, but no least energy to the target: {summary.energy_optimal_reason}."
    least = f"Least energy to the target at batch size {best.batch_size}: {number_format.joules(best.joules)}"
    return f"{least}; {tied(best, summary)}."


def data_parallel(_: Frames, summary: Summary) -> str:
    """The greatest speed-up of each kind on the most devices, and whether it means anything."""
    most = max(one.devices for one in summary.data_parallel)
    there = [one for one in summary.data_parallel if one.devices == most]
    kinds = {
        "with the same batch": [one.strong_efficiency for one in there],
        "with a batch for each": [one.weak_efficiency for one in there],
    }
    best = {kind: max(shares) for kind, found in kinds.items() if (shares := [one for one in found if one])}
    said = [f"{number_format.number(most * share)} times {kind}" for kind, share in best.items()]
    gained = (
        f"at most {number_format.listed(said)}" if said else "unknown, since one was not timed at these batch sizes"
    )
    no_speed = f" But {VIRTUAL}." if summary.virtual_devices else ""
    return f"Examples per second of {most} devices over those of one: {gained}.{no_speed}"


def tied(best: Optimum, summary: Summary) -> str:
    """Which other batch sizes cannot be told from the best; a long unbroken run is named by its ends."""
    others = [size for size in best.tied if size != best.batch_size]
    low, high = min(best.tied, default=0), max(best.tied, default=0)
    run = [cell.batch_size for cell in summary.cells if low <= cell.batch_size <= high]
    if len(others) > LISTED_TIES and set(run) == {*others, best.batch_size}:
        return f"no other from {low} to {high} can be told from it"
    return f"{number_format.listed(others)} cannot be told from it" if others else "no other is tied with it"


def edge(best: Optimum) -> str:
    """A warning where the best lies at the end of the sweep."""
    if best.edge == "memory":
        return ", the largest that fits in memory"
    if best.edge == "only":
        return ", the only one tried, so the true best may lie elsewhere"
    return f", the {best.edge or 'last'} of the sweep, so the true best may lie beyond it" if best.at_edge else ""


def _accurate(best: AccuracyOptimal, summary: Summary) -> str:
    interval = number_format.between(best.interval, number_format.accuracy)
    accuracy = number_format.accuracy(best.accuracy)
    return f"Within {best.budget}, {best.batch_size}: {accuracy} ({interval}); {tied(best, summary)}"


def _fall(summary: Summary, quantity: str, unit: str) -> str:
    cells = summary.known(quantity)
    if not cells:
        return f"None reached {target_words(summary)}."
    said = [
        f"{number_format.short(getattr(cell, quantity).median)} at {cell.batch_size}" for cell in (cells[0], cells[-1])
    ]
    return f"Median {unit} to {target_words(summary)}: {number_format.listed(dict.fromkeys(said))}{_short_of(summary)}."


def _short_of(summary: Summary) -> str:
    def missed(cell: BatchSizeSummary) -> bool:
        return cell.seeds_reached < cell.seeds

    sizes = [cell.batch_size for cell in summary.cells if missed(cell)]
    return f"; some or all seeds missed it at {number_format.listed(sizes)}" if sizes else ""


def _critical(summary: Summary) -> str:
    fit = summary.critical_batch_size
    if fit is None:
        return f"No critical batch size: {summary.critical_batch_size_reason}."
    interval = number_format.between(fit.interval, lambda value: number_format.number(value, 2))
    error = number_format.percent(fit.fit_error)
    return f"Critical batch size {number_format.number(fit.value, 2)} ({interval}), fit error {error}."
