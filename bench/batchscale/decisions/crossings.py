"""Locate where the typical run of a setting reaches the goal, from the curves of its trials.

Curves are read on the logarithm of the gap to the ideal score: of the validation error, or of the loss itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from batchscale.config.goal import Goal, MetricName
from batchscale.records.row_types import Trial
from batchscale.statistics.crossing import FLAT, Crossing, locate_crossing, table_of

FLAT_SLOPES: dict[MetricName, float] = {"accuracy": FLAT, "loss": -0.02, "bits_per_byte": -0.02}
"""Slope on log examples above which a curve hardly falls. The loss of a language model falls as the power -0.05 to -0.1
of its data (Kaplan et al., 2020, Scaling Laws for Neural Language Models), where an error on digits falls as -0.3."""

WIDEST = np.log(4)
"""Log examples that the gap before a first evaluation counts for at most."""

Run = tuple[Float[np.ndarray, " _"], Float[np.ndarray, " _"]]
"""Examples and validation scores of the evaluations of one run."""


def locate(trials: Sequence[Trial], goal: Goal) -> Crossing:
    """Locate where the typical run of some trials of one setting reaches the goal, with one value for each trial.

    Trials that were never evaluated count as misses.
    """
    return locate_runs([_run(trial, goal) for trial in trials], goal, least_gap(trials, goal))


def locate_runs(runs: Sequence[Run], goal: Goal, least: float) -> Crossing:
    """Locate the same from the evaluations of each run; `least` is the gap at which a perfect score counts."""
    falling = [log_gaps(run, goal, least) for run in runs]
    target = float(np.log(max(goal.gap(goal.threshold), least)))
    return locate_crossing(*table_of(falling), target, FLAT_SLOPES[goal.metric])


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


def log_gaps(run: Run, goal: Goal, least: float) -> Run:
    """Return the evaluations of a run with the logarithms of the gaps to the ideal score, none below `least`."""
    at, scores = run
    return at[at > 0], np.log(np.maximum(goal.gap(scores[at > 0]), least))


def typical_examples(trials: Sequence[Trial], goal: Goal) -> float:
    """Return the logarithm of the examples at which the typical run of some trials reaches the goal, or infinity."""
    return locate(trials, goal).typical


def least_gap(trials: Sequence[Trial], goal: Goal) -> float:
    """Return the gap at which a perfect score counts, since 0 has no logarithm.

    It is half of what one validation example changes in an accuracy; otherwise half of the least gap that was seen.
    """
    sizes = {trial.validation_examples for trial in trials}
    smallest = None if None in sizes else min((size for size in sizes if size), default=None)
    return least_gap_of([_run(trial, goal)[1] for trial in trials], goal, smallest)


def least_gap_of(scores: Sequence[Float[np.ndarray, " _"]], goal: Goal, validation_examples: int | None) -> float:
    """Return the same from the scores of each run."""
    if goal.kind.is_share and validation_examples:
        return 0.5 / validation_examples
    gaps = [goal.gap(one) for one in scores]
    return 0.5 * min((float(gap[gap > 0].min()) for gap in gaps if (gap > 0).any()), default=1.0)


def _run(trial: Trial, goal: Goal) -> Run:
    return np.array(trial.curve.examples, dtype=np.float64), np.array(trial.curve.values(goal.metric), dtype=np.float64)
