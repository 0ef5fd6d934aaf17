"""Join a plan with steps that were measured elsewhere: the least time to the goal on a device that nobody had."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from batchscale.analysis import number_format
from batchscale.analysis.frames import frames
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.summary.batch_size_rows import cells
from batchscale.analysis.summary_types import BatchSizeSummary
from batchscale.config.experiment import Experiment, Workload
from batchscale.errors import InputError
from batchscale.printable import printable, visible
from batchscale.records.plan_file import LeastTime, Plan, PlannedStep, TargetPlan


class Needs(NamedTuple):
    """Steps to a goal, as a results folder has them.

    Attributes:
        source: The name of the folder.
        goal: The goal, in words.
        cells: The batch sizes that reached it.
    """

    source: str
    goal: str
    cells: list[BatchSizeSummary]


def needs_of(folder: Path, workload: Workload) -> Needs:
    """Return the steps to the goal of a results folder.

    Args:
        folder: The results folder.
        workload: What is planned, and must have been trained there.

    Raises:
        InputError: When the folder holds other training, or no batch size of it reached the goal.
    """
    trained = frames.load(folder)
    _refuse_unlike(workload, trained.experiment, folder)
    if reason := trained.amounts.why_no("steps"):
        raise InputError(f"--needs {folder}: {reason}, expected steps to the target")
    reached = [cell for cell in cells(Sweep.of(trained)) if cell.steps_to_target.median is not None]
    if not reached:
        raise InputError(f"--needs {folder}: no batch size reached the target, expected steps to it")
    source = visible(f"{folder.resolve().parent.name}/{folder.resolve().name}")
    return Needs(source, number_format.goal(trained.experiment.goal), reached)


def with_steps(plan: Plan, needs: Needs) -> Plan:
    """Return the plan with the least time to the goal at every batch size that reached it."""
    return msgspec.structs.replace(
        plan,
        steps_from=needs.source,
        goal=needs.goal,
        targets=[_joined(target, needs.cells) for target in plan.targets],
    )


def _refuse_unlike(workload: Workload, experiment: Experiment, folder: Path) -> None:
    """Refuse steps of another workload; precision changes them little and may differ."""
    for field in sorted({*workload.__struct_fields__} - {"precision"}):
        found, expected = getattr(experiment.workload, field), getattr(workload, field)
        if found != expected:
            raise InputError(
                f"--needs {folder}: workload.{field}: {printable(found)}, expected {printable(expected)} as planned"
            )


def _joined(target: TargetPlan, cells: Sequence[BatchSizeSummary]) -> TargetPlan:
    steps = {step.batch_size: step for step in target.steps if step.fits}
    times = [_least_time(cell, steps[cell.batch_size]) for cell in cells if cell.batch_size in steps]
    best = min((time.likely_seconds[1] for time in times), default=math.inf)
    return msgspec.structs.replace(
        target,
        least_times=times,
        may_be_optimal=[time.batch_size for time in times if time.least_seconds <= best],
        likely_optimal=[time.batch_size for time in times if time.likely_seconds[0] <= best],
    )


def _least_time(cell: BatchSizeSummary, step: PlannedStep) -> LeastTime:
    median, fewest = cell.steps_to_target.median or 0.0, cell.steps_to_target.interval[0]
    low, high = step.likely_seconds or (0.0, math.inf)
    return LeastTime(
        batch_size=cell.batch_size,
        steps=median,
        least_seconds=(median if fewest is None else fewest) * (step.bound_seconds or 0.0),
        likely_seconds=(median * low, median * high),
    )
