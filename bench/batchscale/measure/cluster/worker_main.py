"""The main function of a worker: it does one piece of work with JAX and answers with rows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from batchscale.errors import InputError
from batchscale.measure.cluster.messages import (
    Answer,
    Assignment,
    Choices,
    Greeting,
    Instructions,
    Refusal,
    differences,
    versions_of,
)
from batchscale.measure.cluster.messages import encoded as line_of
from batchscale.measure.control.child_process import begin
from batchscale.measure.control.progress import Progress
from batchscale.measure.convergence.stage import Convergence
from batchscale.measure.convergence.tiers import LanePrograms, TuningJob
from batchscale.measure.convergence.trial_job import TrialJob
from batchscale.measure.data import datasets
from batchscale.measure.device.compiled_programs import TuningFile
from batchscale.measure.device.machine import Host
from batchscale.measure.session import Session
from batchscale.measure.throughput.stage import Throughput, TimingJob
from batchscale.records.row_types import Stage

Send = Callable[[Answer], None]


def main() -> None:
    """Read one piece of work and do it; end when the parent process ends."""
    text, write = begin()

    def send(answer: Answer) -> None:
        write(line_of(answer))

    try:
        do(msgspec.json.decode(text, type=Instructions), send)
    except InputError as error:
        send(Refusal(reason=str(error)))


def do(work: Instructions, send: Send) -> None:
    """Describe this machine, and do the task.

    Raises:
        InputError: When versions, the kind of device or the data are not those of the process that asks.
        DeviceError: When the device keeps failing.
    """
    host = Host.describe()
    refuse_other_versions(work, host)
    send(Greeting(host=host, memory_bytes=host.program_memory_bytes()))
    if work.assignment is not None:
        with TemporaryDirectory() as folder:
            do_assignment(work.assignment, furnished(work.assignment, host, Path(folder), send), send)


def refuse_other_versions(work: Instructions, host: Host) -> None:
    """Compare versions.

    Raises:
        InputError: When one is not that of the process that asks.
    """
    if differ := differences(versions_of(host), work.versions):
        raise InputError(f"{differ}, expected the same versions")


def furnished(assignment: Assignment, host: Host, folder: Path, send: Send) -> Session:
    """Return a session like that of the process that asks; its choices of lowerings are answers.

    Raises:
        InputError: When the device or the data are others.
    """
    found, asked = host.machine, assignment.machine
    if (found.platform, found.device_kind) != (asked.platform, asked.device_kind):
        raise InputError(
            f"JAX computes on {found.platform} ({found.device_kind}) there,"
            f" expected {asked.platform} ({asked.device_kind})"
        )
    experiment, sources = assignment.experiment, Path(assignment.sources)
    workload = experiment.workload
    dataset = datasets.load(workload.dataset, workload.dataset_options, sources)
    named = replace(host, machine=asked)
    session = Session(experiment, dataset, named, folder, Progress(quiet=True), sources=sources)
    if differ := session.data.changed(assignment.data):
        raise InputError(f"{differ}; expected the same data and code")
    session.tuning = TuningFile(folder, session.lowerings, lambda chosen: send(Choices(choices=chosen)))
    session.tuning.add(assignment.choices)
    return session


def do_assignment(assignment: Assignment, session: Session, send: Send) -> None:
    """Do a task: rows, and at the end the row of what it cost, are answers.

    Raises:
        DeviceError: When the device keeps failing.
    """
    start, job = time.monotonic(), assignment.job
    spent: dict[str, Any]
    match job:
        case TuningJob():
            programs = LanePrograms(session)
            programs.choose()
            spent = {"compilations": programs.compilations}
        case TrialJob():
            stage = Convergence(session, send)
            for row in assignment.rows:
                stage.training.see(row)
            stage.train(job)
            spent = {**stage.cost()}
        case TimingJob():
            throughput = timing_stage(assignment, session, send)
            throughput.timing.isolates = not session.host.policy.single_process
            throughput.measure(job)
            spent = {"compilations": throughput.timing.compilations}
    name = "throughput" if isinstance(job, TimingJob) else "convergence"
    origin = msgspec.structs.asdict(session.origin())
    send(Stage(**origin, stage=name, seconds=time.monotonic() - start, **spent))


def timing_stage(assignment: Assignment, session: Session, send: Send) -> Throughput:
    """Return the throughput stage of a task, which goes on from the rows of the process that asks."""
    stage = Throughput(session, send)
    for row in assignment.rows:
        stage.timing.known.see(row)
    if assignment.retries_failed:
        stage.timing.known.retry_failures()
    return stage


if __name__ == "__main__":
    main()
