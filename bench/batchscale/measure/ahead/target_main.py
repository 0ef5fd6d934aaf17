"""The main function of a process that compiles for one described device."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from threading import Thread

import msgspec

from batchscale.measure.ahead import programs, stepping
from batchscale.measure.ahead.child_process import Job, Line
from batchscale.measure.ahead.programs import Sizes
from batchscale.measure.ahead.targets import target_named


def main() -> None:
    """Read one job, do it, and write its lines; end when the parent process ends."""
    output = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints must not be taken for a line
    job = msgspec.json.decode(sys.stdin.buffer.readline(), type=Job)
    Thread(target=_end_with_parent, daemon=True).start()

    def write(line: Line) -> None:
        os.write(output, msgspec.json.encode(line) + b"\n")

    target = target_named(job.target)
    session = programs.described_session(
        job.experiment, job.examples, Sizes(*job.splits), target, job.target, Path(job.sources)
    )
    planner = stepping.Planner(session, target, job.examples, lambda step: write(Line(step=step)))
    write(Line(plan=planner.plan(job.target)))


def _end_with_parent() -> None:
    """Wait until standard input ends, as it does when the parent ends for any reason; then end this process."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
