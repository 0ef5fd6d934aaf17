"""A cluster without processes: its worker is a function that is called here, and may die after some lines."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from batchscale.errors import InputError
from batchscale.measure.cluster import worker_main
from batchscale.measure.cluster.driver import Driver
from batchscale.measure.cluster.kinds import Kind, RemoteHost
from batchscale.measure.cluster.messages import Instructions, Refusal, encoded, versions_of
from batchscale.measure.cluster.scheduler import Event
from batchscale.measure.cluster.worker_process import Ended
from batchscale.measure.device.machine import Host
from tiny_workload import host, session, tiny_dataset


class DeathError(Exception):
    """Stands for the death of a worker's process."""


class Pretended:
    """A scheduler whose workers run in this process, one after another.

    Attributes:
        dies: Returns the number of lines after which a worker dies, by its number and instructions; None if it lives.
        works: Every piece of work that was started.
        places: Where each may run.
        most: How many workers were asked for at once, at most.
    """

    def __init__(self, dies: Callable[[int, Instructions], int | None] = lambda *_: None):
        self.dies, self.works, self.places, self.most = dies, [], [], 0
        self._waiting: deque[int] = deque()

    def nodes(self):
        return ["here"]

    def start(self, works, place):
        first = len(self.works)
        self.works += [msgspec.json.decode(one, type=Instructions) for one in works]
        self.places += [place] * len(works)
        tickets = range(first, len(self.works))
        self._waiting.extend(tickets)
        self.most = max(self.most, len(self._waiting))
        return list(tickets)

    def events(self, seconds):
        ticket = self._waiting.popleft()
        dies_after = self.dies(ticket, self.works[ticket])
        lines = self._lines(ticket, dies_after)
        lost = "its node was lost" if dies_after is not None else None
        return [*(Event(ticket, line) for line in lines), Event(ticket, lost=lost)]

    def _lines(self, ticket, dies_after):
        lines: list[bytes] = []

        def send(answer):
            if len(lines) == dies_after:
                raise DeathError
            lines.append(encoded(answer))

        try:
            worker_main.do(self.works[ticket], send)
            send(Ended())
        except InputError as error:
            lines.append(encoded(Refusal(reason=str(error))))
        except DeathError:
            pass
        return lines

    def where(self, ticket):
        return "here"

    def cancel(self, tickets):
        self._waiting = deque(one for one in self._waiting if one not in tickets)


def on_cluster(folder: Path, monkeypatch: Any, scheduler: Pretended, **tables: Any):
    """Return the tiny session with its jobs done by a cluster of one node."""
    monkeypatch.setattr(Host, "describe", host)
    data = tiny_dataset()
    monkeypatch.setattr(worker_main.datasets, "load", lambda *_: data)
    made = session(folder, **tables)
    here = made.host
    remote = RemoteHost(here.machine, here.environment, here.environment_hash, here.code, here.dirty, 1 << 30)
    made.host, made.runner = remote, Driver(scheduler, Kind(remote, ("here",)), versions_of(here))
    return made
