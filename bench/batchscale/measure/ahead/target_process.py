"""Compile for one described device in a process: a wrong description ends the process that compiles."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

import batchscale
from batchscale.config.experiment import Experiment
from batchscale.measure.ahead.plugins import VARIABLES
from batchscale.measure.data.made_up import ExampleSpec
from batchscale.printable import LONGEST_REASON, bare
from batchscale.records.plan_file import PlannedStep, TargetPlan
from batchscale.records.row_files import LONGEST_LINE_BYTES

PACKAGE = Path(batchscale.__file__).resolve().parents[1]
COMMAND = (
    sys.executable,
    "-P",  # without it Python would import modules of the current folder, such as a user's `models`
    "-c",
    f"import sys; sys.path.append({str(PACKAGE)!r});"
    " from batchscale.measure.ahead import child_main; child_main.main()",
)
LAST_WORDS_BYTES = 4000


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
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(  # noqa: S603 - a fixed argument list, no shell
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, **VARIABLES},
            start_new_session=True,
        )
        try:
            return _plan_of(process, job, see) or _death(process, errors)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(BrokenPipeError):
                        pipe.close()


def _plan_of(process: subprocess.Popen, job: Job, see: Callable[[PlannedStep], object]) -> TargetPlan | None:
    if process.stdin is None or process.stdout is None:
        return None
    with suppress(BrokenPipeError):
        process.stdin.write(msgspec.json.encode(job) + b"\n")
        process.stdin.flush()
    while text := process.stdout.readline(LONGEST_LINE_BYTES):
        line = msgspec.json.decode(text, type=Line)
        if line.plan is not None:
            return line.plan
        if line.step is not None:
            see(line.step)
    return None


def _death(process: subprocess.Popen, errors) -> str:  # noqa: ANN001 - a temporary file has no public type
    status = process.wait()
    how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, size - LAST_WORDS_BYTES))
    lines = [line for line in errors.read().decode(errors="replace").splitlines() if line.strip()]
    return bare(f"the process that compiles {how}: {(lines or ['it wrote no message'])[-1]}", LONGEST_REASON)
