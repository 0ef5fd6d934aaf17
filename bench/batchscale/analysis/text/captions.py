"""The words of each figure: caption, remarks that depend on the data, line on its origin, and alternative text.

An alternative text states in words, from the same numbers, what its figure shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import groupby

import numpy as np
import pandas as pd

from batchscale.analysis import number_format
from batchscale.analysis.frames.frames import Frames
from batchscale.analysis.frames.schema import batch_sizes, by_batch_size, only, values
from batchscale.analysis.metrics.hardware import LEAST_CHANGE, LEAST_SHARE, roofline_cells
from batchscale.analysis.metrics.observations import at_best
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.summary_parts import Rule
from batchscale.analysis.summary_types import BatchSizeSummary, CellTrend, Drift, Limit, ScoreOptimal, Summary
from batchscale.analysis.text.answer import asked, by_time, edge, levelling, target, tied, turning, within
from batchscale.config.vocabulary import CellKey

CAPTIONS = {
    "time_to_target": (
        "Lower is faster. Ringed batch sizes are tied with the fastest: they are not significantly slower."
    ),
    "best_score": (
        "Where there is an ideal score, the axis is stretched towards it. Rings mark the best batch size of each budget"
        " and those tied with it."
    ),
    "time_budgets": (
        "Left: the score of the typical run at each batch size, one line for each time of training. Right: the best"
        " batch size for each time; small dots mark those tied with it. After the end of its runs a batch size keeps"
        " its best score."
    ),
    "throughput": (
        "Higher is faster. Where the line levels off, the hardware is fully used. Small dots are single rounds."
    ),
    "step_time": "The flat part on the left is the fixed cost of a step, the rising part the cost of its examples.",
    "steps_to_target": (
        "Where the points leave the line of perfect scaling, a larger batch no longer saves steps in proportion."
    ),
    "epochs_to_target": (
        "Where the line is flat, each example counts in full. Where it rises, a larger batch wastes examples."
    ),
    "frontier": (
        "Points further left need fewer steps in sequence. Points further down need fewer examples. No batch size is"
        " best in both."
    ),
    "learning_curves": (
        "The order of the batch sizes over epochs may differ from that over seconds. Lines are medians over seeds,"
        " shades span all seeds."
    ),
    "best_learning_rate": (
        "Compare the slope with the two rules. A ring marks a rate at the edge of the rates tried; a better rate may be"
        " outside. A band, where enough trials reached the target, holds the best rate of each batch size at the 95%"
        " level, by a surface that is fitted to all search trials together. Rates that are too high cost more than"
        " rates that are as much too low, so the chosen rates lie below its middle."
    ),
    "rate_map": (
        "Bright boxes need the least training, each with the options that are best for it. In grey boxes the median run"
        " did not reach the target."
    ),
    "searched_options": (
        "Each point has the learning rate that is best with its value. Where the lines differ, the option matters. A"
        " line ends where no run with its value reached the target, or all were stopped early because they could not"
        " win."
    ),
    "gradient_noise_scale": (
        "It predicts the critical batch size within an order of magnitude, and grows during training. Each point is the"
        " mean over all seeds and over a stretch of training that ends at 1.4 times the epochs at which it begins."
    ),
    "gradient_variance": (
        "Each line is one batch size, divided into parts; all parts are measured at the same parameters. The law"
        " predicts lines parallel to the dashed one."
    ),
    "memory": "What a training step needs at each batch size, up to the largest that fits.",
    "roofline": (
        "The distance below the limit is arithmetic that the machine could do and this program does not. Points above"
        " the slope read data from caches instead of memory."
    ),
    "energy": "The least energy per example and the least energy to the target may be at different batch sizes.",
    "data_parallel": "The distance below the dashed line is the cost of dividing the work and adding the gradients.",
}
"""How to read each figure, by its name."""

VIRTUAL = "virtual devices share one processor, so their speeds are not meaningful"
LIMITS: dict[Limit, str] = {
    "arithmetic": "arithmetic",
    "copying": "copying memory",
    "fixed_cost": "the fixed cost of a step",
}
RULES: dict[Rule, str] = {
    "none": "as if the best rate did not depend on the batch size",
    "sqrt": "as the square-root rule predicts",
    "linear": "as the linear rule predicts",
    "sqrt or linear": "which both the square-root and the linear rule allow",
    "neither": "which neither the square-root nor the linear rule predicts",
    "undecided": "too uncertain to distinguish the rules",
}
LISTED_VARIANTS = 3
VARIANCE_CLAIM = 6


def origin(frames: Frames, summary: Summary, runs: str | None = None) -> str:
    """Return machine, workload, number of seeds, and whether convergence was measured here or joined, in one line.

    Tables from elsewhere name neither workload nor machine; their title does. `runs` names the seeds drawn, where they
    are not those that claims rest on.
    """
    drawn = runs or seeds(summary)
    if frames.imported:
        clocked = ["times by the runs' own clocks"] if summary.counted_in == "seconds" else []
        return " · ".join([summary.machine, summary.title, drawn, *clocked])
    kind = summary.workload
    trained = f"{kind.model} on {kind.dataset}, {kind.optimizer}, {frames.experiment.workload.precision}"
    return " · ".join([summary.machine, trained, drawn, convergence_source(summary)])


def search_seeds(sweep: Sweep) -> str:
    """Return, in words, how many seeds chose the learning rates."""
    count = len(np.unique(values(sweep.searched_trials, "seed")))
    return f"medians of {count} search seeds" if count > 1 else f"{count} search seed"


def seeds(summary: Summary) -> str:
    """Return how many seeds the claims on a batch size rest on."""
    counts = [cell.seeds for cell in summary.cells if cell.seeds]
    return number_format.seeds(min(counts), max(counts)) if counts else "no training runs"


def convergence_source(summary: Summary) -> str:
    """Return where the training runs were made."""
    if not any(cell.seeds for cell in summary.cells):
        return "convergence not measured"
    here = "begun in another folder" if summary.trained_on else "measured here"
    return f"convergence {f'joined from {summary.convergence_from}' if summary.convergence_from else here}"


def no_remark(_: Summary) -> str:
    """Return no remark."""
    return ""


def step_limits(summary: Summary) -> str:
    """Return which limit explains most of a step's time at each batch size, and how much of it."""
    cells = [cell for cell in summary.cells if cell.limit_share is not None]
    runs: dict[Limit | None, list[list[BatchSizeSummary]]] = {}
    for limit, run in groupby(cells, key=_limit):
        runs.setdefault(limit, []).append(list(run))
    return " ".join(_limited(limit, found) for limit, found in runs.items())


