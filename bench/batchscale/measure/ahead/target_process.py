"""Compile for one described device in a process: a wrong description ends the process that compiles."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from batchscale.config.experiment import Experiment
from batchscale.measure.ahead.plugins import VARIABLES
from batchscale.measure.control.child_process import ChildProcess, command
from batchscale.measure.data.made_up import ExampleSpec
from batchscale.printable import LONGEST_REASON, bare
from batchscale.records.plan_file import PlannedStep, TargetPlan

COMMAND = command("batchscale.measure.ahead.target_main")


class Job(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a process plans.

    Attributes:
        experiment: The experiment.
        sources: The folder that paths of the experiment are relative to.
        examples: What its examples look like.
        splits: Examples of train, validation and test split.
        target: Name of the device.
    """

    experiment: Experiment
    sources: str
    examples: ExampleSpec
    splits: tuple[int, int, int]
    target: str


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the process's output: a step as soon as it is planned, or the whole plan."""

    step: PlannedStep | None = None
    plan: TargetPlan | None = None


def planned(job: Job, see: Callable[[PlannedStep], object]) -> TargetPlan | str:
    """Run a job and return its plan, or the reason why there is none.

    Args:
        job: The job.
        see: Called with every step once it is planned.
    """
    with ChildProcess(job, COMMAND, VARIABLES) as process:
        for text in process.lines():
            try:
                line = msgspec.json.decode(text, type=Line)
            except msgspec.DecodeError:
                return "the process that compiles wrote something other than a plan"
            if line.plan is not None:
                return line.plan
            if line.step is not None:
                see(line.step)
        why = process.cause() or "it wrote no message"
        return bare(f"the process that compiles {process.how_it_ended()}: {why}", LONGEST_REASON)
