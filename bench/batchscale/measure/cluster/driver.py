"""The driver of a cluster: it hands out the jobs of a stage, writes their rows, and repeats what was lost."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from batchscale.errors import InputError
from batchscale.measure.cluster.kinds import POLL_SECONDS, Kind
from batchscale.measure.cluster.messages import Choices, Greeting, Job, Refusal, answered, encoded, instructions_of
from batchscale.measure.cluster.scheduler import Event, Place, Scheduler
from batchscale.measure.cluster.worker_process import Ended
from batchscale.measure.control.failures import failure_saying
from batchscale.measure.convergence.trial_job import TrialJob
from batchscale.measure.device.machine import Host
from batchscale.measure.session import Jobs
from batchscale.measure.throughput.stage import TimingJob
from batchscale.records import results_folder

MOST_ATTEMPTS = 3
"""A job whose process or node dies is started this often, in all."""
LOST = "the connection to its process was lost"


@dataclass
class Link:
    """A job of a chain, which may be done in parts.

    Attributes:
        chain: Yields the jobs that follow it.
        left: Parts that are not done.
    """

    chain: Iterator[Job]
    left: int


@dataclass
class Attempt:
    """A job, or a part of one, that is being done.

    Attributes:
        link: What it is a part of.
        job: The job.
        number: How often it was started, this time included.
        since: When its last answer came.
        reason: Why its process did not finish, as reported so far.
    """

    link: Link
    job: Job
    number: int = 1
    since: float = field(default_factory=time.monotonic)
    reason: str | None = LOST


class Driver:
    """Does the jobs of stages on the nodes of one kind.

    Args:
        scheduler: Starts processes on the nodes.
        kind: The nodes.
        versions: Versions that every worker must have.
    """

    def __init__(self, scheduler: Scheduler, kind: Kind, versions: Mapping[str, str]) -> None:
        self._scheduler, self._kind, self._versions = scheduler, kind, dict(versions)
        self._environments: set[tuple[Path, str]] = set()
        self._running: dict[int, Attempt] = {}
        self._most_parts = 1

    def run(self, stage: Jobs, chains: Sequence[Iterator[Job]]) -> None:
        """Do the jobs of several chains; the next job of a chain begins once the one before is done.

        Raises:
            InputError: When the rows cannot be written, or a worker has other versions or data.
            Stopped: When a signal asked to stop.
            DeviceError: When jobs keep failing.
        """
        session = stage.session
        self._most_parts = max(1, self._kind.accelerators // max(1, len(chains)))
        try:
            self._start(stage, [attempt for chain in chains for attempt in self._next(chain)])
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
                retries, versions = stage.session.retries_failed, self._versions
                works = [instructions_of(stage, one.job, versions, retries_failed=retries) for one in asked]
                tickets = self._scheduler.start([encoded(work) for work in works], place)
                self._running |= dict(zip(tickets, asked, strict=True))

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
        self._start(stage, self._after(stage, attempt, event.lost))

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
            stage.take(attempt.job, answer, (now - attempt.since) / attempt.link.left)
        attempt.since = now

    def _admit(self, stage: Jobs, host: Host) -> None:
        """Keep the environment of a worker, which its rows name, in the results folder."""
        session = stage.session
        known = session.folder, host.environment_hash
        if known not in self._environments:
            self._environments.add(known)
            environments = {host.environment_hash: host.environment}
            results_folder.prepare(session.folder, session.experiment, session.host.machine, environments)

    def _next(self, chain: Iterator[Job]) -> list[Attempt]:
        """Return the next job of a chain, in as many parts as there are accelerators for it."""
        job = next(chain, None)
        if job is None:
            return []
        parts = job.parts(self._most_parts) if isinstance(job, TrialJob) else [job]
        link = Link(chain, len(parts))
        return [Attempt(link, part) for part in parts]

    def _after(self, stage: Jobs, attempt: Attempt, lost: str | None) -> list[Attempt]:
        """Return what follows an attempt that is over: the next job of its chain, or the same job once more."""
        reason, link = lost or attempt.reason, attempt.link
        if reason is not None and attempt.number < MOST_ATTEMPTS:
            again = f"started again ({attempt.number + 1} of {MOST_ATTEMPTS})"
            stage.session.progress.say(f"{attempt.job.item}: {reason}; {again}")
            return [Attempt(link, attempt.job, attempt.number + 1)]
        if reason is not None:
            stage.lose(attempt.job, failure_saying(reason))
        link.left -= 1
        return [] if link.left else self._next(link.chain)

    def _doing(self) -> str:
        """Return in words which job is on which node, and which ones wait."""
        places = {ticket: self._scheduler.where(ticket) for ticket in self._running}
        busy = [f"{self._running[ticket].job.item} on {node}" for ticket, node in places.items() if node]
        waiting = len(places) - len(busy)
        return ", ".join([*busy, *([f"{waiting} waiting"] if waiting else [])])
