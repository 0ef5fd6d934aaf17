"""How much work an experiment is, before it is done: for budgets, and for a time left that is honest from the start.

The constants are rough and only plan; what is measured replaces them while a run goes on.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from bench import plan
from bench.experiment import Experiment
from bench.measure.loops import cell_keys, parallel_keys
from bench.measure.tuning import Tuned

SECONDS_PER_CELL = 1.2
"""Compiling and calibrating one throughput cell."""
SECONDS_PER_LOWERING = 2.5
"""Compiling and trying a lowering at one batch size."""
LOWERINGS_APART = 4
"""The factor between the batch sizes at which they are tried."""
SECONDS_PER_TIER = 8.0
"""Compiling its programs: one for the search, others for its compacted and its confirmed lanes, and evaluation."""
SECONDS_PER_PAGE = 10.0
CALIBRATIONS = 5
SECONDS_PER_CALIBRATION = 0.5
"""Measuring one of the things that a device can do at best."""
MAX_BATCH_SIZE_SECONDS = 20.0
"""Starting a process, compiling a step of the whole training set and running it once."""
SHARE_OF_SEARCH = 0.85
"""Of the examples a full search would train to the epoch budget; racing saves the rest."""
RATES_CONFIRMED = 1.6
"""Rates confirmed per batch size, on average."""
BEYOND_BUDGET = 1.2
"""Trials that go on towards the target after the epoch budget, over all that stop there."""


def timing_seconds(experiment: Experiment, cells: int) -> float:
    """So many cells of the throughput stage."""
    table = experiment.throughput
    return cells * (table.rounds * table.round_seconds + SECONDS_PER_CELL)


def lowering_seconds(experiment: Experiment, batch_sizes: Sequence[int], lowerings: int) -> float:
    """Trying each of so many lowerings in every precision; a single one needs no trial."""
    precisions = max(1, len(experiment.throughput.precisions))
    trials = len(plan.spaced(batch_sizes, LOWERINGS_APART)) * precisions * lowerings
    return trials * SECONDS_PER_LOWERING if lowerings > 1 else 0.0


def max_batch_size_seconds(experiment: Experiment) -> float:
    """The search for the largest batch size."""
    return MAX_BATCH_SIZE_SECONDS if experiment.throughput.max_batch_size != "skip" else 0.0


def search_trials(experiment: Experiment, tier: plan.Tier) -> float:
    """A tier's search, as a number of trials to the epoch budget."""
    points = sum(len(plan.points(experiment, size)) for size in tier.batch_sizes)
    return points * experiment.seeds.search * SHARE_OF_SEARCH


def confirm_trials(experiment: Experiment, tier: plan.Tier) -> float:
    """A tier's confirmation, the fixed rate included, as a number of trials to the epoch budget."""
    rates = RATES_CONFIRMED + (experiment.learning_rate.fixed is not None)
    return len(tier.batch_sizes) * rates * experiment.seeds.confirm * BEYOND_BUDGET


def trial_seconds(duration: plan.Duration, tuned: Tuned) -> float:
    """One trial's share of the time until its tier has reached the epoch budget, evaluations included."""
    evaluations = bisect_right(duration.evaluations, duration.budget_examples)
    return duration.budget_examples / tuned.examples_per_second + evaluations * tuned.seconds_per_evaluation


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
    cells = [*cell_keys(experiment, sizes), *parallel_keys(experiment, sizes, devices, train_examples)]
    compiling = len(tiers) * SECONDS_PER_TIER + lowering_seconds(experiment, sizes, lowerings)
    ends = CALIBRATIONS * SECONDS_PER_CALIBRATION + max_batch_size_seconds(experiment) + SECONDS_PER_PAGE
    return ends + compiling + timing_seconds(experiment, len(cells)) + training
