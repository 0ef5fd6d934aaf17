"""The options of `run` for clusters: which scheduler starts the workers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from batchscale.cli.shared_options import Whole
from batchscale.printable import printable

if TYPE_CHECKING:
    from batchscale.measure.cluster.ray_cluster import RayCluster
    from batchscale.measure.cluster.slurm_jobs import SlurmJobs
    from batchscale.measure.control.signals import Stopper
    from batchscale.measure.run.suite import Request

LOCAL = ""
"""Address of a Ray that is started here."""
HIGHEST_PORT = 65_535


class Program(NamedTuple):
    """The processes of one program; None leaves a number to JAX.

    Attributes:
        coordinator: Address and port of the first process.
        processes: How many there are.
        process: Number of this one.
    """

    coordinator: str | None
    processes: int | None
    process: int | None


class Cluster(NamedTuple):
    """What was asked for: a scheduler, or a program on several hosts.

    Attributes:
        ray: Address of a Ray cluster; None without `--ray`.
        slurm: Options of Slurm jobs; None without `--slurm`.
        program: The processes of one program on several hosts; None without `--multihost`.
        platforms: `JAX_PLATFORMS` as the user has set it, for the workers.
    """

    ray: str | None = None
    slurm: str | None = None
    program: Program | None = None
    platforms: str | None = None


def _keep(ctx: click.Context, param: click.Parameter, value: str | int | None) -> None:
    """Keep an option in the context: the command itself has options enough."""
    ctx.meta[f"batchscale.{param.name}"] = value


def _address(text: str) -> str:
    """Check an address: JAX waits for minutes for one that cannot be, or ends in a traceback."""
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isdecimal() and 0 < int(port) <= HIGHEST_PORT):
        raise click.BadParameter(f"{printable(text)}, expected HOST:PORT with a port from 1 to {HIGHEST_PORT}")
    return text


RAY = click.option(
    "--ray",
    is_flag=False,
    flag_value=LOCAL,
    metavar="[ADDRESS]",
    expose_value=False,
    callback=_keep,
    help="Measure on the nodes of a Ray cluster; without an address, on a local Ray that is started.",
)
SLURM = click.option(
    "--slurm",
    metavar="OPTIONS",
    expose_value=False,
    callback=_keep,
    help="Measure in Slurm jobs with these options, such as partition=gpu,time=60.",
)
MULTIHOST = click.option(
    "--multihost",
    is_flag=True,
    expose_value=False,
    callback=_keep,
    help="Time cells on all hosts of one program, whose processes all run this command.",
)
COORDINATOR = click.option(
    "--coordinator",
    type=_address,
    metavar="HOST:PORT",
    expose_value=False,
    callback=_keep,
    help="Address of the first process of --multihost; JAX finds it on Slurm, Open MPI, Kubernetes and TPU pods.",
)
MOST_PROCESSES = 100_000
"""More processes than any cluster runs one program with."""

PROCESSES = click.option(
    "--processes",
    type=Whole(1, MOST_PROCESSES),
    metavar="N",
    expose_value=False,
    callback=_keep,
    help="How many processes there are, if JAX does not find it.",
)
PROCESS = click.option(
    "--process",
    type=Whole(0, MOST_PROCESSES - 1),
    metavar="I",
    expose_value=False,
    callback=_keep,
    help="Which process this is, from 0, if JAX does not find it.",
)


def added(command: Callable[..., object]) -> Callable[..., object]:
    """Add the options to a command; `chosen` returns their values."""
    return RAY(SLURM(MULTIHOST(COORDINATOR(PROCESSES(PROCESS(command))))))


def chosen(stages: Sequence[str], scaled_by: str | None) -> Cluster | None:
    """Return the cluster that was asked for; None to measure on this machine.

    With a cluster, JAX computes on the CPU in this process from here on, so that it takes no device from a worker.

    Args:
        stages: Stages to measure.
        scaled_by: The option by which experiments are scaled to how fast this machine trains; None if they are not.

    Raises:
        UsageError: When more than one of them is asked for, a process of a program that is not, or what it cannot do.
    """
    meta = click.get_current_context().meta
    ray, slurm, multihost = (meta[f"batchscale.{name}"] for name in ("ray", "slurm", "multihost"))
    program = Program(*(meta[f"batchscale.{name}"] for name in Program._fields))
    asked = [
        f"--{name}"
        for name, one in (("ray", ray), ("slurm", slurm), ("multihost", multihost or None))
        if one is not None
    ]
    if len(asked) > 1:
        raise click.UsageError(f"{asked[0]}: with {asked[1]}, expected only one of them")
    if not multihost and any(one is not None for one in program):
        given = next(name for name, one in program._asdict().items() if one is not None)
        raise click.UsageError(f"--{given}: without --multihost, expected both")
    if not asked:
        return None
    if multihost:
        if "throughput" not in stages:
            raise click.UsageError(f"--stages: {', '.join(stages)}, expected throughput, which --multihost measures")
        if scaled_by:
            found = f"{scaled_by}: with --multihost, which trains nothing to scale by"
            raise click.UsageError(f"{found}, expected --convergence-from too, or no {scaled_by}")
        number, count = program.process, program.processes
        if number is not None and count is not None and number >= count:
            raise click.UsageError(f"--process: {number}, expected a number below {count}")
        return Cluster(program=program)
    platforms = os.environ.get("JAX_PLATFORMS")
    os.environ["JAX_PLATFORMS"] = "cpu"
    return Cluster(ray, slurm, platforms=platforms)


@contextmanager
def measuring(cluster: Cluster | None, results: Path) -> Iterator[Callable[[Request, Stopper], list[Path]]]:
    """Return the function that measures what was asked for: here, or on a cluster that stays connected meanwhile.

    Args:
        cluster: What was asked for.
        results: The folder of results folders, which every node of a Slurm cluster must see.

    Raises:
        InputError: When the scheduler is not installed, or no cluster answers.
    """
    from batchscale.measure.device.machine import Host
    from batchscale.measure.run import over_cluster, suite

    if cluster is not None and cluster.program is not None:
        from batchscale.measure.cluster.multihost import Hosts
        from batchscale.measure.run import over_hosts

        with Hosts.joined(*cluster.program) as hosts:
            yield partial(over_hosts.measure, hosts)
    elif cluster is None:
        yield lambda request, stopper: suite.measure(request, Host.describe(), stopper)
    else:
        with _scheduler(cluster, results) as found:
            yield partial(over_cluster.measure, found)


def _scheduler(cluster: Cluster, results: Path) -> RayCluster | SlurmJobs:
    from batchscale.measure.cluster import ray_cluster, slurm_jobs

    if cluster.slurm is None:
        return ray_cluster.RayCluster(cluster.ray, cluster.platforms)
    return slurm_jobs.SlurmJobs(slurm_jobs.options(cluster.slurm), results, cluster.platforms)
