"""Several experiments in a row: which are run when none is named, on which data, and within which minutes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import jax
import msgspec

from batchscale.config import experiment as experiments
from batchscale.config import plan, time_budget
from batchscale.config.experiment import Experiment, Workload
from batchscale.config.vocabulary import STAGES
from batchscale.errors import InputError
from batchscale.measure.control.progress import SECONDS_PER_PAGE, Progress
from batchscale.measure.control.signals import Stopper
from batchscale.measure.convergence.lane_programs import LanePrograms
from batchscale.measure.data import datasets
from batchscale.measure.data.datasets import Dataset
from batchscale.measure.device.machine import Host
from batchscale.measure.run import time_estimate
from batchscale.measure.run.stages import planned
from batchscale.measure.session import Session
from batchscale.measure.training import optimizers
from batchscale.measure.training.learner import make_learner, model_named
from batchscale.records import results_folder, row_files

FALLBACK = "lenet_digits"
COPIES_OF_PARAMETERS = 3
"""At the least: the parameters, their gradient and their update."""


@dataclass
class Request:
    """What the user asked for; with `convergence_from`, a results folder, its trials are joined instead of training."""

    names: Sequence[str]
    results: Path = results_folder.LOCAL
    minutes: float | None = None
    stages: Sequence[str] = STAGES
    convergence_from: Path | None = None
    retries_failed: bool = False
    progress: Progress = field(default_factory=Progress)

    def share(self, count: int) -> float | None:
        """The minutes of each of `count` experiments, where there is a limit."""
        return None if self.minutes is None else self.minutes / count


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
            found.append((experiment, datasets.load(experiment.workload.dataset, progress.say)))
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


@dataclass(frozen=True)
class Planned:
    """An experiment as it is written, its data, and where its rows will lie."""

    experiment: Experiment
    dataset: Dataset
    folder: Path


def _known_scale(request: Request, one: Planned, minutes: float) -> Experiment | None:
    """As the convergence that is joined was, or as it was scaled before; None where that is still to be found.

    Raises:
        InputError: when the experiment was edited since.
    """
    if request.convergence_from is not None:
        named = time_budget.named(one.experiment, minutes)
        return time_budget.scaled_like(named, results_folder.read_experiment(request.convergence_from)) or named
    if (one.folder / results_folder.EXPERIMENT).exists():
        return time_budget.scaled_before(one.experiment, results_folder.read_experiment(one.folder))
    return None


def _scaled(request: Request, host: Host, one: Planned, minutes: float, stopper: Stopper) -> Experiment:
    """The experiment scaled to the minutes, by a short measured trial that counts among them."""
    experiment = one.experiment
    request.progress.say(f"{experiment.name}: a short trial of this machine's speed")
    request.progress.begin(experiment.name)
    trial = Session(experiment, one.dataset, host, one.folder, request.progress, stopper)
    start = time.monotonic()
    programs = LanePrograms(trial)
    tuned = [programs.tuned(tier) for tier in programs.tiers]
    spent = time.monotonic() - start
    devices, ways = plan.device_counts(experiment, host.machine.device_count), len(trial.lowerings)

    def seconds(scaled: Experiment) -> float:
        return spent + time_estimate.seconds(scaled, trial.train_examples, programs.tiers, tuned, devices, ways)

    scaled = time_budget.fit(experiment, minutes, seconds)
    choice = f"{time_budget.described(scaled)}; about {round(seconds(scaled) / 60, 1):g} of {minutes:g} minutes"
    request.progress.say(f"{scaled.name}: {choice}")
    return scaled


def _within_minutes(request: Request, host: Host, planned: Sequence[Planned], stopper: Stopper) -> list[Experiment]:
    """Every experiment scaled to its share of the minutes; what is refused is so before any speed is tried."""
    if (share := request.share(len(planned))) is None:
        return [one.experiment for one in planned]
    known = [_known_scale(request, one, share) for one in planned]
    return [scale or _scaled(request, host, one, share, stopper) for scale, one in zip(known, planned, strict=True)]


def _plan(request: Request, host: Host) -> list[Planned]:
    """The experiments with their data; what cannot run is refused before anything is timed or written."""
    wanted, source = chosen(request.names, host.machine.platform), request.convergence_from
    for name, experiment in zip(request.names, wanted, strict=False):
        with _refused_as_of(Path(name).name):
            _refuse_unknown_names(experiment)
        experiments.refuse_contradictions(experiment, Path(name).name)
    if source is not None:
        results_folder.read_experiment(source)
    pairs = with_data(wanted, named=bool(request.names), progress=request.progress)
    for experiment, dataset in pairs:
        _refuse_what_cannot_be_planned(experiment, len(dataset.train_labels), host.machine.device_count)
        with _refused_as_of(experiment.name):
            _refuse_what_cannot_run(experiment.workload, dataset, host)
    minutes = request.share(len(pairs))

    def folder_of(experiment: Experiment) -> Path:
        named = experiment if minutes is None else time_budget.named(experiment, minutes)
        return results_folder.folder_of(request.results, named, host.machine)

    return [Planned(experiment, dataset, folder_of(experiment)) for experiment, dataset in pairs]


def _sessions(request: Request, host: Host, planned: Sequence[Planned], stopper: Stopper) -> list[Session]:
    """A session for each experiment, its folder labelled; one that cannot be joined is refused."""
    scaled = _within_minutes(request, host, planned, stopper)
    sessions = [
        Session(experiment, one.dataset, host, one.folder, request.progress, stopper, request.retries_failed)
        for experiment, one in zip(scaled, planned, strict=True)
    ]
    for one in sessions:
        if request.convergence_from is not None:
            results_folder.refuse_unlike(one.experiment, one.folder, request.convergence_from)
    for one in sessions:
        one.prepare_folder()
    return sessions


@contextmanager
def _refused_as_of(name: str) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def _refuse_unknown_names(experiment: Experiment) -> None:
    workload = experiment.workload
    datasets.recipe_named(workload.dataset)
    model_named(workload.model, workload.model_options)
    optimizers.optimizer_named(workload.optimizer, workload.optimizer_options, experiment.searched)


def _refuse_what_cannot_be_planned(experiment: Experiment, train_examples: int, devices: int) -> None:
    sizes = plan.batch_sizes(experiment, train_examples)
    plan.check_rates(experiment, sizes)
    with _refused_as_of(experiment.name):
        optimizers.refuse_contradictions(experiment, sizes[0])
    plan.duration(experiment, train_examples)
    plan.device_counts(experiment, devices)


def _refuse_what_cannot_run(workload: Workload, dataset: Dataset, host: Host) -> None:
    learner = make_learner(workload, dataset.input_shape, dataset.classes)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(learner.abstract_params()))
    needed, free = COPIES_OF_PARAMETERS * 4 * parameters, host.program_memory_bytes()
    if needed > free:
        raise InputError(
            f"workload.model_options: with them {workload.model} has {parameters:,} parameters;"
            f" to train them takes {needed / 2**30:,.0f} GiB or more, and {free / 2**30:,.0f} GiB are free"
        )


def measure(request: Request, host: Host, stopper: Stopper) -> list[Path]:
    """Measure what is missing of every experiment, join what is to be joined; the results folders, in order.

    Raises:
        InputError: on unusable input.
        Stopped: when a signal asked to stop; rows are saved.
        DeviceError: when the device keeps failing; rows are saved.
    """
    source = request.convergence_from
    stages = request.stages if source is None else ["throughput"]
    wanted = _plan(request, host)
    with ExitStack() as claims:
        for folder in dict.fromkeys(one.folder for one in wanted):
            claims.enter_context(row_files.claimed(folder))
        sessions = _sessions(request, host, wanted, stopper)
        staged = []
        for one in sessions:
            staged.append(planned(one, stages))
            request.progress.plan("page", SECONDS_PER_PAGE, 1.0)
        for one, made in zip(sessions, staged, strict=True):
            request.progress.begin(one.experiment.name)
            for stage in made:
                stage.run()
        request.progress.end()
        if source is not None:
            for one in wanted:
                results_folder.join_convergence(one.folder, source)
    return [one.folder for one in wanted]
