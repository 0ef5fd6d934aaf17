"""Locate where the typical run of a setting reaches the goal, from the curves of its trials.

Curves are read on the logarithm of the gap to the ideal score: of the validation error, or of the loss itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from batchscale.config.goal import Goal, MetricName
from batchscale.records.row_types import Trial
from batchscale.statistics.crossing import FLAT, Crossing, locate_crossing, table_of

FLAT_SLOPES: dict[MetricName, float] = {"accuracy": FLAT, "loss": -0.02, "bits_per_byte": -0.02}
"""Slope on log examples above which a curve hardly falls. The loss of a language model falls as the power -0.05 to -0.1
of its data (Kaplan et al., 2020, Scaling Laws for Neural Language Models), where an error on digits falls as -0.3."""


def locate(trials: Sequence[Trial], goal: Goal) -> Crossing:
    """Locate where the typical run of some trials of one setting reaches the goal, with one value for each trial.

    Trials that were never evaluated count as misses.
    """
    least = least_gap(trials, goal)
    runs = [_log_gaps(trial, goal, least) for trial in trials]
    target = float(np.log(max(goal.gap(goal.threshold), least)))
    return locate_crossing(*table_of(runs), target, FLAT_SLOPES[goal.metric])


def typical_examples(trials: Sequence[Trial], goal: Goal) -> float:
    """Return the logarithm of the examples at which the typical run of some trials reaches the goal, or infinity."""
    return locate(trials, goal).typical


def least_gap(trials: Sequence[Trial], goal: Goal) -> float:
    """Return the gap at which a perfect score counts, since 0 has no logarithm.

    It is half of what one validation example changes in an accuracy; otherwise half of the least gap that was seen.
    """
    sizes = {trial.validation_examples for trial in trials}
    if goal.metric == "accuracy" and None not in sizes and sizes:
        return 0.5 / max(size for size in sizes if size)
    gaps = [goal.gap(score) for trial in trials for score in trial.curve.values(goal.metric)]
    return 0.5 * min((gap for gap in gaps if gap > 0), default=1.0)


def _log_gaps(
    trial: Trial, goal: Goal, least: float
) -> tuple[Float[np.ndarray, " evaluations"], Float[np.ndarray, " evaluations"]]:
    examples = np.array(trial.curve.examples, dtype=np.float64)
    gaps = goal.gap(np.array(trial.curve.values(goal.metric), dtype=np.float64))
    started = examples > 0
    return examples[started], np.log(np.maximum(gaps[started], least))
