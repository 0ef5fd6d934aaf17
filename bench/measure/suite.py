"""Several experiments in a row: which are run when none is named, on which data, and within which minutes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jax
import msgspec

from bench import experiment as experiments
from bench import folders, plan
from bench.errors import InputError
from bench.experiment import Experiment
from bench.measure import budget, datasets, estimate
from bench.measure.datasets import Dataset
from bench.measure.host import Host
from bench.measure.interrupts import Stopper
from bench.measure.learner import make_learner
from bench.measure.progress import Progress
from bench.measure.runner import announce, run, tune
from bench.measure.session import Session
from bench.rows import STAGES

FALLBACK = "lenet_digits"
COPIES_OF_PARAMETERS = 3
"""At the least: the parameters, their gradient and their update."""


@dataclass
class Request:
    """What the user asked for on the command line."""

    names: Sequence[str]
    results: Path = folders.LOCAL
    minutes: float | None = None
    stages: Sequence[str] = STAGES
    retries_failed: bool = False
    progress: Progress = field(default_factory=Progress)


def chosen(names: Sequence[str], platform: str) -> list[Experiment]:
    """The named experiments, or this platform's default suite.

    Raises:
        InputError: on a name that is neither shipped nor a file.
    """
    if names:
        return [experiments.find(name) for name in names]
    shipped = [experiments.find(name) for name in experiments.shipped()]
    return sorted((one for one in shipped if platform in one.suites), key=lambda one: one.name, reverse=True)


def with_data(wanted: Sequence[Experiment], *, named: bool, progress: Progress) -> list[tuple[Experiment, Dataset]]:
    """Every experiment with its dataset; a default suite without data becomes the one that needs no download.

    Raises:
        InputError: when an experiment named by the user has no data; lists what was tried.
    """
    found = []
    for experiment in wanted:
        try:
            found.append((experiment, datasets.load(experiment.workload.dataset)))
        except InputError as error:
            if named:
                raise
            progress.say(str(error))
            return [_fallback(experiment.workload.dataset, progress)]
    return found


def _fallback(missing: str, progress: Progress) -> tuple[Experiment, Dataset]:
    notice = (
        f"No source answered for {missing}, so this ran on scikit-learn's digits instead:"
        f" 1,797 small images. Nothing here says anything about {missing}."
    )
    progress.say(f"\n*** {notice} ***\n")
    experiment = msgspec.structs.replace(experiments.find(FALLBACK), notice=notice)
    return experiment, datasets.load(experiment.workload.dataset)


def session(request: Request, host: Host, experiment: Experiment, dataset: Dataset, minutes: float | None) -> Session:
    """A session ready to run; with a budget, scaled from a short measured trial, or as it was scaled before."""
    if minutes is None:
        folder = folders.folder_of(request.results, experiment, host.machine)
        return Session(experiment, dataset, host, folder, request.progress)
    named = msgspec.structs.replace(experiment, name=budget.budget_name(experiment.name, minutes))
    folder = folders.folder_of(request.results, named, host.machine)
    if (folder / "experiment.toml").exists():
        again = budget.scaled_before(experiment, experiments.read(folder / "experiment.toml"))
        return Session(again, dataset, host, folder, request.progress)
    request.progress.say(f"{experiment.name}: a short trial of this machine's speed")
    trial = Session(experiment, dataset, host, folder, request.progress)
    rates = [tune(trial, tier).examples_per_second for tier in trial.tiers]
    devices = plan.device_counts(experiment, host.machine.device_count)

    def seconds(scaled: Experiment) -> float:
        return estimate.seconds(scaled, trial.train_examples, trial.tiers, rates, devices)

    scaled = budget.fit(experiment, minutes, seconds)
    choice = f"{budget.described(scaled)}; about {seconds(scaled) / 60:.0f} of {minutes:g} minutes"
    request.progress.say(f"{scaled.name}: {choice}")
    return Session(scaled, dataset, host, folder, request.progress)


def _refuse_what_cannot_run(experiment: Experiment, dataset: Dataset, host: Host) -> None:
    """Before anything is written or computed."""
    workload = experiment.workload
    learner = make_learner(workload, dataset.input_shape, dataset.classes)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(learner.abstract_params()))
    needed, free = COPIES_OF_PARAMETERS * 4 * parameters, host.program_memory_bytes()
    if needed > free:
        raise InputError(
            f"{experiment.name}: workload.model_options: with them {workload.model} has {parameters:,} parameters;"
            f" to train them takes {needed / 2**30:,.0f} GiB or more, and {free / 2**30:,.0f} GiB are free"
        )


def measure(request: Request, host: Host, stopper: Stopper) -> list[Path]:
    """Measure what is missing of every experiment; the results folders, in order.

    Raises:
        InputError: on unusable input.
        Stopped: when a signal asked to stop; rows are saved.
        DeviceError: when the device keeps failing; rows are saved.
    """
    pairs = with_data(
        chosen(request.names, host.machine.platform), named=bool(request.names), progress=request.progress
    )
    for experiment, dataset in pairs:
        _refuse_what_cannot_run(experiment, dataset, host)
    minutes = None if request.minutes is None else request.minutes / len(pairs)
    sessions = [session(request, host, experiment, dataset, minutes) for experiment, dataset in pairs]
    for one in sessions:
        one.stopper, one.retries_failed = stopper, request.retries_failed
        one.prepare_folder()
        announce(one, request.stages)
    for one in sessions:
        request.progress.begin(one.experiment.name)
        run(one, request.stages)
    request.progress.end()
    return [one.folder for one in sessions]
