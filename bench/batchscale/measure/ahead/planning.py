"""Plan an experiment on devices that are not there: one process for each of them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

from batchscale.config import experiment as experiments
from batchscale.config.plan import batch_sizes
from batchscale.errors import DeviceError, InputError
from batchscale.measure.ahead import plugins
from batchscale.measure.ahead.target_process import Job, planned
from batchscale.measure.ahead.targets import Target, target_named
from batchscale.measure.control.progress import Progress
from batchscale.measure.data import datasets
from batchscale.measure.data.made_up import example_spec
from batchscale.measure.training.learner import make_learner
from batchscale.printable import LONGEST_REASON, bare
from batchscale.records.plan_file import Plan, PlannedStep, TargetPlan


def plan(name: str, targets: Sequence[str], progress: Progress) -> Plan:
    """Compile the steps of an experiment for described devices and return what that shows.

    Args:
        name: A shipped experiment, or a .toml file.
        targets: Names of the devices.
        progress: Shows what is compiled.

    Raises:
        InputError: When the experiment or a device is not known, its data cannot be had, or a compiler is missing.
        DeviceError: When no step could be planned on any of the devices.
    """
    experiment, sources = experiments.find(name), experiments.sources_of(name)
    described = _able(targets)
    progress.begin(experiment.name)
    workload = experiment.workload
    dataset = datasets.load(workload.dataset, workload.dataset_options, sources, progress.say)
    batch_sizes(experiment, len(dataset.train.labels))
    make_learner(workload, dataset, None, experiment.searched, sources)
    splits = len(dataset.train.labels), len(dataset.validation.labels), len(dataset.test.labels)
    spec = example_spec(dataset)
    jobs = {
        target: Job(experiment=experiment, sources=str(sources), examples=spec, splits=splits, target=target)
        for target in described
    }
    found = [_planned(job, described[target], progress) for target, job in jobs.items()]
    _refuse_nothing(found)
    return Plan(
        experiment=experiment.name,
        title=experiment.title,
        model=workload.model,
        dataset=workload.dataset,
        optimizer=workload.optimizer,
        precision=workload.precision,
        train_examples=splits[0],
        jax=version("jax"),
        targets=found,
    )


def _able(names: Sequence[str]) -> dict[str, Target]:
    """Return the named devices; refuse those whose compiler is missing."""
    found = {name: target_named(name) for name in names}
    for name, target in found.items():
        if why := plugins.missing(target):
            raise InputError(f"--on {name}: {why}")
    return found


def _refuse_nothing(found: Sequence[TargetPlan]) -> None:
    """Refuse plans that all have no step, with the reasons."""
    if all(one.message for one in found):
        why = "; ".join(f"{one.title}: {bare(one.message or '', LONGEST_REASON)}" for one in found)
        raise DeviceError(f"no step could be planned: {why}")


def _planned(job: Job, target: Target, progress: Progress) -> TargetPlan:
    def show(step: PlannedStep) -> None:
        progress.show(f"compiled a step of {step.batch_size} examples for {target.title}", force=True, planned=False)

    progress.show(f"compiling for {target.title}", force=True, planned=False)
    found = planned(job, show)
    if isinstance(found, TargetPlan):
        return found
    return TargetPlan(
        name=job.target,
        title=target.title,
        memory_bytes=target.memory_bytes,
        pool_bytes=target.pool_bytes,
        flops_per_second=target.flops[job.experiment.workload.precision],
        bytes_per_second=target.bytes_per_second,
        message=bare(found, LONGEST_REASON),
    )