def _limit(cell: BatchSizeSummary) -> Limit | None:
    return cell.limited_by


def _limited(limit: Limit | None, runs: list[list[BatchSizeSummary]]) -> str:
    ends = [(run[0].batch_size, run[-1].batch_size) for run in runs]
    where = number_format.listed(f"B = {low}" + (f" to {high}" if high > low else "") for low, high in ends)
    if limit is None:
        return f"No single limit explains {number_format.percent(LEAST_SHARE)} of a step at {where}."
    shares = sorted(cell.limit_share or 0.0 for run in runs for cell in run)
    share = number_format.between([shares[0], shares[-1]], number_format.percent)
    return f"{LIMITS[limit].capitalize()} explains {share} of a step at {where}."


def averaging(summary: Summary) -> str:
    """Return whether averaged parameters are better at the batch size with the best score, as far as seeds show."""
    best = summary.score_optimal
    cells = [cell for cell in summary.cells if best and cell.batch_size == best.batch_size]
    gain = cells[0].averaged_score_gain if cells else None
    if gain is None or gain.median is None or summary.goal is None:
        return ""
    text = partial(number_format.gain, summary.goal)
    unit = " percentage points" if summary.goal.kind.is_share else " better" * (gain.median > 0)
    where, median = f"at batch size {cells[0].batch_size}", f"{text(gain.median)}{unit}"
    if cells[0].seeds == 1:
        return f"Averaging the parameters {where}: {median} on one seed, which may be noise."
    low, high = gain.interval
    effect = "helps" if (low or 0) > 0 else "hurts" if (high or 0) < 0 else "has no clear effect"
    interval = number_format.between(gain.interval, text)
    return f"Averaging the parameters {effect} {where}: {median} ({interval}), compared seed by seed."


