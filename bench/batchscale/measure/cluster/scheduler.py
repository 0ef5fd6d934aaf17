"""What a scheduler must be able to do: start workers on nodes, and report their lines."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

from batchscale.measure.device.machine import NODE_PLATFORM
from batchscale.measure.throughput.cell_process import VARIABLES


class Event(NamedTuple):
    """News of a worker.

    Attributes:
        ticket: The number of the worker.
        line: A line that it wrote; None if no further line comes.
        lost: Why no further line comes, if the worker itself did not report it.
    """

    ticket: int
    line: bytes | None = None
    lost: str | None = None


class Place(NamedTuple):
    """Where a worker may run.

    Attributes:
        nodes: The nodes to choose from, by their names.
        whole: True if it gets a node for itself, False if one accelerator is enough.
        platform: The platform that JAX must find there; None if it is not known yet.
    """

    nodes: Sequence[str]
    whole: bool
    platform: str | None = None


class Scheduler(Protocol):
    """Starts workers; a cluster decides when and where each of them runs."""

    def nodes(self) -> list[str]:
        """Return the names of the nodes, or one name if the cluster has machines of one kind."""
        ...

    def start(self, works: Sequence[bytes], place: Place) -> list[int]:
        """Ask for workers and return a ticket for each.

        Raises:
            InputError: When no node can run them.
        """
        ...

    def events(self, seconds: float) -> list[Event]:
        """Return the news of all workers, waiting for at most so many seconds if there are none."""
        ...

    def where(self, ticket: int) -> str | None:
        """Return the node that a worker runs on; None as long as it waits, or if the cluster does not report it."""
        ...

    def cancel(self, tickets: Collection[int]) -> None:
        """End workers, wherever they are."""
        ...


JAX_PLATFORMS = {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}
"""The only platform that JAX may use in a worker: one without the device then fails instead of using its CPU."""


def variables(platform: str | None, asked: str | None = None) -> Mapping[str, str]:
    """Return the environment variables of a worker.

    Args:
        platform: The platform that JAX must find; None to leave it to JAX.
        asked: `JAX_PLATFORMS` as the user has set it, which comes first.
    """
    own = {name: os.environ.get(name, value) for name, value in VARIABLES.items()}
    # Set in any case: a worker may inherit the variable of the driver, which computes on its CPU.
    sought = {"JAX_PLATFORMS": asked or JAX_PLATFORMS.get(platform or "", "")}
    return {**own, **sought, NODE_PLATFORM: "" if asked else platform or ""}
