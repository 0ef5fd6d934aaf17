"""One scheduler for several drivers, each in a thread: each of them hears the news of the workers it has started."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from threading import Lock

from batchscale.measure.cluster.scheduler import Event, Place, Scheduler


@dataclass
class Shared:
    """What the shares of a scheduler have in common.

    Attributes:
        scheduler: The scheduler, which one thread at a time may ask.
        lock: Held by the thread that asks.
        owners: The share that has started each worker.
    """

    scheduler: Scheduler
    lock: Lock = field(default_factory=Lock)
    owners: dict[int, Share] = field(default_factory=dict)


@dataclass(eq=False)
class Share:
    """The part of a scheduler that belongs to one driver: itself a scheduler.

    Attributes:
        shared: What it shares.
        heard: News of its workers that other shares have heard.
    """

    shared: Shared
    heard: deque[Event] = field(default_factory=deque)

    def nodes(self) -> list[str]:
        """Return the names of all nodes."""
        with self.shared.lock:
            return self.shared.scheduler.nodes()

    def start(self, works: Sequence[bytes], place: Place) -> list[int]:
        """Ask for workers of this share and return a ticket for each.

        Raises:
            InputError: When no node can run them.
        """
        with self.shared.lock:
            tickets = self.shared.scheduler.start(works, place)
            self.shared.owners |= dict.fromkeys(tickets, self)
        return tickets

    def events(self, seconds: float) -> list[Event]:
        """Return the news of the workers of this share, and keep that of others for them."""
        if not self.heard:
            with self.shared.lock:
                for event in self.shared.scheduler.events(seconds):
                    if (owner := self.shared.owners.get(event.ticket)) is not None:
                        owner.heard.append(event)
        return [self.heard.popleft() for _ in range(len(self.heard))]

    def where(self, ticket: int) -> str | None:
        """Return the node that a worker runs on."""
        with self.shared.lock:
            return self.shared.scheduler.where(ticket)

    def cancel(self, tickets: Collection[int]) -> None:
        """End workers of this share."""
        with self.shared.lock:
            self.shared.scheduler.cancel(tickets)
            for ticket in tickets:
                self.shared.owners.pop(ticket, None)