def without_gradient_noise(summary: Summary) -> str:
    """Return which batch sizes have no estimate of the gradient noise, and why."""
    noise = summary.gradient_noise
    if noise is None or noise.batch_sizes is None:
        return ""
    left = [cell.batch_size for cell in summary.cells if cell.seeds and cell.batch_size not in noise.batch_sizes]
    because = "it can only be measured in batches of several microbatches"
    return f"Not known at {number_format.batch_sizes(left)}, because {because}." if left else ""


def drift(summary: Summary) -> str:
    """Return whether rounds became slower or faster from first to last, by how much, and what the sensors report."""
    found = summary.drift
    if found is None:
        return f"Drift is not known: {summary.drift_reason}." if summary.drift_reason else ""
    moved = f"{_moved(found.together.change)}, trend test p = {number_format.number(found.together.p_value, 2)}"
    if found.drifts:
        overall = f"Drift over {found.rounds} rounds: all timings together became {moved}."
    else:
        threshold = number_format.percent(LEAST_CHANGE)
        overall = f"No significant drift over {found.rounds} rounds ({moved}; threshold {threshold})."
    return f"{overall}{_single_timings(found)}{_sensors(found)}"


def _single_timings(found: Drift) -> str:
    if not found.cells:
        return ""
    named = [f"{_variant(one)} became {_moved(one.change)}" for one in found.cells[:LISTED_VARIANTS]]
    more = len(found.cells) - len(named)
    return f" Single timings: {number_format.listed([*named, f'{more} more drifted'] if more else named)}."


def _variant(one: CellTrend) -> str:
    return f"B = {one.batch_size} {one.loop}{CellKey.of(one).variant}"


def _moved(change: float) -> str:
    return f"{number_format.percent(abs(change))} {'slower' if change > 0 else 'faster'}"


def _sensors(found: Drift) -> str:
    """Return clock and temperature of the first and the last round, and what disturbed rounds, where it is reported."""
    changes = []
    if found.clock_mhz:
        first, last = map(number_format.number, found.clock_mhz)
        changes.append(f"the clock went from {first} to {last} MHz{' (throttled)' * found.throttled}")
    if found.celsius:
        first, last = map(number_format.number, found.celsius)
        changes.append(f"the temperature from {first} to {last} °C")
    sentence = number_format.listed(changes)
    sensed = f" {number_format.sentence(sentence)}" if sentence else ""
    if found.off_clock:
        sensed += f" {_rounds(found.off_clock)} at a clock more than 3% from the median."
    if found.disturbed:
        sensed += f" {_rounds(found.disturbed)} while other processes computed on the device."
    return sensed


def _rounds(count: int) -> str:
    return "1 round was timed" if count == 1 else f"{count} rounds were timed"


def time_to_target(_: Sweep, summary: Summary) -> str:
    """Return the fastest batch size, its interval, those tied with it, and the optimum of the fits."""
    best = summary.time_optimal
    if best is None:
        return f"No fastest batch size: {summary.time_optimal_reason}."
    fitted = best.fitted_batch_size
    joined = f" Both fits together put the fastest at B* = {number_format.number(fitted, 2)}." if fitted else ""
    took = f"{number_format.seconds(best.seconds)} ({number_format.seconds_between(best.interval, best.seconds)})"
    return f"Batch size {best.batch_size} is the fastest: {took}.{edge(best)} {tied(best, summary)}{joined}"


def best_score(_: Sweep, summary: Summary) -> str:
    """Return the best batch size within each budget."""
    best, by_steps = summary.score_optimal, summary.score_optimal_by_steps
    budgets = [(best, within(best))] if best else []
    budgets += [(by_steps, f"Within {by_steps.budget}")] if by_steps else []
    found = " ".join(_best_in_budget(*one, summary) for one in budgets) or f"{summary.score_optimal_reason}."
    return f"{found} {averaging(summary)}".rstrip()


