"""Which training runs the claims on each batch size rest on, what they needed and reached, and what was searched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from batchscale.analysis.frames.frames import Frames, up_to
from batchscale.analysis.frames.schema import aggregated, one_before, only, values
from batchscale.analysis.metrics.speeds import NOTHING
from batchscale.analysis.statistics.intervals import Array, Repetitions
from batchscale.config.plan import effective_rate
from batchscale.config.vocabulary import Phase, Point
from batchscale.records.rate_choice import Choice, choose
from batchscale.records.row_types import Trial

SAME_RATE = 1e-9
"""Relative difference within which two learning rates are the same one."""


@dataclass(frozen=True)
class Claim:
    """The trials that the claims on one batch size rest on: `for_target` and `for_accuracy` at the point of each."""

    choice: Choice | None
    phase: Phase | None
    for_target: pd.DataFrame
    for_accuracy: pd.DataFrame


def horizon(frames: Frames, target: float) -> float:
    """Examples that every run had to reach a target; what some reached after them tells nothing of the others."""
    return round(frames.experiment.epochs_to_reach(target) * frames.train_examples) if frames.train_examples else np.inf


def choices(frames: Frames, target: float) -> dict[int, Choice]:
    """The rates and options of every batch size that was searched."""
    goal, until = frames.experiment.goal.at(target), horizon(frames, target)
    by_size: dict[int, list[Trial]] = {}
    for trial in frames.searched:
        if trial.status != "failed":
            by_size.setdefault(trial.batch_size, []).append(trial)
    made = {
        size: choose((up_to(one, until) for one in trials), goal, frames.budget_examples)
        for size, trials in by_size.items()
    }
    return {size: choice for size, choice in made.items() if choice is not None}


def claims(frames: Frames, target: float) -> dict[int, Claim]:
    """The trials to rest each batch size on: confirmation at the chosen rate, else search, else the fixed rate.

    A trial that ended before its first step tells nothing of its batch size; tables from elsewhere count no steps.
    """
    chosen, trials = choices(frames, target), frames.trials
    stepped = (trials["steps"] > 0) | (frames.imported is not None)
    finished = only(trials, (trials["status"] != "failed") & stepped)
    sizes = np.unique(values(finished, "batch_size")).astype(int).tolist()
    return {size: _claim(only(finished, finished["batch_size"] == size), chosen.get(size)) for size in sizes}


def _claim(trials: pd.DataFrame, choice: Choice | None) -> Claim:
    phases: Sequence[Phase] = ("confirm", "search", "fixed")
    for phase in phases:
        of_phase = only(trials, trials["phase"] == phase)
        for_target = _at(of_phase, choice.for_target if choice else None)
        if len(for_target):
            for_accuracy = _at(of_phase, choice.for_accuracy if choice else None)
            return Claim(choice, phase, for_target, for_accuracy if len(for_accuracy) else for_target)
    return Claim(choice, None, trials.iloc[:0], trials.iloc[:0])


def _at(trials: pd.DataFrame, point: Point | None) -> pd.DataFrame:
    """Trials at one point; without a choice, those at the point that most trials have."""
    if not len(trials):
        return trials
    rates = values(trials, "learning_rate")
    points = list(map(Point, rates.tolist(), trials["options"]))
    counts = Counter(points)
    wanted = point or max(sorted(counts), key=counts.__getitem__)
    same_rate = np.isclose(rates, wanted.learning_rate, rtol=SAME_RATE, atol=0)
    return only(trials, same_rate & [one.options == wanted.options for one in points])


def crossings(frames: Frames, target: float) -> pd.DataFrame:
    """`examples_to_target` (infinity when not reached) and `previous_examples` of every trial, indexed by `trial`.

    A target other than the experiment's own is looked for up to its `horizon`.
    """
    trials = frames.trials.set_index("trial")
    if target == frames.experiment.target.accuracy:
        return trials.loc[:, ["examples_to_target", "previous_examples"]]
    owner, examples = np.asarray(frames.curves["trial"]), values(frames.curves, "examples")
    previous = one_before(frames.curves, "examples")
    goal = frames.experiment.goal.at(target)
    reached_there = goal.reached(values(frames.curves, goal.metric))
    above = np.flatnonzero(reached_there & (examples <= horizon(frames, target)))
    reached, first = np.unique(owner[above], return_index=True)
    ended, last = np.unique(owner[::-1], return_index=True)
    found = pd.DataFrame(0.0, index=trials.index, columns=["examples_to_target", "previous_examples"])
    found["examples_to_target"] = np.inf
    found.loc[ended, "previous_examples"] = examples[::-1][last]
    found.loc[reached, "examples_to_target"] = examples[above[first]]
    found.loc[reached, "previous_examples"] = previous[above[first]]
    return found


def log_examples_to_target(trials: pd.DataFrame, crossed: pd.DataFrame, limit_examples: float) -> Repetitions:
    """Logarithms of the examples each trial needed: after the evaluation before the crossing, up to the crossing."""
    if not len(trials):
        return NOTHING
    own = crossed.loc[trials["trial"]]
    reached = only(own, np.isfinite(values(own, "examples_to_target")))
    low = np.log(np.maximum(values(reached, "previous_examples"), 1.0))
    high = np.log(np.maximum(values(reached, "examples_to_target"), 1.0))
    limit = float(np.log(limit_examples)) if np.isfinite(limit_examples) else np.inf
    order = np.argsort(high)
    return Repetitions(np.minimum(low, high)[order], high[order], len(own) - len(reached), limit, logarithmic=True)


def best_accuracies(trials: pd.DataFrame) -> Repetitions:
    """The best validation accuracy of each trial within the budget of epochs, negated: the least is the best."""
    return _negated(values(trials, "best_accuracy"))


def best_ema_accuracies(trials: pd.DataFrame) -> Repetitions:
    """The same of the averaged parameters, where an average was kept."""
    return _negated(values(trials, "best_ema_accuracy"))


def ema_accuracy_gains(trials: pd.DataFrame) -> Repetitions:
    """What the average is better by in each trial, negated too: seeds differ by more than it and its parameters do."""
    return _negated(values(trials, "best_ema_accuracy") - values(trials, "best_accuracy"))


def _negated(seen: Array) -> Repetitions:
    return Repetitions.exact(-seen[np.isfinite(seen)])


def best_accuracies_by_steps(frames: Frames, trials: pd.DataFrame, steps: float) -> Repetitions:
    """The same within a budget of optimizer steps; a trial that was not evaluated within it is left out."""
    curves = frames.curves
    own = only(curves, curves["trial"].isin(trials["trial"]) & (curves["steps"] <= steps))
    goal = frames.experiment.goal
    rising = goal.rising(values(own, goal.metric))
    return Repetitions.exact(-np.asarray(pd.Series(rising).groupby(own["trial"].to_numpy()).max(), dtype=np.float64))


SAME_ROW = 1e-4


def searched_points(searched: pd.DataFrame) -> pd.DataFrame:
    """One row per batch size, rate and options: median `epochs`, infinite where missed, and the `diverged` share.

    `rate` is the effective one, the same number for the grids of all options.
    """
    points = zip(values(searched, "learning_rate").tolist(), searched["options"], strict=True)
    rates = together([effective_rate(Point(rate, options)) for rate, options in points])
    searched = searched.assign(rate=rates, diverged=searched["status"] == "diverged")
    wanted = {"epochs": ("epochs_to_target", "median"), "diverged": ("diverged", "mean")}
    return aggregated(searched, ["batch_size", "rate", "options"], **wanted)


def together(rates: Sequence[float]) -> Array:
    """Rates that differ by rounding alone, which a file's six digits and 1 - momentum do, as the lowest of them."""
    different, places = np.unique(rates, return_inverse=True)
    starts = np.diff(np.log(different), prepend=-np.inf) > SAME_ROW
    return different[starts][np.cumsum(starts) - 1][places]


def at_best(points: pd.DataFrame, option: str) -> pd.DataFrame:
    """One row per batch size and `value` of an option: the point with it that has the fewest median `epochs`.

    It is `at_edge` where its rate is the lowest or the highest of several that were tried with its options.
    """
    grids = points.groupby(["batch_size", "options"])["rate"]
    low, high = (np.asarray(grids.transform(end), dtype=np.float64) for end in ("min", "max"))
    rates = values(points, "rate")
    at_edge = (low < high) & ((rates == low) | (rates == high))
    value = [dict(options)[option] for options in points["options"]]
    best = points.assign(value=value, at_edge=at_edge).sort_values("epochs", kind="stable")
    return best.drop_duplicates(["batch_size", "value"]).sort_values(["value", "batch_size"])
