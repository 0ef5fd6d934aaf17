"""The options of `run` for clusters: which scheduler starts the workers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

if TYPE_CHECKING:
    from batchscale.measure.cluster.ray_cluster import RayCluster
    from batchscale.measure.cluster.slurm_jobs import SlurmJobs
    from batchscale.measure.control.signals import Stopper
    from batchscale.measure.run.suite import Request

LOCAL = ""
"""Address of a Ray that is started here."""


class Cluster(NamedTuple):
    """The scheduler that was asked for.

    Attributes:
        ray: Address of a Ray cluster; None without `--ray`.
        slurm: Options of Slurm jobs; None without `--slurm`.
        platforms: `JAX_PLATFORMS` as the user has set it, for the workers.
    """

    ray: str | None = None
    slurm: str | None = None
    platforms: str | None = None


def _keep(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    """Keep an option in the context: the command itself has options enough."""
    ctx.meta[f"batchscale.{param.name}"] = value


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


def added(command: Callable[..., object]) -> Callable[..., object]:
    """Add the options to a command; `chosen` returns their values."""
    return RAY(SLURM(command))


def chosen() -> Cluster | None:
    """Return the cluster that was asked for; None to measure on this machine.

    With a cluster, JAX computes on the CPU in this process from here on, so that it takes no device from a worker.

    Raises:
        UsageError: When both schedulers are asked for.
    """
    meta = click.get_current_context().meta
    ray, slurm = meta["batchscale.ray"], meta["batchscale.slurm"]
    if ray is None and slurm is None:
        return None
    if ray is not None and slurm is not None:
        raise click.UsageError("--ray: with --slurm, expected only one of the two")
    platforms = os.environ.get("JAX_PLATFORMS")
    os.environ["JAX_PLATFORMS"] = "cpu"
    return Cluster(ray, slurm, platforms)


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

    if cluster is None:
        yield lambda request, stopper: suite.measure(request, Host.describe(), stopper)
    else:
        with _scheduler(cluster, results) as found:
            yield partial(over_cluster.measure, found)


def _scheduler(cluster: Cluster, results: Path) -> RayCluster | SlurmJobs:
    from batchscale.measure.cluster import ray_cluster, slurm_jobs

    if cluster.slurm is None:
        return ray_cluster.RayCluster(cluster.ray, cluster.platforms)
    return slurm_jobs.SlurmJobs(slurm_jobs.options(cluster.slurm), results, cluster.platforms)
