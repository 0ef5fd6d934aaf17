"""Locate where the typical run of a setting reaches the goal, from the curves of its trials.

Curves are read on the logarithm of the gap to the ideal score: of the validation error, or of the loss itself. A score
without an ideal one, such as a reward, is read as it is: see `Scale`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from batchscale.config.goal import Goal, MetricName
from batchscale.records.row_types import Trial
from batchscale.statistics.crossing import FLAT, Crossing, locate_crossing, table_of

FLAT_SLOPES: dict[MetricName, float] = {
    "accuracy": FLAT,
    "loss": -0.02,
    "bits_per_byte": -0.02,
    "score": -0.03,
    "cost": -0.03,
}
"""Slope on log examples above which a curve hardly falls. The loss of a language model falls as the power -0.05 to -0.1
of its data (Kaplan et al., 2020, Scaling Laws for Neural Language Models), where an error on digits falls as -0.3. A
score without an ideal one is flat where e times the training adds 3% of its whole rise; over five e-folds it adds 20%
on average."""

WIDEST = np.log(4)
"""Log examples that the gap before a first evaluation counts for at most."""

Run = tuple[Float[np.ndarray, " _"], Float[np.ndarray, " _"]]
"""Training before the evaluations of one run, in examples unless its curve counts otherwise, and their scores."""


@dataclass(frozen=True)
class Scale:
    """How scores are read as numbers that fall while training goes on.

    With an ideal score this is the logarithm of the gap to it. Without one it is the score itself, in units of `unit`,
    negated where more is better; adding a number to all scores, or multiplying them by one, then changes no crossing.

    No ideal score is made up, such as one just above the best score seen: noise would move it, and the crossing with
    it, so that batch sizes of unlike noise could not be compared. The tests simulate this. Where the score rises very
    steeply, its smoothed crossing is somewhat late.

    Attributes:
        unit: Gap at which a perfect score counts, since 0 has no logarithm. Without an ideal score, the rise from the
            first evaluation of the typical run to the best score of any run; a run that loses log 2 of it collapsed.
    """

    goal: Goal
    unit: float

    @property
    def flat(self) -> float:
        """Slope on log examples above which a curve hardly falls."""
        return FLAT_SLOPES[self.goal.metric]

    @property
    def target(self) -> float:
        """The threshold of the goal."""
        return float(self.falling(np.array([self.goal.threshold]))[0])

    def falling(self, scores: Float[np.ndarray, " _"]) -> Float[np.ndarray, " _"]:
        """Read scores on this scale."""
        gaps = self.goal.gap(scores)
        return gaps / self.unit if self.goal.kind.ideal is None else np.log(np.maximum(gaps, self.unit))

    def of_run(self, run: Run) -> Run:
        """Read the evaluations of a run on this scale; those before its first step are left out."""
        at, scores = run
        return at[at > 0], self.falling(scores[at > 0])

    def score(self, falling: float) -> float:
        """Return the score of a number on this scale."""
        ideal = self.goal.kind.ideal
        if ideal is None:
            return float(self.goal.rising(-falling * self.unit))
        return float(self.goal.rising(self.goal.rising(ideal) - np.exp(falling)))


def locate(trials: Sequence[Trial], goal: Goal) -> Crossing:
    """Locate where the typical run of some trials of one setting reaches the goal, with one value for each trial.

    Trials that were never evaluated count as misses.
    """
    return locate_runs([_run(trial, goal) for trial in trials], scale_of(trials, goal))


def locate_runs(runs: Sequence[Run], scale: Scale) -> Crossing:
    """Locate the same from the evaluations of each run."""
    return locate_crossing(*table_of([scale.of_run(run) for run in runs]), scale.target, scale.flat)


class Compared(NamedTuple):
    """What the runs of one setting are compared by.

    Attributes:
        log_examples: One value per run, infinite where it missed.
        unresolved: Variance of the estimate that no further seed lowers, because evaluations are too far apart.
        later_than: Logarithm of the examples before which surely no run reaches the goal, where all of them missed it
            and still improved; else NaN.
    """

    log_examples: Float[np.ndarray, " runs"]
    unresolved: float = 0.0
    later_than: float = np.nan


def compared_by(found: Crossing, first: Float[np.ndarray, " runs"], previous: Float[np.ndarray, " runs"]) -> Compared:
    """Choose what the runs of a setting are compared by: smoothed crossings, unless the target comes before the curve.

    There they are compared by the middle between the two evaluations around it. Runs that end soon after the target
    keep their smoothed crossing: first evaluations at 16 per epoch come 20% too early, whatever the runs do later.

    Args:
        found: Where the runs cross the target, smoothed.
        first: Examples at the first evaluation of each run at the target, infinite where there is none.
        previous: Examples at the evaluation before.
    """
    if "first" not in found.flags:
        return Compared(found.values, later_than=found.later_than)
    reached = np.isfinite(first)
    middles = np.where(reached, np.log((np.where(reached, first, 1) + previous) / 2), np.inf)
    gaps = np.log(np.maximum(first[reached], 1)) - np.log(np.maximum(previous[reached], 1))
    width = np.minimum(gaps, WIDEST)
    return Compared(middles, float(np.mean(width**2) / 12) if reached.any() else 0.0)


def typical_examples(trials: Sequence[Trial], goal: Goal) -> float:
    """Return the logarithm of the examples at which the typical run of some trials reaches the goal, or infinity."""
    return locate(trials, goal).typical


def scale_of(trials: Sequence[Trial], goal: Goal) -> Scale:
    """Return the scale on which curves of some trials are read."""
    sizes = {trial.validation_examples for trial in trials}
    smallest = None if None in sizes else min((size for size in sizes if size), default=None)
    return scale_of_scores([_run(trial, goal)[1] for trial in trials], goal, smallest)


def scale_of_scores(scores: Sequence[Float[np.ndarray, " _"]], goal: Goal, validation_examples: int | None) -> Scale:
    """Return the same from the scores of each run.

    A perfect accuracy counts as half of what one validation example changes in it; otherwise a perfect score counts as
    half of the least gap that was seen.
    """
    gaps = [gap[np.isfinite(gap)] for gap in map(goal.gap, scores)]
    gaps = [gap for gap in gaps if len(gap)]
    if goal.kind.ideal is None:
        rise = float(np.median([gap[0] for gap in gaps]) - min(gap.min() for gap in gaps)) if gaps else 0.0
        return Scale(goal, rise or 1.0)
    if goal.kind.is_share and validation_examples:
        return Scale(goal, 0.5 / validation_examples)
    return Scale(goal, 0.5 * min((float(gap[gap > 0].min()) for gap in gaps if (gap > 0).any()), default=1.0))


def _run(trial: Trial, goal: Goal) -> Run:
    return np.array(trial.curve.trained, dtype=np.float64), np.array(trial.curve.values(goal.metric), dtype=np.float64)
