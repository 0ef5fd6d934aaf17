"""The settings that batch sizes are compared by: where their runs reach the target, and how fast their steps are.

An arm is a batch size at one confirmed learning rate. A batch size can have several; it is tied if any of them is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray

from batchscale.analysis.frames.frames import Frames
from batchscale.analysis.frames.schema import values
from batchscale.analysis.metrics.observations import Claim, Speed, around, horizon
from batchscale.config.goal import Goal
from batchscale.config.vocabulary import Point
from batchscale.decisions.crossings import Run, compared_by, locate_runs, scale_of_scores
from batchscale.statistics.crossing import Crossing
from batchscale.statistics.effects import Effects, of_blocks, of_seeds


@dataclass(frozen=True)
class Arm:
    """A batch size at one learning rate.

    Attributes:
        batch_size: the batch size.
        trials: rows of the `trials` frame, one for each run.
        crossing: where the runs cross the target, smoothed; None where only the crossing was recorded.
        log_needs: what is compared, one value for each run: the logarithm of its training to the target, in the unit
            that the folder counts in; infinite where it missed.
        unresolved: variance of the estimate that no further seed lowers, because evaluations are too far apart.
        later_than: what all runs exceed that missed the target while they still improved; else NaN.
    """

    batch_size: int
    trials: pd.DataFrame
    crossing: Crossing | None
    log_needs: Float[np.ndarray, " runs"]
    unresolved: float = 0.0
    later_than: float = np.nan

    @property
    def key(self) -> tuple[int, Point]:
        """The batch size, and the learning rate with the options that were searched."""
        one = self.trials.iloc[0]
        return self.batch_size, Point(float(one["learning_rate"]), one["options"])

    @property
    def is_smoothed(self) -> bool:
        """True where the need is that of the typical run, False where it is that of first evaluations."""
        return self.crossing is not None and "first" not in self.crossing.flags


def arms(frames: Frames, claims: Mapping[int, Claim], crossed: pd.DataFrame, goal: Goal) -> list[Arm]:
    """Return every arm, by batch size; the one that the claims on a batch size rest on comes first."""
    curves = Curves(frames, goal)
    return [
        _arm(size, trials, curves, crossed)
        for size, claim in claims.items()
        for trials in (claim.for_target, *claim.other_arms)
    ]


class Curves:
    """The evaluations of every run that count for the goal."""

    def __init__(self, frames: Frames, goal: Goal) -> None:
        curves = frames.curves
        self.goal = goal
        self.known = frames.has_scores
        self.places: Mapping[Hashable, NDArray[np.intp]] = curves.groupby("trial").indices
        self.trained, self.scores = values(curves, frames.counted_in), values(curves, "score")
        own = goal.threshold == frames.experiment.goal.threshold
        self.until = np.inf if own else horizon(frames, goal.threshold)
        each = [self.scores[places] for places in self.places.values()]
        self.scale = scale_of_scores(each, goal, frames.validation_examples)

    def run(self, trial: int) -> Run:
        """Return the training and the scores of the evaluations of one run."""
        places = self.places.get(trial, np.zeros(0, dtype=np.intp))
        trained, scores = self.trained[places], self.scores[places]
        return trained[trained <= self.until], scores[trained <= self.until]


def _arm(size: int, trials: pd.DataFrame, curves: Curves, crossed: pd.DataFrame) -> Arm:
    first, previous = around(crossed.loc[trials["trial"]])
    if not curves.known:
        return Arm(size, trials, None, np.log(first))
    runs = [curves.run(int(number)) for number in trials["trial"]]
    found = locate_runs(runs, curves.scale)
    return Arm(size, trials, found, *compared_by(found, first, previous))


def effects_of(found: Sequence[Arm]) -> Effects:
    """Return the effects of the arms, their runs paired by seed."""
    unresolved, later_than = (np.array([getattr(arm, name) for arm in found]) for name in ("unresolved", "later_than"))
    return paired([arm.trials for arm in found], [arm.log_needs for arm in found], unresolved, later_than)


def paired(
    trials: Sequence[pd.DataFrame],
    runs: Sequence[Float[np.ndarray, " _"]],
    unresolved: Float[np.ndarray, " arms"] | None = None,
    later_than: Float[np.ndarray, " arms"] | None = None,
) -> Effects:
    """Return the effects of some arms with one value for each run, the runs of one seed paired.

    Args:
        trials: rows of the `trials` frame for each arm.
        runs: the values of each arm, in the order of its rows; infinite for a run that missed.
        unresolved: see `Arm`; of no arm when None.
        later_than: see `Arm`; of no arm when None.
    """
    rows: dict[tuple[int, int], int] = {}
    entries: list[tuple[int, int, float]] = []
    for column, (own, found) in enumerate(zip(trials, runs, strict=True)):
        repeats: Counter[int] = Counter()
        for seed, value in zip(own["seed"].tolist(), found.tolist(), strict=True):
            entries.append((rows.setdefault((seed, repeats[seed]), len(rows)), column, value))
            repeats[seed] += 1
    table = np.full((len(rows), len(trials)), np.nan)
    for row, column, value in entries:
        table[row, column] = value
    return of_seeds(table, unresolved, later_than)


def timing_of(sizes: Sequence[int], speeds: Mapping[int, Speed]) -> Effects:
    """Return the effects of seconds per step, or epoch, of each batch size, in the blocks that rounds were timed in."""
    timed = [_blocks(speeds[size]) if size in speeds else {} for size in sizes]
    blocks = {number: at for at, number in enumerate(sorted({number for of_size in timed for number in of_size}))}
    longest = max((len(block) for of_size in timed for block in of_size.values()), default=0)
    table = np.full((len(blocks), longest, len(sizes)), np.nan)
    for column, of_size in enumerate(timed):
        for number, block in of_size.items():
            table[blocks[number], : len(block), column] = block
    return of_blocks(table)


def _blocks(speed: Speed) -> dict[int, Float[np.ndarray, " rounds"]]:
    """Return log seconds per step, or epoch, of each block by its number; rounds without time were not measured."""
    seconds, number = speed.seconds, values(speed.rounds, "block").astype(np.int64)
    return {at: np.log(seconds[(number == at) & (seconds > 0)]) for at in np.unique(number).tolist()}
