"""Turn the curves and final scores of other tools into rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import msgspec

from batchscale.analysis.frames.outside_tables import (
    LARGEST_EXAMPLES,
    experiment_from,
    origin,
    several_rates,
)
from batchscale.analysis.outside.runs import OutsideRun, Reading
from batchscale.analysis.outside.tables import Timing
from batchscale.config.experiment import Experiment
from batchscale.config.goal import METRICS, Goal, MetricName
from batchscale.errors import InputError
from batchscale.records.row_types import Curve, Trial

UNREACHED: dict[MetricName, float] = {
    "accuracy": 1 - 1e-12,
    "loss": 1e-12,
    "bits_per_byte": 1e-12,
    "score": 1e12,
    "cost": -1e12,
}
"""Placeholders for a target that was not given; they are never shown, since `imported.json` records none."""


def curve_experiment(
    reading: Reading,
    timings: Sequence[Timing],
    target: float | None,
    files: tuple[Path, Path | None],
    workload: str | None = None,
) -> Experiment:
    """Build an experiment with the batch sizes and rates of curves or final scores.

    Raises:
        InputError: as `outside_tables.experiment_from`.
    """
    sizes = {run.batch_size for run in reading.runs}
    rates = [run.learning_rate for run in reading.runs]
    threshold = UNREACHED[reading.metric] if target is None else target
    goal = Goal(metric=reading.metric, threshold=threshold, name=reading.name)
    return experiment_from(sizes, {one.batch_size for one in timings}, rates, goal, files, workload)


def examples_of(run: OutsideRun, amount: float, train_examples: int | None, tokens_per_example: int | None) -> int:
    """Convert an amount of training to examples.

    Raises:
        InputError: when the unit needs a number that is not known, or the examples are too many.
    """
    if run.unit is None:
        return 1
    if run.unit == "tokens" and tokens_per_example is None:
        raise InputError(f"{run.where}: tokens: expected --tokens-per-example N, or 1 where batch sizes count tokens")
    if run.unit == "epochs" and train_examples is None:
        raise InputError(f"{run.where}: epochs: expected --train-examples N, the examples in an epoch")
    factors = {
        "steps": run.batch_size,
        "examples": 1,
        "tokens": 1 / (tokens_per_example or 1),
        "epochs": train_examples or 1,
    }
    examples = amount * factors[run.unit]
    if examples > LARGEST_EXAMPLES:
        raise InputError(f"{run.where}: {examples:.3g} examples, expected at most {LARGEST_EXAMPLES:.0e}")
    return round(examples)


def curve_rows(
    reading: Reading,
    experiment: Experiment,
    machine: str,
    train_examples: int | None,
    tokens_per_example: int | None,
) -> Iterator[Trial]:
    """Yield a trial with its curve for every run; runs at several rates become search trials.

    Raises:
        InputError: when two runs have the same batch size, rate and seed.
    """
    searched = several_rates((run.batch_size, run.learning_rate) for run in reading.runs)
    for run, seed in _seeded(reading.runs):
        at = [examples_of(run, one.at, train_examples, tokens_per_example) for one in run.evaluations]
        yield msgspec.convert(
            {
                **origin(experiment, machine),
                "kind": "trial",
                "phase": "search" if searched else "confirm",
                "batch_size": run.batch_size,
                "learning_rate": run.learning_rate,
                "seed": seed,
                "status": "diverged" if run.evaluations[-1].score is None else "ok",
                "train_examples": train_examples or 1,
                "steps": at[-1] // run.batch_size,
                "curve": _curve(run, at, reading.metric),
                "tokens_per_example": tokens_per_example,
                "microbatch_size": run.batch_size,
                "lanes": 1,
            },
            Trial,
        )


def _curve(run: OutsideRun, at: Sequence[int], metric: MetricName) -> Curve:
    if any(later <= earlier for earlier, later in pairwise(at)):
        raise InputError(f"{run.where}: two evaluations within one example, expected them further apart")
    kind = METRICS[metric]
    scores = [None if one.score is None else one.score / kind.scale for one in run.evaluations]
    return Curve(examples=[*at], steps=[one // run.batch_size for one in at], scores={kind.measured_as: scores})


def _seeded(runs: Sequence[OutsideRun]) -> Iterator[tuple[OutsideRun, int]]:
    """Yield every run with its seed; runs without one are numbered within their batch size and rate."""
    numbers: Counter[tuple[int, float | None]] = Counter()
    taken: dict[tuple[int, float | None, int], str] = {}
    for run in runs:
        setting = run.batch_size, run.learning_rate
        seed = numbers[setting] if run.seed is None else run.seed
        numbers[setting] += 1
        if other := taken.get((*setting, seed)):
            raise InputError(f"{run.where}: seed: {seed}, as in {other} at this batch size and rate, expected another")
        taken[*setting, seed] = run.where
        yield run, seed


def budget_of(reading: Reading, train_examples: int | None, tokens_per_example: int | None) -> tuple[int | None, str]:
    """Return the training within which scores are compared, in examples and in words.

    It is the longest that some run at every batch size was trained: the least of the longest runs.
    """
    longest: dict[int, int] = {}
    for run in reading.runs:
        if run.unit is None:
            return None, "the budget of the runs"
        last = examples_of(run, run.evaluations[-1].at, train_examples, tokens_per_example)
        longest[run.batch_size] = max(last, longest.get(run.batch_size, 0))
    examples = min(longest.values())
    return examples, f"{examples:,} examples"


def timings_of(reading: Reading, train_examples: int | None, tokens_per_example: int | None) -> list[Timing]:
    """Return the seconds per step of the runs' own clocks, one timing for each run that has one."""
    timings = []
    for run in reading.runs:
        if run.clock is not None:
            amount, seconds = run.clock
            steps = examples_of(run, amount, train_examples, tokens_per_example) / run.batch_size
            timings.append(Timing(run.batch_size, None, "seconds_per_step", seconds / steps, None))
    return timings
