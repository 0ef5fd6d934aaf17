"""Workers in tasks of a Ray cluster: Ray decides where a task runs, and the task passes the lines of its worker on."""

from __future__ import annotations

import importlib
import os
import socket
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from batchscale.errors import InputError
from batchscale.measure.cluster import worker_process
from batchscale.measure.cluster.scheduler import Event, Place, variables
from batchscale.printable import LONGEST_REASON, bare, printable, reason

DEVICES = {"GPU": "gpu", "TPU": "tpu"}
"""Ray's names of accelerators, and the platforms of JAX that compute on them."""
LOCAL = "local"
"""Ray's address of a cluster that is started here."""
NODE_LABEL = "ray.io/node-id"
CONNECT_SECONDS = 10.0
ALIVE_SECONDS = 5.0
"""How often the driver checks that a node is left for the tasks that wait."""


@dataclass
class RayTask:
    """A task of the cluster.

    Attributes:
        lines: What it yields: the name of its node, and then its lines.
        place: Where it may run.
        node: Where it runs; None as long as it waits.
    """

    lines: Any
    place: Place
    node: str | None = None


class RayCluster:
    """A scheduler that asks a Ray cluster, or a local Ray that it starts.

    Args:
        address: Address of the cluster; None for `RAY_ADDRESS`, or for a new local Ray if that is not set.
        platforms: `JAX_PLATFORMS` as the user has set it.

    Raises:
        InputError: When Ray is not installed, or no cluster answers.
    """

    def __init__(self, address: str | None = None, platforms: str | None = None) -> None:
        try:
            self._ray = importlib.import_module("ray")
        except ModuleNotFoundError:
            message = "--ray: Ray is not installed, expected it: pip install '.[ray]' in a clone of batchscale"
            raise InputError(message) from None
        wanted = address or os.environ.get("RAY_ADDRESS") or LOCAL
        own: dict[str, Any] = {"include_dashboard": False} if wanted == LOCAL else {}
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        _refuse_silent(wanted)
        try:
            self._ray.init(address=wanted, log_to_driver=False, logging_level="ERROR", **own)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise InputError(f"--ray: no cluster answers at {wanted} ({reason(error)})") from None
        self._platforms, self._count, self._checked = platforms, 0, 0.0
        self._tasks: dict[int, RayTask] = {}
        self._task = self._ray.remote(num_returns="streaming", max_retries=0)(_lines)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel(list(self._tasks))
        self._ray.shutdown()

    def nodes(self) -> list[str]:
        """Return the nodes with accelerators; if there are none, every node with a processor.

        A node without accelerators in a cluster that has some is there to drive it.
        """
        found = self._resources()
        return [name for name, one in found.items() if one["Resources"].keys() & DEVICES.keys()] or list(found)

    def _resources(self) -> dict[str, dict[str, Any]]:
        """Return what Ray reports of every living node, by name."""
        alive = [one for one in self._ray.nodes() if one["Alive"] and one["Resources"].get("CPU")]
        return {_name(one): one for one in alive}

    def start(self, works: Sequence[bytes], place: Place) -> list[int]:
        """Start a task for each piece of work.

        A task that needs a whole node asks for all its processors and accelerators.

        Raises:
            InputError: When none of the nodes is left.
        """
        living = self._resources()
        nodes = [living[name] for name in place.nodes if name in living]
        if not nodes:
            raise InputError(f"--ray: none of the nodes is left: {', '.join(place.nodes)}")
        devices = {name for name in DEVICES if nodes[0]["Resources"].get(name)}
        platform = place.platform or next((DEVICES[name] for name in sorted(devices)), "cpu")
        whole = place.whole or platform in ("cpu", "tpu")
        options = {"num_gpus": 1} if not whole else self._all_of(nodes)
        among = {NODE_LABEL: f"in({','.join(node['NodeID'] for node in nodes)})"}
        tickets = []
        for work in works:
            remote = self._task.options(**options, label_selector=among)
            self._count += 1
            lines = remote.remote(work, dict(variables(platform, self._platforms)))
            self._tasks[self._count] = RayTask(lines, place)
            tickets.append(self._count)
        return tickets

    @staticmethod
    def _all_of(nodes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the options of a task that takes all processors and accelerators of a node."""

        def least(name: str) -> float:
            return min(node["Resources"].get(name, 0) for node in nodes)

        tpus = {"resources": {"TPU": least("TPU")}} if least("TPU") else {}
        return {"num_cpus": least("CPU"), "num_gpus": least("GPU"), **tpus}

    def events(self, seconds: float) -> list[Event]:
        """Return the news of all tasks."""
        tickets = {task.lines: ticket for ticket, task in self._tasks.items()}
        if not tickets:
            return []
        ready, _ = self._ray.wait(list(tickets), num_returns=1, timeout=seconds)
        found = [event for lines in ready if (event := self._news(tickets[lines])) is not None]
        return found or self._abandoned()

    def _news(self, ticket: int) -> Event | None:
        task = self._tasks[ticket]
        try:
            answer = self._ray.get(next(task.lines))
        except StopIteration:
            del self._tasks[ticket]
            return Event(ticket)
        except self._ray.exceptions.RayError as error:
            del self._tasks[ticket]
            return Event(ticket, lost=_cause(error))
        if isinstance(answer, str):
            task.node = answer
            return None
        return Event(ticket, answer)

    def _abandoned(self) -> list[Event]:
        """End the tasks whose nodes are all lost."""
        if time.monotonic() - self._checked < ALIVE_SECONDS:
            return []
        self._checked = time.monotonic()
        living = self._resources()
        left = [ticket for ticket, task in self._tasks.items() if not living.keys() & set(task.place.nodes)]
        self.cancel(left)
        return [Event(ticket, lost="no node is left that could do it") for ticket in left]

    def where(self, ticket: int) -> str | None:
        """Return the node of a task."""
        task = self._tasks.get(ticket)
        return task.node if task else None

    def cancel(self, tickets: Collection[int]) -> None:
        """End tasks; the worker of a task ends with it."""
        for ticket in list(tickets):
            if (task := self._tasks.pop(ticket, None)) is not None:
                with suppress(self._ray.exceptions.RayError):
                    self._ray.cancel(task.lines, force=True)


def _refuse_silent(address: str) -> None:
    """Refuse an address at which nothing listens: Ray would try for minutes, and log every try."""
    host, _, port = address.rpartition(":")
    if "/" in address or not (host and port.isdecimal()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"--ray: no cluster answers at {printable(address)} ({reason(error)})") from None


def _lines(work: bytes, variables: Mapping[str, str]) -> Iterator[str | bytes]:
    """Yield the name of the node, and the lines of a worker: the body of a task."""
    if b"\0OMP_NUM_THREADS=" not in Path("/proc/self/environ").read_bytes():
        os.environ.pop("OMP_NUM_THREADS", None)  # Ray has set it, which a run without Ray does not.
    ray = importlib.import_module("ray")
    here = ray.get_runtime_context().get_node_id()
    yield next((_name(node) for node in ray.nodes() if node["NodeID"] == here), here[:8])
    yield from worker_process.lines(work, variables)


def _name(node: Mapping[str, Any]) -> str:
    """Return a short name: nodes may share an address."""
    return f"{node['NodeManagerAddress']}/{node['NodeID'][:6]}"


def _cause(error: Exception) -> str:
    """Return the first sentence of the last line of a message of Ray; its advice follows.

    The last line of a traceback names the cause.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return bare(lines[-1].partition(". ")[0], LONGEST_REASON).rstrip(".") if lines else type(error).__name__
