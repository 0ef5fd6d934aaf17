"""How long an experiment takes, estimated before it runs, so that it can be scaled to a number of minutes."""

from __future__ import annotations

from collections.abc import Sequence

from batchscale.config import plan
from batchscale.config.experiment import Experiment
from batchscale.measure.control.progress import (
    CALIBRATIONS,
    SECONDS_PER_CALIBRATION,
    SECONDS_PER_LOWERING,
    SECONDS_PER_PAGE,
    confirm_trials,
    later_blocks,
    lowering_trials,
    max_batch_size_seconds,
    search_trials,
    timing_seconds,
)
from batchscale.measure.convergence.tiers import trial_seconds
from batchscale.measure.device.compiled_programs import Tuned
from batchscale.measure.device.platform_policy import CompileSeconds


def seconds(
    experiment: Experiment,
    train_examples: int,
    tiers: Sequence[plan.Tier],
    tuned: Sequence[Tuned],
    compiling: CompileSeconds,
    devices: Sequence[int] = (),
    lowerings: int = 1,
    *,
    graphs: bool = False,
    energy_seconds: float = 0.0,
) -> float:
    """Estimate the seconds of both stages, the calibration and the page.

    Args:
        experiment: The experiment, scaled.
        train_examples: Size of the train split.
        tiers: Batch sizes that share a program.
        tuned: The measured speed of each tier.
        compiling: How long programs take to compile.
        devices: Numbers of devices above 1 that a batch is split over.
        lowerings: How many lowerings are tried.
        graphs: True if loops are timed as CUDA graphs too.
        energy_seconds: How long a round must last for its energy to be known.
    """
    duration = plan.duration(experiment, train_examples)
    training = sum(
        (search_trials(experiment, tier) + confirm_trials(experiment, tier)) * trial_seconds(duration, speed)
        for tier, speed in zip(tiers, tuned, strict=True)
    )
    sizes = [size for tier in tiers for size in tier.batch_sizes]
    cells = plan.cells(experiment, sizes, devices, train_examples, graphs=graphs)
    tried = lowering_trials(experiment, sizes, lowerings)
    trying = tried * (SECONDS_PER_LOWERING + compiling.of_a_cell(tried))
    ends = CALIBRATIONS * SECONDS_PER_CALIBRATION + max_batch_size_seconds(experiment) + SECONDS_PER_PAGE
    later = later_blocks(experiment) * len(sizes)
    timed, loops = len(cells) + later, len(experiment.throughput.loops) + graphs
    rounds = timing_seconds(experiment, len(cells), energy_seconds, loops)
    timing = rounds + timing_seconds(experiment, later, energy_seconds) + timed * compiling.of_a_cell(len(cells))
    return ends + trying + len(tiers) * compiling.of_a_tier + timing + training