def _best_in_budget(best: ScoreOptimal, budget: str, summary: Summary) -> str:
    goal = summary.goal or summary.scored
    if goal is None:
        return ""
    interval = number_format.between(best.interval, partial(number_format.score, goal))
    score = f"{number_format.score(goal, best.score)} ({interval})"
    plain = goal.metric == "accuracy" and not goal.name
    quality = "is the most accurate" if plain else f"has the best {number_format.metric(goal)}"
    return f"{budget}, batch size {best.batch_size} {quality}: {score}. {tied(best, summary)}{levelling(best, summary)}"


def time_budgets(_: Sweep, summary: Summary) -> str:
    """Return which batch size has the best score at which times, and where runs ended before."""
    return " ".join(filter(None, [by_time(summary), asked(summary)])) or "No times can be compared."


def ended_runs(summary: Summary) -> str:
    """Return from which time on the runs at some batch sizes had ended; empty where none had."""
    first: dict[int, float] = {}
    for one in summary.time_budgets:
        for size in one.ended:
            first.setdefault(size, one.seconds)
    each = [f"{size} by {number_format.seconds(seconds)}" for size, seconds in sorted(first.items())]
    return f"Runs had ended at batch size {number_format.listed(each)}; longer ones may be better." if each else ""


def throughput(_: Sweep, summary: Summary) -> str:
    """Return the peak and the smallest batch size near it."""
    best = summary.throughput_optimal
    if best is None:
        return f"No batch size with the most {summary.example}s per second: {summary.throughput_optimal_reason}."
    rate = number_format.examples_per_second(best.examples_per_second, summary.tokens_per_example)
    smallest = f"Batch size {best.smallest_within_5_percent} is the smallest within 5% of it."
    return f"Most at batch size {best.batch_size}: {rate}.{edge(best)} {smallest}"


def step_time(_: Sweep, summary: Summary) -> str:
    """Return the fixed cost of a step and its cost per example."""
    fit = summary.affine_step_time
    if fit is None:
        return f"No straight line fits the step times: {summary.affine_step_time_reason}."
    fixed, growing = number_format.seconds(fit.alpha_seconds), number_format.seconds(fit.beta_seconds)
    knee = number_format.number(fit.knee_batch_size)
    return f"A step costs {fixed} plus {growing} per {summary.example}; both parts are equal at B = {knee}."


def steps_to_target(_: Sweep, summary: Summary) -> str:
    """Return how steps fall with the batch size, and where they stop doing so."""
    return f"{_first_and_last(summary, 'steps_to_target', 'steps')} {_critical(summary)}"


def epochs_to_target(_: Sweep, summary: Summary) -> str:
    """Return how epochs grow with the batch size."""
    tokens = f" {_first_and_last(summary, 'tokens_to_target', 'tokens')}" if summary.tokens_per_example else ""
    return f"{_first_and_last(summary, 'epochs_to_target', 'epochs')}{tokens} {_critical(summary)}"


def _first_and_last(summary: Summary, quantity: str, unit: str) -> str:
    cells = summary.known(quantity)
    if not cells:
        return f"No batch size reached {target(summary)}."
    ends = [cells[0], *cells[1:][-1:]]
    found = [f"{number_format.short(getattr(cell, quantity).median)} at batch size {cell.batch_size}" for cell in ends]
    missed = [cell.batch_size for cell in summary.cells if cell.seeds_reached < cell.seeds]
    misses = f" Some or all seeds missed it at {number_format.batch_sizes(missed)}." if missed else ""
    return f"Median {unit} to {target(summary)}: {number_format.listed(found)}.{misses}"


def _critical(summary: Summary) -> str:
    fit = summary.critical_batch_size
    if fit is None:
        return f"No critical batch size: {summary.critical_batch_size_reason}."
    interval = number_format.between(fit.interval, lambda value: number_format.number(value, 2))
    error = number_format.percent(fit.fit_error)
    return f"Critical batch size {number_format.number(fit.value, 2)} ({interval}), fit error {error}."


