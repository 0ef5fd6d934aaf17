"""Run experiments on the nodes of a cluster: one results folder for each kind of machine, written by this process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from batchscale.measure.cluster.driver import Driver
from batchscale.measure.cluster.kinds import describe
from batchscale.measure.cluster.messages import versions_of
from batchscale.measure.cluster.scheduler import Scheduler
from batchscale.measure.control.signals import Stopper
from batchscale.measure.device.machine import Host
from batchscale.measure.run import suite
from batchscale.measure.run.suite import Request


def measure(scheduler: Scheduler, request: Request, stopper: Stopper) -> list[Path]:
    """Measure what is missing of every experiment on every kind of machine; return the results folders.

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
    folders = []
    for kind in kinds:
        folders += suite.measure(replace(request, runner=Driver(scheduler, kind, versions)), kind.host, stopper)
    return folders
