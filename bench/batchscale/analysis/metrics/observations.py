"""The rows that the claims on each batch size rest on: its training runs and what they needed, and its timed rounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import pandas as pd

from batchscale.analysis.frames.frames import Frames
from batchscale.analysis.frames.observed import up_to
from batchscale.analysis.frames.schema import CELL, aggregated, one_before, only, values
from batchscale.config.goal import Goal
from batchscale.config.plan import effective_rate
from batchscale.config.vocabulary import Loop, Phase, Point
from batchscale.decisions.rate_choice import Choice, choose_rates
from batchscale.records.row_types import Trial
from batchscale.statistics.intervals import Array, Repetitions

SAME_RATE = 1e-9
"""Relative difference up to which two learning rates count as equal."""


@dataclass(frozen=True)
class Claim:
    """The trials that the claims on one batch size rest on.

    Attributes:
        choice: the chosen rates and options; None where none were searched.
        phase: phase of the trials; None without trials.
        for_target: rows of the `trials` frame at the rate that is best for the target.
        for_score: rows at the rate with the best score, of runs that were not ended before the epoch budget.
        other_arms: rows at each other rate that was confirmed.
    """

    choice: Choice | None
    phase: Phase | None
    for_target: pd.DataFrame
    for_score: pd.DataFrame
    other_arms: tuple[pd.DataFrame, ...] = ()


def horizon(frames: Frames, target: float) -> float:
    """Return the training within which every run could reach a target; infinite where it is not known.

    Runs that trained longer are judged within it too.
    """
    if frames.counted_in != "examples" or not frames.train_examples:
        return np.inf
    return round(frames.experiment.epochs_to_reach(target) * frames.train_examples)


def choices(frames: Frames, target: float) -> dict[int, Choice]:
    """Choose the rates and options of every batch size that was searched."""
    goal, until = frames.experiment.goal.at(target), horizon(frames, target)
    by_size: dict[int, list[Trial]] = {}
    for trial in frames.searched:
        if trial.status != "failed":
            by_size.setdefault(trial.batch_size, []).append(trial)
    within = {size: [up_to(one, goal, until) for one in trials] for size, trials in by_size.items()}
    return choose_rates(within, goal, frames.budget)


def claims(frames: Frames, target: float) -> dict[int, Claim]:
    """Select the trials of each batch size: confirmation at the chosen rate, else search, else the fixed rate.

    For the experiment's own target, the confirmed rate that is nearest to the chosen one counts: both the rule that
    chose it and its neighbours may have been others then. Every confirmed rate is compared.

    A target that is harder than it is judged by the runs that trained the whole epoch budget.

    Trials that ended before their first step are left out. Trials from imported tables count no steps and are kept.
    """
    chosen, trials = choices(frames, target), frames.trials
    stepped = (trials["steps"] > 0) | (frames.imported is not None)
    finished = only(trials, (trials["status"] != "failed") & stepped)
    if frames.experiment.goal.better(target, frames.experiment.goal.threshold):
        finished = only(finished, finished["whole_budget"])
    sizes = np.unique(values(finished, "batch_size")).astype(int).tolist()
    own = target == frames.experiment.goal.threshold
    by_size = {size: only(finished, finished["batch_size"] == size) for size in sizes}
    return {size: _claim(trials, chosen.get(size), own=own) for size, trials in by_size.items()}


def _claim(trials: pd.DataFrame, choice: Choice | None, *, own: bool) -> Claim:
    phases: Sequence[Phase] = ("confirm", "search", "fixed")
    for phase in phases:
        of_phase = only(trials, trials["phase"] == phase)
        # The point between tried ones that a surface chose has no search trial; the nearest one stands for it.
        near = (phase == "confirm" and own) or phase == "search"
        for_target = _at(of_phase, choice.for_target if choice else None, near=near)
        if len(for_target):
            whole = only(of_phase, of_phase["whole_budget"])
            for_score = _at(whole, choice.for_score if choice else None, near=near)
            others = _others(of_phase, for_target) if phase == "confirm" and own else ()
            return Claim(choice, phase, for_target, for_score if len(for_score) else for_target, others)
    return Claim(choice, None, trials.iloc[:0], trials.iloc[:0])


def _at(trials: pd.DataFrame, point: Point | None, *, near: bool = False) -> pd.DataFrame:
    """Return the trials with one rate and options; without a choice, with those that most trials have.

    Args:
        trials: rows of the `trials` frame.
        point: the rate and options.
        near: whether trials with the nearest rate count if none has this one, with the same options if there are any.
    """
    if not len(trials):
        return trials
    points = _points(trials)
    counts = Counter(points)
    wanted = point or max(sorted(counts), key=counts.__getitem__)
    if near:
        wanted = min(sorted(counts), key=lambda one: (one.options != wanted.options, _octaves_off(one, wanted)))
    same_rate = np.isclose(values(trials, "learning_rate"), wanted.learning_rate, rtol=SAME_RATE, atol=0)
    return only(trials, same_rate & [one.options == wanted.options for one in points])


def _octaves_off(one: Point, other: Point) -> float:
    # Rounded, so that of two rates that are equally near the lower one counts, which costs less.
    return round(abs(np.log2(effective_rate(one) / effective_rate(other))), 3)


def _points(trials: pd.DataFrame) -> list[Point]:
    return list(map(Point, values(trials, "learning_rate").tolist(), trials["options"]))


def _others(trials: pd.DataFrame, chosen: pd.DataFrame) -> tuple[pd.DataFrame, ...]:
    """Return the trials at each rate and options that are not those of the chosen ones."""
    left = only(trials, ~trials["trial"].isin(chosen["trial"]))
    return tuple(_at(left, point) for point in sorted(set(_points(left))))


def crossings(frames: Frames, target: float) -> pd.DataFrame:
    """Find where every trial crossed the target: a frame indexed by `trial`, in the unit that training is counted in.

    `examples_to_target` is infinite where it was not reached; `previous_examples` is the evaluation before. For a
    target other than the experiment's, only evaluations up to its `horizon` count.
    """
    trials, unit = frames.trials.set_index("trial"), frames.counted_in
    needed, before = f"{unit}_to_target", f"previous_{unit}"
    if target == frames.experiment.goal.threshold:
        return trials.loc[:, [needed, before]]
    owner, trained = np.asarray(frames.curves["trial"]), values(frames.curves, unit)
    previous = one_before(frames.curves, unit)
    goal = frames.experiment.goal.at(target)
    reached_there = goal.reached(values(frames.curves, "score"))
    above = np.flatnonzero(reached_there & (trained <= horizon(frames, target)))
    reached, first = np.unique(owner[above], return_index=True)
    ended, last = np.unique(owner[::-1], return_index=True)
    found = pd.DataFrame(0.0, index=trials.index, columns=[needed, before])
    found[needed] = np.inf
    found.loc[ended, before] = trained[::-1][last]
    found.loc[reached, needed] = trained[above[first]]
    found.loc[reached, before] = previous[above[first]]
    return found


def around(crossed: pd.DataFrame) -> tuple[Array, Array]:
    """Return the training at the crossing of each trial, and at the evaluation before: both columns of `crossings`."""
    needed, before = crossed.columns
    return values(crossed, needed), values(crossed, before)


def log_needs(trials: pd.DataFrame, crossed: pd.DataFrame, limit: float, least: float = 1.0) -> Repetitions:
    """Return logarithms of the training each trial needed: more than at the evaluation before, up to the crossing.

    Args:
        trials: rows of the `trials` frame.
        crossed: see `crossings`.
        limit: training within which every run could reach the target.
        least: what stands for no training at all.
    """
    if not len(trials):
        return NOTHING
    needed, before = around(crossed.loc[trials["trial"]])
    reached = np.isfinite(needed)
    low, high = (np.log(np.maximum(one[reached], least)) for one in (before, needed))
    latest = float(np.log(limit)) if np.isfinite(limit) else np.inf
    order = np.argsort(high)
    missed = len(needed) - int(reached.sum())
    return Repetitions(np.minimum(low, high)[order], high[order], missed, latest, logarithmic=True)


def best_scores(goal: Goal, trials: pd.DataFrame) -> Repetitions:
    """Return the best validation score of each trial within the epoch budget, oriented so that the least is best."""
    return _falling(goal, values(trials, "best_score"))


def best_averaged_scores(goal: Goal, trials: pd.DataFrame) -> Repetitions:
    """Return the same for the averaged parameters, where an average was kept."""
    return _falling(goal, values(trials, "best_averaged_score"))


def averaged_score_gains(goal: Goal, trials: pd.DataFrame) -> Repetitions:
    """Return how much better the averaged parameters are in each trial, negated.

    The gain is paired by seed, because seeds differ by more than the gain.
    """
    return _falling(goal, values(trials, "best_averaged_score") - values(trials, "best_score"))


def _falling(goal: Goal, seen: Array) -> Repetitions:
    return Repetitions.exact(-goal.rising(seen[np.isfinite(seen)]))


def best_scores_by_steps(frames: Frames, trials: pd.DataFrame, steps: float) -> Repetitions:
    """Return the same within a budget of optimizer steps; trials without an evaluation within it are left out."""
    curves = frames.curves
    own = only(curves, curves["trial"].isin(trials["trial"]) & (curves["steps"] <= steps))
    goal = frames.experiment.goal
    rising = goal.rising(values(own, "score"))
    return Repetitions.exact(-np.asarray(pd.Series(rising).groupby(own["trial"].to_numpy()).max(), dtype=np.float64))


SAME_ROW = 1e-4


def searched_points(searched: pd.DataFrame, unit: str = "epochs") -> pd.DataFrame:
    """Return one row per batch size, rate and options of the search trials.

    Columns: median `needed` to the target in a unit, infinite where missed, and the `diverged` share. `rate` is the
    effective rate, which the grids of all options have in common.
    """
    points = zip(values(searched, "learning_rate").tolist(), searched["options"], strict=True)
    rates = together([effective_rate(Point(rate, options)) for rate, options in points])
    searched = searched.assign(rate=rates, diverged=searched["status"] == "diverged")
    wanted = {"needed": (f"{unit}_to_target", "median"), "diverged": ("diverged", "mean")}
    return aggregated(searched, ["batch_size", "rate", "options"], **wanted)


def together(rates: Sequence[float]) -> Array:
    """Replace rates that differ by rounding alone (six digits in a file, 1 - momentum) by the lowest of them."""
    different, places = np.unique(rates, return_inverse=True)
    starts = np.diff(np.log(different), prepend=-np.inf) > SAME_ROW
    return different[starts][np.cumsum(starts) - 1][places]


def at_best(points: pd.DataFrame, option: str) -> pd.DataFrame:
    """Return one row per batch size and `value` of an option: the rate with the least median `needed`.

    `at_edge` is True where this rate is the lowest or the highest of several that were tried with its options.
    """
    grids = points.groupby(["batch_size", "options"])["rate"]
    low, high = (np.asarray(grids.transform(end), dtype=np.float64) for end in ("min", "max"))
    rates = values(points, "rate")
    at_edge = (low < high) & ((rates == low) | (rates == high))
    value = [dict(options)[option] for options in points["options"]]
    best = points.assign(value=value, at_edge=at_edge).sort_values("needed", kind="stable")
    return best.drop_duplicates(["batch_size", "value"]).sort_values(["value", "batch_size"])


NOTHING = Repetitions.exact([])
OF_PROGRAM = (
    "compile_seconds",
    "peak_bytes",
    "predicted_bytes",
    "flops_per_example",
    "moved_bytes_per_example",
)


@dataclass(frozen=True)
class Speed:
    """The fastest loop at one batch size.

    Attributes:
        loop: how its steps were run.
        accumulation: microbatches of a step.
        rounds: its rows of the `rounds` frame.
    """

    loop: Loop
    accumulation: int
    rounds: pd.DataFrame

    @property
    def unit(self) -> Literal["step", "epoch"]:
        """What its rounds timed."""
        return "epoch" if np.isfinite(values(self.rounds, "epochs")).any() else "step"

    @property
    def seconds(self) -> Array:
        """Seconds per step, or per epoch, of each round."""
        return values(self.rounds, f"seconds_per_{self.unit}")

    @property
    def joules(self) -> Array:
        """Joules per step, or per epoch, of each round; NaN where energy was not measured."""
        return values(self.rounds, "joules") / values(self.rounds, f"{self.unit}s")


def comparable(frames: Frames, cells: pd.DataFrame, devices: int = 1) -> pd.DataFrame:
    """Return the rounds or compilations of steps that the trials took: same precision, examples on the device."""
    plain = (cells["input"] == "device") & (cells["devices"] == devices)
    return only(cells, plain & (cells["precision"] == frames.experiment.workload.precision))


def fastest_loops(frames: Frames, devices: int = 1) -> dict[int, Speed]:
    """Return the fastest loop at each batch size; microbatches count only where no whole batch could be timed."""
    found: dict[int, Speed] = {}
    full = only(frames.compilations, frames.compilations["status"] == "out_of_memory")
    ways = [pd.MultiIndex.from_frame(rows.loc[:, list(CELL)]) for rows in (frames.rounds, full)]
    fitting = only(frames.rounds, ~ways[0].isin(ways[1]))
    rounds = comparable(frames, fitting, devices).sort_values("accumulation", kind="stable")
    for key, group in rounds.groupby(["batch_size", "accumulation", "loop"], sort=False):
        batch_size, accumulation, loop = cast(tuple[int, int, Loop], key)
        known, speed = found.get(batch_size), Speed(loop, int(accumulation), group)
        faster = known is not None and np.median(speed.seconds) < np.median(known.seconds)
        if known is None or (known.accumulation == accumulation and faster):
            found[batch_size] = speed
    return found


def compiled(frames: Frames, batch_size: int, speed: Speed | None) -> dict[str, float]:
    """Return the numbers `OF_PROGRAM` of the timed program, or of any loop's where none was timed; NaN if unknown."""
    rows = comparable(frames, frames.compilations)
    rows = only(rows, rows["batch_size"] == batch_size)
    if speed:
        rows = only(rows, (rows["loop"] == speed.loop) & (rows["accumulation"] == speed.accumulation))
    return {name: float(values(rows, name)[0]) if len(rows) else np.nan for name in OF_PROGRAM}


def median_seconds(speed: Speed | None, unit: Literal["step", "epoch"]) -> float:
    """Return the median of the rounds; NaN where none took any time, or they timed something else."""
    measured = speed.seconds if speed and speed.unit == unit else np.array([])
    return float(np.median(positive)) if len(positive := measured[measured > 0]) else np.nan


def log_seconds(speed: Speed | None) -> Repetitions:
    """Return logarithms of the seconds per step, or per epoch, of the rounds."""
    return _logarithms(speed.seconds) if speed else NOTHING


def log_joules(speed: Speed | None) -> Repetitions:
    """Return logarithms of the joules per step, or per epoch, of the rounds, where energy was measured."""
    return _logarithms(speed.joules) if speed else NOTHING


def _logarithms(measured: Array) -> Repetitions:
    """Return logarithms of the positive values; other values were not measured."""
    return Repetitions.exact(np.log(measured[measured > 0]), logarithmic=True)
