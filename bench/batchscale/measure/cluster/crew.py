"""The driver of a cluster: it hands out the jobs of a stage, writes their rows, and repeats what was lost."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from batchscale.errors import InputError
from batchscale.measure.cluster.errand import Ended
from batchscale.measure.cluster.kinds import POLL_SECONDS, Kind
from batchscale.measure.cluster.scheduler import Event, Place, Scheduler
from batchscale.measure.cluster.work import Choices, Greeting, Job, Refusal, Task, Work, answered, encoded
from batchscale.measure.control.failures import failure_saying
from batchscale.measure.device.machine import Host
from batchscale.measure.session import Jobs
from batchscale.measure.throughput.stage import TimingJob
from batchscale.records import results_folder

MOST_ATTEMPTS = 3
"""A job whose process or node dies is started this often, in all."""
LOST = "the connection to its process was lost"


@dataclass
class Attempt:
    """A job that is being done.

    Attributes:
        chain: Yields the jobs that follow it.
        job: The job.
        number: How often it was started, this time included.
        since: When its last answer came.
        reason: Why its process did not finish, as reported so far.
    """

    chain: Iterator[Job]
    job: Job
    number: int = 1
    since: float = field(default_factory=time.monotonic)
    reason: str | None = LOST


class Crew:
    """Does the jobs of stages on the nodes of one kind.

    Args:
        scheduler: Starts processes on the nodes.
        kind: The nodes.
        versions: Versions that every worker must have.
    """

    def __init__(self, scheduler: Scheduler, kind: Kind, versions: Mapping[str, str]) -> None:
        self._scheduler, self._kind, self._versions = scheduler, kind, dict(versions)
        self._environments = {kind.host.environment_hash}
        self._running: dict[int, Attempt] = {}

    def run(self, stage: Jobs, chains: Sequence[Iterator[Job]]) -> None:
        """Do the jobs of several chains; the next job of a chain begins once the one before is done.

        Raises:
            InputError: When the rows cannot be written, or a worker has other versions or data.
            Stopped: When a signal asked to stop.
            DeviceError: When jobs keep failing.
        """
        session = stage.session
        try:
            self._start(stage, [attempt for chain in chains if (attempt := _next(chain))])
            while self._running:
                session.stopper.check()
                session.progress.show(self._doing())
                for event in self._scheduler.events(POLL_SECONDS):
                    if event.ticket in self._running:
                        self._hear(stage, event)
        finally:
            self._scheduler.cancel(self._running)
            self._running.clear()

    def _start(self, stage: Jobs, attempts: Sequence[Attempt]) -> None:
        """Start jobs; those that need a node for themselves and those that do not are asked for apart."""
        for whole in (True, False):
            asked = [one for one in attempts if isinstance(one.job, TimingJob) == whole]
            if asked:
                place = Place(self._kind.nodes, whole, self._kind.host.machine.platform)
                tickets = self._scheduler.start([self._work(stage, one.job) for one in asked], place)
                self._running |= dict(zip(tickets, asked, strict=True))

    def _work(self, stage: Jobs, job: Job) -> bytes:
        session = stage.session
        task = Task(
            experiment=session.experiment,
            sources=str(session.sources.absolute()),
            machine=session.host.machine,
            data=session.data,
            choices=session.tuning.choices,
            rows=stage.rows_for(job),
            retries_failed=session.retries_failed,
            job=job,
        )
        return encoded(Work(versions=self._versions, task=task))

    def _hear(self, stage: Jobs, event: Event) -> None:
        attempt = self._running[event.ticket]
        if event.line is not None:
            try:
                self._take(stage, event.ticket, attempt, event.line)
                return
            except msgspec.DecodeError as error:
                attempt.reason = f"its process wrote something else than an answer ({error})"
                self._scheduler.cancel([event.ticket])
        del self._running[event.ticket]
        self._start(stage, [more for more in [self._after(stage, attempt, event.lost)] if more])

    def _take(self, stage: Jobs, ticket: int, attempt: Attempt, line: bytes) -> None:
        session, answer, now = stage.session, answered(line), time.monotonic()
        if isinstance(answer, Greeting):
            self._admit(stage, answer.host)
        elif isinstance(answer, Refusal):
            raise InputError(f"{self._scheduler.where(ticket) or 'a worker'}: {answer.reason}")
        elif isinstance(answer, Choices):
            session.tuning.add(answer.choices)
        elif isinstance(answer, Ended):
            attempt.reason = answer.reason
        else:
            stage.take(attempt.job, answer, now - attempt.since)
        attempt.since = now

    def _admit(self, stage: Jobs, host: Host) -> None:
        """Keep the environment of a worker, which its rows name, in the results folder."""
        if host.environment_hash not in self._environments:
            self._environments.add(host.environment_hash)
            session = stage.session
            environments = {host.environment_hash: host.environment}
            results_folder.prepare(session.folder, session.experiment, session.host.machine, environments)

    def _after(self, stage: Jobs, attempt: Attempt, lost: str | None) -> Attempt | None:
        """Return what follows an attempt that is over: the next job of its chain, or the same job once more."""
        reason = lost or attempt.reason
        if reason is None:
            return _next(attempt.chain)
        if attempt.number < MOST_ATTEMPTS:
            again = f"started again ({attempt.number + 1} of {MOST_ATTEMPTS})"
            stage.session.progress.say(f"{attempt.job.item}: {reason}; {again}")
            return Attempt(attempt.chain, attempt.job, attempt.number + 1)
        stage.lose(attempt.job, failure_saying(reason))
        return _next(attempt.chain)

    def _doing(self) -> str:
        """Return in words which job is on which node, and which ones wait."""
        places = {ticket: self._scheduler.where(ticket) for ticket in self._running}
        busy = [f"{self._running[ticket].job.item} on {node}" for ticket, node in places.items() if node]
        waiting = len(places) - len(busy)
        return ", ".join([*busy, *([f"{waiting} waiting"] if waiting else [])])


def _next(chain: Iterator[Job]) -> Attempt | None:
    job = next(chain, None)
    return None if job is None else Attempt(chain, job)
