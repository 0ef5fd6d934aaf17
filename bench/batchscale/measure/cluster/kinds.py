"""The kinds of machines of a cluster: every node describes itself before anything is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import msgspec

from batchscale.errors import InputError
from batchscale.measure.cluster.messages import Greeting, Instructions, Refusal, answered, encoded
from batchscale.measure.cluster.scheduler import Place, Scheduler
from batchscale.measure.cluster.worker_process import Ended
from batchscale.measure.control.progress import Progress
from batchscale.measure.control.signals import Stopper
from batchscale.measure.device.machine import Host

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class RemoteHost(Host):
    """A machine that this process is not on.

    Attributes:
        memory_bytes: Memory that one program may use there.
    """

    memory_bytes: int = 0

    @classmethod
    def of(cls, host: Host, memory_bytes: int) -> Self:
        """Return a host whose memory is known."""
        fields = ("machine", "environment", "environment_hash", "code", "dirty")
        return cls(**{name: getattr(host, name) for name in fields}, memory_bytes=memory_bytes)

    def program_memory_bytes(self) -> int:
        """Return the bytes that one program may use."""
        return self.memory_bytes


@dataclass(frozen=True)
class Kind:
    """Nodes of one description, whose rows are in one results folder.

    Attributes:
        host: The first of them.
        nodes: Their names.
    """

    host: RemoteHost
    nodes: tuple[str, ...]

    @property
    def accelerators(self) -> int:
        """How many jobs of trials run at the same time, if a job is worth a part of a tier.

        On CPUs it is not: another part of a tier changes the rounding of its trials.
        """
        policy = self.host.policy
        if policy.program_per_core:
            return 1
        return len(self.nodes) * (1 if policy.single_process else self.host.machine.device_count)


def describe(scheduler: Scheduler, versions: Mapping[str, str], progress: Progress, stopper: Stopper) -> list[Kind]:
    """Ask every node for its description and return the kinds, in the order of their names.

    Raises:
        InputError: When a node has other versions, or cannot be described.
        Stopped: When a signal asked to stop.
    """
    nodes = scheduler.nodes()
    work = encoded(Instructions(versions=dict(versions)))
    waiting = {scheduler.start([work], Place([node], whole=True))[0]: node for node in nodes}
    found: dict[str, Greeting] = {}
    try:
        while waiting:
            stopper.check()
            progress.show(f"waiting for the description of {', '.join(waiting.values())}", planned=False)
            for event in scheduler.events(POLL_SECONDS):
                if event.ticket not in waiting:
                    continue
                node = waiting[event.ticket]
                if event.line is None:
                    del waiting[event.ticket]
                    _refuse_undescribed(node, found, event.lost)
                else:
                    _hear(event.line, node, found)
    finally:
        scheduler.cancel(waiting)
    return _kinds(found)


def _hear(line: bytes, node: str, found: dict[str, Greeting]) -> None:
    try:
        answer = answered(line)
    except msgspec.DecodeError as error:
        answer = Ended(f"its process wrote something else than an answer: {error}")
    if isinstance(answer, Greeting):
        found[node] = answer
    elif isinstance(answer, Refusal):
        raise InputError(f"{node}: {answer.reason}")
    elif isinstance(answer, Ended):
        _refuse_undescribed(node, found, answer.reason)


def _refuse_undescribed(node: str, found: Mapping[str, Greeting], reason: str | None) -> None:
    if node not in found:
        raise InputError(f"{node}: cannot be described ({reason or 'it sent nothing'}), expected a node that runs JAX")


def _kinds(found: Mapping[str, Greeting]) -> list[Kind]:
    """Group nodes by the names of their machines, which name results folders."""
    kinds: dict[str, Kind] = {}
    for node, greeting in found.items():
        name = greeting.host.machine.name
        known = kinds.setdefault(name, Kind(RemoteHost.of(greeting.host, greeting.memory_bytes), ()))
        kinds[name] = replace(known, nodes=(*known.nodes, node))
    return [kinds[name] for name in sorted(kinds)]
