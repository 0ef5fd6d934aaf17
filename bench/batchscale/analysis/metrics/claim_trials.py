"""What was observed of every batch size, one function per metric: speeds from rounds, needs from trials."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from batchscale.analysis.frames.frames import Frames
from batchscale.analysis.frames.row_frames import up_to
from batchscale.analysis.frames.schema import CELL, one_before, only, values
from batchscale.analysis.statistics.intervals import Array, Repetitions
from batchscale.analysis.summary_types import Phase
from batchscale.config.vocabulary import Loop, Point
from batchscale.records.rate_choice import Choice, choose
from batchscale.records.row_types import Trial

NOTHING = Repetitions.exact([])
SAME_RATE = 1e-9
"""Relative difference within which two learning rates are the same one."""

OF_PROGRAM = (
    "compile_seconds",
    "peak_bytes",
    "predicted_bytes",
    "flops_per_example",
    "compiler_bytes_per_example",
)


@dataclass(frozen=True)
class Claim:
    """The trials that the claims on one batch size rest on: `for_target` and `for_accuracy` at the point of each."""

    choice: Choice | None
    phase: Phase | None
    for_target: pd.DataFrame
    for_accuracy: pd.DataFrame


@dataclass(frozen=True)
class Speed:
    """The rounds of the faster loop at one batch size, and how it was run."""

    loop: Loop
    accumulation: int
    rounds: pd.DataFrame


def batch_sizes(frames: Frames) -> NDArray[np.int64]:
    """Every batch size that was trained or timed on one device, sorted (cells,)."""
    alone = [only(rows, rows["devices"] == 1) for rows in (frames.rounds, frames.compilations)]
    return np.unique(np.concatenate([values(rows, "batch_size") for rows in (*alone, frames.trials)])).astype(np.int64)


def comparable(frames: Frames, cells: pd.DataFrame, devices: int = 1) -> pd.DataFrame:
    """The rounds or compilations that the join may use: data on the device, in the precision that was trained in."""
    plain = (cells["input"] == "device") & (cells["devices"] == devices)
    return only(cells, plain & (cells["precision"] == frames.experiment.workload.precision))


def speeds(frames: Frames, devices: int = 1) -> dict[int, Speed]:
    """The faster loop at each batch size; an accumulated batch only where no whole one was timed to the end."""
    found: dict[int, Speed] = {}
    full = only(frames.compilations, frames.compilations["status"] == "out_of_memory")
    ways = [pd.MultiIndex.from_frame(rows.loc[:, list(CELL)]) for rows in (frames.rounds, full)]
    fitting = only(frames.rounds, ~ways[0].isin(ways[1]))
    rounds = comparable(frames, fitting, devices).sort_values("accumulation", kind="stable")
    for key, group in rounds.groupby(["batch_size", "accumulation", "loop"], sort=False):
        batch_size, accumulation, loop = cast(tuple[int, int, Loop], key)
        known = found.get(batch_size)
        if known is None or (known.accumulation == accumulation and _median(group) < _median(known.rounds)):
            found[batch_size] = Speed(loop, int(accumulation), group)
    return found


def _median(rounds: pd.DataFrame) -> float:
    return float(np.median(values(rounds, "seconds_per_step")))


def compiled(frames: Frames, batch_size: int, speed: Speed | None) -> dict[str, float]:
    """What was said of the program whose times are used, or of any loop's where none was timed; NaN where nothing."""
    rows = comparable(frames, frames.compilations)
    rows = only(rows, rows["batch_size"] == batch_size)
    if speed:
        rows = only(rows, (rows["loop"] == speed.loop) & (rows["accumulation"] == speed.accumulation))
    return {name: float(values(rows, name)[0]) if len(rows) else np.nan for name in OF_PROGRAM}


def seconds_per_step(speed: Speed | None) -> float:
    """The median of the rounds as they have it; NaN where none took any time."""
    measured = values(speed.rounds, "seconds_per_step") if speed else np.array([])
    return float(np.median(positive)) if len(positive := measured[measured > 0]) else np.nan


def log_seconds_per_step(speed: Speed | None) -> Repetitions:
    """Logarithms of the rounds' seconds per step."""
    return _logarithms(values(speed.rounds, "seconds_per_step")) if speed else NOTHING


def log_joules_per_step(speed: Speed | None) -> Repetitions:
    """Logarithms of the rounds' joules per step, where energy was measured."""
    if speed is None:
        return NOTHING
    return _logarithms(values(speed.rounds, "joules") / values(speed.rounds, "steps"))


def log_watts(speed: Speed | None) -> Repetitions:
    """Logarithms of the rounds' mean power."""
    if speed is None:
        return NOTHING
    return _logarithms(values(speed.rounds, "joules") / values(speed.rounds, "seconds"))


def _logarithms(measured: Array) -> Repetitions:
    """Of the values that are positive numbers, which is what was measured."""
    return Repetitions.exact(np.log(measured[measured > 0]), logarithmic=True)


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


def claim_trials(frames: Frames) -> pd.DataFrame:
    """The trials that the claims on every batch size's way to the target rest on."""
    found = claims(frames, frames.experiment.target.accuracy)
    return pd.concat([frames.trials.iloc[:0], *(claim.for_target for claim in found.values())])


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


def whole_batches(frames: Frames, rows: pd.DataFrame) -> pd.DataFrame:
    """The rounds or compilations the answer is made from, the whole batch in one piece."""
    timed = comparable(frames, rows)
    return only(timed, timed["accumulation"] == 1)


def in_microbatches(frames: Frames) -> pd.DataFrame:
    """The rounds of batches that do not fit whole and were timed piece by piece, one update a batch."""
    timed = comparable(frames, frames.rounds)
    return only(timed, timed["accumulation"] > 1)
