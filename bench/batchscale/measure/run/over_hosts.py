"""Time the cells of experiments on several hosts that run one program; the first process writes the rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from batchscale.errors import InputError
from batchscale.measure.cluster.multihost import Hosts, Leader, follow
from batchscale.measure.control.signals import Stopper
from batchscale.measure.device.machine import Host
from batchscale.measure.run import suite
from batchscale.measure.run.suite import Request


def measure(hosts: Hosts, request: Request, stopper: Stopper) -> list[Path]:
    """Time what is missing of every experiment; return the results folders in the first process, and none in others.

    Raises:
        InputError: On unusable input, or when a process has other experiments, versions or data.
        Stopped: When a signal asked a process to stop; rows are saved.
        DeviceError: When a host is lost, or the devices keep failing; rows are saved.
    """
    with hosts.refusing_together():
        host = Host.describe()
        wanted = suite.chosen(request.names, host.machine.platform)
        if not request.names and host.machine.platform in suite.SUITE_MINUTES:
            raise InputError("--multihost: no EXPERIMENT, expected one: nothing is trained to scale the suite by")
    hosts.agree([f"experiment {one.name}, protocol {one.fingerprint}" for one in wanted])
    if not hosts.is_first:
        follow(hosts, stopper, host)
        return []
    leader = Leader(hosts)
    try:
        return suite.measure(replace(request, stages=["throughput"], runner=leader), host, stopper)
    finally:
        leader.release()