def frontier(_: Sweep, summary: Summary) -> str:
    """Return the least steps and the least examples by the fit."""
    fit = summary.critical_batch_size
    if fit is None:
        return _critical(summary)
    least = f"{number_format.short(fit.steps_min)} steps or {number_format.short(fit.examples_min)} {summary.example}s"
    critical = number_format.number(fit.value, 2)
    return f"By the fit, no batch size needs fewer than about {least}; at B = {critical} both are doubled."


def learning_curves(_: Sweep, summary: Summary) -> str:
    """Return which batch size is first in epochs and which in seconds."""
    leaders = {
        unit: min(cells, key=lambda cell: getattr(cell, quantity).median).batch_size
        for unit, quantity in (("epochs", "epochs_to_target"), ("seconds", "time_to_target"))
        if (cells := summary.known(quantity))
    }
    found = [f"batch size {size} needs the fewest {unit}" for unit, size in leaders.items()]
    return (
        f"To {target(summary)}, {number_format.listed(found)}."
        if found
        else f"No batch size reached {target(summary)}."
    )


def best_learning_rate(_: Sweep, summary: Summary) -> str:
    """Return how the best rate grows with the batch size."""
    rates = summary.learning_rates
    if rates is None or rates.overall is None:
        return f"No rule can be read from the rates: {summary.learning_rates_reason or 'too few batch sizes'}."
    interval = number_format.between(rates.overall.interval, number_format.exponent)
    power = f"B^{number_format.exponent(rates.overall.value)} ({interval})"
    growth = f"{number_format.best_rate(effective=rates.effective)} grows as {power}, {RULES[rates.rule]}."
    at_edge = f" At the edge of the rates tried: {number_format.batch_sizes(rates.at_grid_edge)}."
    turn = f" {turning(rates.shape)}" if rates.shape else ""
    return f"{growth}{turn}{at_edge * bool(rates.at_grid_edge)} {rates_by_neighbours(summary)}".rstrip()


def rates_by_neighbours(summary: Summary) -> str:
    """Return at which batch sizes the others gave the rate; empty where each had a trial that reached the target."""
    sizes = summary.learning_rates.by_neighbours if summary.learning_rates else []
    if not sizes:
        return ""
    return f"Rate by the neighbours at {number_format.batch_sizes(sizes)}, where no search trial reached the target."


def rate_map(sweep: Sweep, _: Summary) -> str:
    """Return how many search trials reached the target, and how many diverged."""
    trials = sweep.searched_trials
    reached = np.isfinite(values(trials, f"{sweep.amounts.counted_in}_to_target")).sum()
    diverged = len(only(trials, trials["status"] == "diverged"))
    return f"Of {len(trials)} search trials, {reached} reached the target and {diverged} diverged."


def searched_options(sweep: Sweep, summary: Summary) -> str:
    """Return the value of each option that is best at each batch size, and how often another is close."""
    searched = sweep.frames.experiment.search
    return " ".join(
        _best_values(option, searched[option], sweep.searched_points, summary)
        for option in sweep.frames.experiment.searched
    )


def _best_values(option: str, tried: Sequence[float], points: pd.DataFrame, summary: Summary) -> str:
    chosen: dict[float, list[int]] = {}
    for cell in summary.cells:
        if option in cell.best_options:
            chosen.setdefault(cell.best_options[option], []).append(cell.batch_size)
    each = [
        f"{value:g}{_end(value, tried)} at {number_format.batch_sizes(sizes)}"
        for value, sizes in sorted(chosen.items())
    ]
    best = at_best(points, option)
    quickest = np.asarray(best.groupby("batch_size")["needed"].transform("min"), dtype=np.float64)
    within = np.isfinite(quickest) & (values(best, "needed") <= quickest + (summary.evaluation_quantum_epochs or 0.0))
    sizes = values(only(best, within), "batch_size").tolist()
    close = sum(sizes.count(size) > 1 for size in set(sizes))
    found = f"Best {number_format.option(option)}: {'; '.join(each) or 'none'}."
    return (
        f"{found} At {close} of {len(batch_sizes(best))} batch sizes another value comes within one evaluation of it."
    )


