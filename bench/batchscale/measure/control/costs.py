"""NEW MODULE."""

from __future__ import annotations

from collections.abc import Sequence

from batchscale.config import plan
from batchscale.config.experiment import Experiment

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
