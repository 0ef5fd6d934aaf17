"""Turn the curves and final scores of other tools into rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import msgspec

from batchscale.analysis.frames.amounts import Amounts, amounts_of
from batchscale.analysis.frames.outside_tables import experiment_from, origin, several_rates
from batchscale.analysis.outside.runs import Evaluation, OutsideRun, Reading
from batchscale.analysis.outside.tables import Timing
from batchscale.config.experiment import Experiment
from batchscale.config.goal import METRICS, Goal, MetricName
from batchscale.errors import InputError
from batchscale.records.curves import Curve
from batchscale.records.row_types import Trial

UNREACHED: dict[MetricName, float] = {
    "accuracy": 1 - 1e-12,
    "loss": 1e-12,
    "bits_per_byte": 1e-12,
    "score": 1e12,
    "cost": -1e12,
}
"""Placeholders for a target that was not given; they are never shown, since `imported.json` records none."""
SURELY_THE_SAME = 5
"""Different scores of a run without a seed from which another one with the same scores is a copy of it."""


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


def amounts_of_runs(reading: Reading, train_examples: int | None, tokens_per_example: int | None) -> Amounts:
    """Decide what the runs are counted in.

    Raises:
        InputError: when two runs do not count in the same unit.
    """
    return amounts_of([(run.unit, run.where) for run in reading.runs], train_examples, tokens_per_example)


def curve_rows(reading: Reading, experiment: Experiment, machine: str, amounts: Amounts) -> Iterator[Trial]:
    """Yield a trial with its curve for every run; runs at several rates become search trials.

    Raises:
        InputError: when two runs have the same batch size, rate and seed.
    """
    searched = several_rates((run.batch_size, run.learning_rate) for run in reading.runs)
    for run, seed in _seeded(reading.runs):
        curve = _curve(run, amounts, reading.metric)
        yield msgspec.convert(
            {
                **origin(experiment, machine),
                "kind": "trial",
                "phase": "search" if searched else "confirm",
                "batch_size": run.batch_size,
                "learning_rate": run.learning_rate,
                "seed": seed,
                "status": "diverged" if run.evaluations[-1].score is None else "ok",
                "train_examples": amounts.train_examples,
                "steps": curve.steps[-1] if curve.steps else None,
                "curve": curve,
                "tokens_per_example": amounts.tokens_per_example,
                "microbatch_size": run.batch_size,
                "lanes": 1,
            },
            Trial,
        )


def _curve(run: OutsideRun, amounts: Amounts, metric: MetricName) -> Curve:
    at = [_trained(run, one.at, amounts) for one in run.evaluations]
    if any(later <= earlier for earlier, later in pairwise(at)):
        raise InputError(f"{run.where}: two evaluations within one example, expected them further apart")
    kind = METRICS[metric]
    scores = [None if one.score is None else one.score / kind.scale for one in run.evaluations]
    return amounts.curve(at, run.batch_size, kind.measured_as, scores)


def _trained(run: OutsideRun, amount: float, amounts: Amounts) -> float:
    return amounts.trained(amount, run.unit, run.batch_size, run.where)


def _seeded(runs: Sequence[OutsideRun]) -> Iterator[tuple[OutsideRun, int]]:
    """Yield every run with its seed; runs without one are numbered within their batch size and rate."""
    numbers: Counter[tuple[int, float | None]] = Counter()
    taken: dict[tuple[int, float | None, int], str] = {}
    curves: dict[tuple[int, float | None, tuple[Evaluation, ...]], str] = {}
    for run in runs:
        setting = run.batch_size, run.learning_rate
        if run.seed is None and len({one.score for one in run.evaluations}) >= SURELY_THE_SAME:
            if other := curves.get((*setting, run.evaluations)):
                raise InputError(f"{run.where}: the same scores as in {other}, expected each run once")
            curves[*setting, run.evaluations] = run.where
        seed = numbers[setting] if run.seed is None else run.seed
        numbers[setting] += 1
        if other := taken.get((*setting, seed)):
            raise InputError(f"{run.where}: seed: {seed}, as in {other} at this batch size and rate, expected another")
        taken[*setting, seed] = run.where
        yield run, seed


def budget_of(reading: Reading, amounts: Amounts) -> float | None:
    """Return the training within which scores are compared; None where only final scores are known.

    It is the longest that some run at every batch size was trained: the least of the longest runs.
    """
    if amounts.counted_in == "budgets":
        return None
    longest: dict[int, float] = {}
    for run in reading.runs:
        last = _trained(run, run.evaluations[-1].at, amounts)
        longest[run.batch_size] = max(last, longest.get(run.batch_size, 0.0))
    return min(longest.values())


def timings_of(reading: Reading, amounts: Amounts) -> list[Timing]:
    """Return the seconds per step, or per epoch, of the runs' own clocks, one timing for each run that has one."""
    timings = []
    for run in reading.runs:
        if run.clock is not None and amounts.timed_in is not None:
            trained, seconds = _trained(run, run.clock[0], amounts), run.clock[1]
            unit = f"seconds_per_{amounts.timed_in.removesuffix('s')}"
            each = seconds / (trained / amounts.per(amounts.timed_in, run.batch_size))
            timings.append(Timing(run.batch_size, None, unit, each, None))
    return timings