def _end(value: float, tried: Sequence[float]) -> str:
    """Return a note if a better value may be outside those tried; below 0 there is none."""
    if value == max(tried):
        return " (the largest tried)"
    return " (the smallest tried)" if 0 < value == min(tried) else ""


def gradient_noise_scale(_: Sweep, summary: Summary) -> str:
    """Return the noise scale and its ratio to the critical batch size."""
    noise = summary.gradient_noise
    if noise is None:
        return f"No gradient noise scale: {summary.gradient_noise_reason}."
    ratio = noise.ratio_to_critical
    compared = f", {number_format.number(ratio, 2)} times the critical batch size" if ratio else ""
    interval = number_format.between(noise.interval, lambda value: number_format.number(value, 2))
    return f"On average {number_format.number(noise.value, 2)} ({interval}){compared}."


def gradient_variance(_: Sweep, summary: Summary) -> str:
    """Return the measured exponent, from the verdict on the claim about it."""
    return next(verdict.numbers for verdict in summary.verdicts if verdict.claim == VARIANCE_CLAIM)


def memory(sweep: Sweep, summary: Summary) -> str:
    """Return the memory of the smallest and the largest batch, what did not fit, and the largest that does."""
    compiled = sweep.whole_compilations
    sizes, need = by_batch_size(compiled, "predicted_bytes", np.max)
    if not sizes:
        sizes, need = by_batch_size(compiled, "peak_bytes", np.max)
    first, last = (f"{number_format.mebibytes(need[at])} at batch size {sizes[at]}" for at in (0, -1))
    full = batch_sizes(only(compiled, compiled["status"] == "out_of_memory"))
    misses = f" Out of memory at {number_format.batch_sizes(full)}." if full else ""
    largest = summary.max_batch_size
    fits = f" Batch size {largest.batch_size} is the largest that fits." if largest else ""
    return f"From {first} to {last}.{misses}{fits}"


def roofline(_: Sweep, summary: Summary) -> str:
    """Return the most arithmetic per second, and its share of the measured limit."""
    cells = roofline_cells(summary)
    if not cells:
        return "The limits of this machine were not measured."
    best = max(cells, key=lambda cell: cell.achieved_flops_per_second or 0.0)
    share = number_format.percent(best.fraction_of_peak or 0.0)
    most = f"{number_format.flops_per_second(best.achieved_flops_per_second or 0.0)}, at batch size {best.batch_size}"
    return f"At most {most}: {share} of the measured matrix-multiply rate. {step_limits(summary)}".rstrip()


def energy(_: Sweep, summary: Summary) -> str:
    """Return the batch size with the least energy to the target."""
    best = summary.energy_optimal
    if best is None:
        return f"Energy was measured, but the least energy to the target is not known: {summary.energy_optimal_reason}."
    least = f"Least energy to the target at batch size {best.batch_size}: {number_format.joules(best.joules)}."
    return f"{least} {tied(best, summary)}"


def data_parallel(_: Sweep, summary: Summary) -> str:
    """Return the greatest speed-up of each kind on the most devices, and whether it means anything."""
    most = max(one.devices for one in summary.data_parallel)
    there = [one for one in summary.data_parallel if one.devices == most]
    kinds = {
        "with the same batch": [one.strong_efficiency for one in there],
        "with one batch per device": [one.weak_efficiency for one in there],
    }
    best = {kind: max(shares) for kind, found in kinds.items() if (shares := [one for one in found if one])}
    ratios = [f"{number_format.number(most * share)} times {kind}" for kind, share in best.items()]
    gained = f"at most {number_format.listed(ratios)}" if ratios else "not known, since one device was not timed"
    virtual = f" But {VIRTUAL}." if summary.virtual_devices else ""
    return f"Speed of {most} devices over that of one: {gained}.{virtual}"
