"""The main function of a process that compiles for one described device."""

from __future__ import annotations

from pathlib import Path

import msgspec

from batchscale.measure.ahead import programs, stepping
from batchscale.measure.ahead.programs import Sizes
from batchscale.measure.ahead.target_process import Job, Line
from batchscale.measure.ahead.targets import target_named
from batchscale.measure.control.child_process import begin
from batchscale.measure.device import jax_settings


def main() -> None:
    """Read one job, do it, and write its lines; end when the parent process ends."""
    text, write_bytes = begin()
    jax_settings.hold()
    job = msgspec.json.decode(text, type=Job)

    def write(line: Line) -> None:
        write_bytes(msgspec.json.encode(line) + b"\n")

    target = target_named(job.target)
    session = programs.described_session(
        job.experiment, job.examples, Sizes(*job.splits), target, job.target, Path(job.sources)
    )
    planner = stepping.Planner(session, target, job.examples, lambda step: write(Line(step=step)))
    write(Line(plan=planner.plan(job.target)))


if __name__ == "__main__":
    main()
