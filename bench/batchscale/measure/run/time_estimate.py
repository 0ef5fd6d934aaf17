"""How much work an experiment is, before it is done: for budgets, and for a time left that is honest from the start.

The constants are rough and only plan; what is measured replaces them while a run goes on.
"""

from __future__ import annotations

from collections.abc import Sequence

from batchscale.config import plan
from batchscale.config.experiment import Experiment
from batchscale.measure.control.progress import (
    CALIBRATIONS,
    SECONDS_PER_CALIBRATION,
    SECONDS_PER_PAGE,
    SECONDS_PER_TIER,
    confirm_trials,
    lowering_seconds,
    max_batch_size_seconds,
    search_trials,
    timing_seconds,
)
from batchscale.measure.convergence.lane_programs import trial_seconds
from batchscale.measure.device.compiled_programs import Tuned


def seconds(
    experiment: Experiment,
    train_examples: int,
    tiers: Sequence[plan.Tier],
    tuned: Sequence[Tuned],
    devices: Sequence[int] = (),
    lowerings: int = 1,
) -> float:
    """Both stages, the calibration and the page.

    `tuned` is the speed of each tier, `devices` how many share a batch, `lowerings` how many are tried.
    """
    duration = plan.duration(experiment, train_examples)
    training = sum(
        (search_trials(experiment, tier) + confirm_trials(experiment, tier)) * trial_seconds(duration, speed)
        for tier, speed in zip(tiers, tuned, strict=True)
    )
    sizes = [size for tier in tiers for size in tier.batch_sizes]
    cells = plan.cells(experiment, sizes, devices, train_examples)
    compiling = len(tiers) * SECONDS_PER_TIER + lowering_seconds(experiment, sizes, lowerings)
    ends = CALIBRATIONS * SECONDS_PER_CALIBRATION + max_batch_size_seconds(experiment) + SECONDS_PER_PAGE
    return ends + compiling + timing_seconds(experiment, len(cells)) + training
