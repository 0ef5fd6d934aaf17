"""Run experiments on the nodes of a cluster: one results folder for each kind of machine, written by this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from functools import partial
from pathlib import Path

from batchscale.errors import DeviceError
from batchscale.measure.cluster.driver import Driver
from batchscale.measure.cluster.kinds import Kind, describe
from batchscale.measure.cluster.messages import versions_of
from batchscale.measure.cluster.scheduler import Scheduler
from batchscale.measure.cluster.shared_scheduler import Share, Shared
from batchscale.measure.control.signals import Stopped, Stopper
from batchscale.measure.device.machine import Host
from batchscale.measure.run import suite
from batchscale.measure.run.suite import Request


def measure(scheduler: Scheduler, request: Request, stopper: Stopper) -> list[Path]:
    """Measure what is missing of every experiment on every kind of machine; return the results folders.

    Machines of several kinds work at the same time.

    Raises:
        InputError: On unusable input, or when a node has other versions or other data.
        Stopped: When a signal asked to stop; rows are saved.
        DeviceError: When devices keep failing; rows are saved.
    """
    versions = versions_of(Host.describe())
    kinds = describe(scheduler, versions, request.progress, stopper)
    for kind in kinds:
        count = f"{len(kind.nodes)} node{'s' if len(kind.nodes) > 1 else ''}"
        request.progress.say(f"{kind.host.machine.name}: {count}: {', '.join(kind.nodes)}")
    if len(kinds) == 1:
        return suite.measure(replace(request, runner=Driver(scheduler, kinds[0], versions)), kinds[0].host, stopper)
    shared = Shared(scheduler)
    works = [partial(_measure_kind, Driver(Share(shared), kind, versions), kind, request, stopper) for kind in kinds]
    return [folder for folders in _side_by_side(works, stopper) for folder in folders]


def _measure_kind(driver: Driver, kind: Kind, request: Request, stopper: Stopper) -> list[Path]:
    """Measure on the machines of one kind, whose name the progress line shows."""
    progress = replace(request.progress, items={}, machine=kind.host.machine.name)
    return suite.measure(replace(request, runner=driver, progress=progress), kind.host, stopper)


def _side_by_side(works: Sequence[Callable[[], list[Path]]], stopper: Stopper) -> list[list[Path]]:
    """Do works in threads. If the device of one keeps failing, the others end first; else they stop as for a signal.

    Raises:
        BaseException: What the first of them ended in, but a stop only if there is nothing else.
    """
    with ThreadPoolExecutor(len(works)) as pool:
        running = [pool.submit(work) for work in works]
        for one in as_completed(running):
            if one.exception() is not None and not isinstance(one.exception(), DeviceError):
                stopper.requested = True
    failed = [one for one in running if one.exception() is not None]
    for one in sorted(failed, key=lambda one: isinstance(one.exception(), Stopped)):
        one.result()
    return [one.result() for one in running]
