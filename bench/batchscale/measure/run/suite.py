"""Run one or several experiments: choose them, refuse what cannot run, scale them to the minutes, measure."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import jax
import msgspec

from batchscale.config import experiment as experiments
from batchscale.config import plan, time_budget
from batchscale.config.experiment import Experiment
from batchscale.config.vocabulary import STAGES, StageName
from batchscale.errors import InputError
from batchscale.measure.control.progress import SECONDS_PER_PAGE, Progress
from batchscale.measure.control.signals import Stopper
from batchscale.measure.convergence.stage import Convergence
from batchscale.measure.convergence.tiers import LanePrograms
from batchscale.measure.data import datasets
from batchscale.measure.data.datasets import Dataset
from batchscale.measure.data.files.sources import cache_folder
from batchscale.measure.data.text import BYTES
from batchscale.measure.device import jax_settings
from batchscale.measure.device.machine import Host
from batchscale.measure.run import time_estimate
from batchscale.measure.run.study import Study
from batchscale.measure.session import Runner, Session
from batchscale.measure.throughput.stage import Throughput
from batchscale.measure.training import optimizers
from batchscale.measure.training.learner import model_named, task_named
from batchscale.printable import bare
from batchscale.records import results_folder, row_files
from batchscale.records.taken_trials import Source

FALLBACK = "lenet_digits"
"""The experiment that needs no download, run where the data of a default suite are not available."""
SUITE_MINUTES = {"gpu": 20.0, "tpu": 20.0}
"""Minutes that a default suite is scaled to if none are asked for; a CPU runs its suite as the files have it."""
COPIES_OF_PARAMETERS = 3
"""Least number of copies that training holds: the parameters, their gradient and their update."""


@dataclass
class Request:
    """What the user asked for.

    Attributes:
        names: Shipped experiments or TOML files; empty for the default suite of the platform.
        results: The folder of results folders.
        minutes: Time for all experiments together; each is scaled to an equal share.
        stages: Names of the stages to measure.
        trials: Another results folder whose trials are joined or continued; None where all are trained here.
        retries_failed: True if whatever failed in an earlier run is tried again.
        only_first: True if only the first experiment of a default suite is measured.
        progress: The line that shows what is done and how long the rest takes.
        runner: Does the jobs of stages elsewhere; None if this process does them.
    """

    names: Sequence[str]
    results: Path = results_folder.LOCAL
    minutes: float | None = None
    stages: Sequence[str] = STAGES
    trials: Source | None = None
    retries_failed: bool = False
    only_first: bool = False
    progress: Progress = field(default_factory=Progress)
    runner: Runner | None = None

    @property
    def sources(self) -> list[Path]:
        """The folder of each named experiment file, to which paths in it are relative."""
        return [experiments.sources_of(name) for name in self.names]

    def share(self, count: int) -> float | None:
        """Return the minutes of each of `count` experiments; None without a limit."""
        return None if self.minutes is None else self.minutes / count


def measure(request: Request, host: Host, stopper: Stopper) -> list[Path]:
    """Measure what is missing of every experiment and join the trials of another folder; return the results folders.

    Whatever cannot run is refused before anything is timed or written.

    Raises:
        InputError: On unusable input.
        Stopped: When a signal asked to stop; rows are saved.
        DeviceError: When the device keeps failing; rows are saved.
    """
    progress = request.progress
    _keep_programs(host)
    if not request.names and request.minutes is None:
        request = replace(request, minutes=SUITE_MINUTES.get(host.machine.platform))
    unscaled = _sessions(request, host, stopper)
    with ExitStack() as claims:
        for one in unscaled:
            claims.enter_context(row_files.claimed(one.folder))
        sessions = _within_minutes(request, unscaled)
        _prepare(sessions, request.trials)
        stages = []
        for one in sessions:
            stages += planned_stages(one, _not_joined(one, request.stages))
            progress.plan("page", SECONDS_PER_PAGE, 1.0)
        for stage in stages:
            progress.begin(stage.session.experiment.name)
            stage.run()
        progress.end()
    return [one.folder for one in sessions]


def _prepare(sessions: Sequence[Session], trials: Source | None) -> None:
    """Make every folder ready for rows, after all that is wrong was refused."""
    for one in sessions:
        if trials is not None:
            trials.refuse(one.experiment, one.folder, one.data)
    for one in sessions:
        one.prepare_folder()
        if trials is not None:
            trials.take(one.folder)
            if more := trials.not_taken(one.folder):
                later = f"{more} of the trials in {trials.folder} came later and are not used"
                one.progress.say(f"{one.folder}: {later}; to use them too, give another --results")


def _not_joined(session: Session, stages: Sequence[str]) -> Sequence[str]:
    """Return the stages without training where the trials of the folder are joined from another folder."""
    label = results_folder.joined_from(session.folder)
    if label is None or "convergence" not in stages:
        return stages
    session.progress.say(f"{session.folder}: its training runs are those of {label.folder}, so nothing is trained")
    return [name for name in stages if name != "convergence"]


def planned_stages(session: Session, names: Sequence[str]) -> list[Throughput | Convergence | Study]:
    """Return the named stages of a session in order, once the progress line holds what is missing of each.

    Training with looks alternates with timing, so the two are then one `Study`.

    Lowerings of lanes are chosen here, where that is still to do, since the time left depends on their speed.

    Raises:
        InputError: When rows in the folder are not valid, or not this experiment's.
        Stopped: When a signal asked to stop.
    """
    session.progress.begin(session.experiment.name)
    stages: list[Throughput | Convergence | Study] = []
    if session.experiment.confirm and "convergence" in names:
        stages.append(Study(session, times="throughput" in names))
    else:
        stages += [kind(session) for name, kind in KINDS.items() if name in names]
    for one in stages:
        one.plan()
    return stages


def _keep_programs(host: Host) -> None:
    """Keep the programs of mapped training for later runs, on platforms where compiling them takes minutes."""
    if host.policy.keeps_programs:
        jax_settings.keep_programs(cache_folder("programs"))


KINDS: dict[StageName, type[Throughput | Convergence]] = {"throughput": Throughput, "convergence": Convergence}
"""The stages in the order in which they run."""


def _sessions(request: Request, host: Host, stopper: Stopper) -> list[Session]:
    """Return a session for each experiment as its file has it; refuse what cannot run."""
    wanted = chosen(request.names, host.machine.platform)
    sources = request.sources or [Path()] * len(wanted)
    for name, experiment, source in zip(request.names, wanted, sources, strict=False):
        with _refused_as_of(Path(name).name):
            _refuse_unknown_names(experiment, source)
        experiments.refuse_contradictions(experiment, Path(name).name)
    if request.trials is not None:
        results_folder.read_experiment(request.trials.folder)
    pairs = with_data(wanted, sources, named=bool(request.names), progress=request.progress)
    pairs = pairs[:1] if request.only_first and not request.names else pairs
    minutes, sessions = request.share(len(pairs)), []
    for (experiment, dataset), source in zip(pairs, sources, strict=False):
        named = experiment if minutes is None else time_budget.named(experiment, minutes)
        folder = results_folder.folder_of(request.results, named, host.machine)
        one = Session(experiment, dataset, host, folder, request.progress, stopper, request.retries_failed, source)
        one.runner = request.runner
        _refuse_what_cannot_run(one)
        sessions.append(one)
    _refuse_one_folder_twice(sessions, request.names)
    return sessions


def _refuse_one_folder_twice(sessions: Sequence[Session], names: Sequence[str]) -> None:
    """Refuse two experiments of one folder: neither would know the rows of the other, so all would be there twice."""
    folders = [one.folder for one in sessions]
    for at, folder in enumerate(folders):
        if folder in folders[:at]:
            first, second = (bare(names[of], 120) for of in (folders.index(folder), at))
            raise InputError(
                f"{folder}: the folder of both {first} and {second}, expected a folder for each experiment"
            )


def chosen(names: Sequence[str], platform: str) -> list[Experiment]:
    """Return the named experiments, or the default suite of the platform.

    Raises:
        InputError: On a name that is neither shipped nor a file.
    """
    if names:
        return [experiments.find(name) for name in names]
    shipped = [experiments.find(name) for name in experiments.shipped()]
    return sorted((one for one in shipped if platform in one.suites), key=lambda one: one.name, reverse=True)


def with_data(
    wanted: Sequence[Experiment], sources: Sequence[Path], *, named: bool, progress: Progress
) -> list[tuple[Experiment, Dataset]]:
    """Return every experiment with its dataset.

    A suite leaves out experiments whose data are not available, and without any it becomes the `FALLBACK` experiment.

    Args:
        wanted: The experiments.
        sources: The folder that paths of each experiment are relative to.
        named: True if the user named them, so that no other experiment may replace them.
        progress: Shows what was tried.

    Raises:
        InputError: When an experiment named by the user has no data; lists what was tried.
    """
    found = []
    for experiment, source in zip(wanted, sources, strict=True):
        workload = experiment.workload
        try:
            loaded = datasets.load(workload.dataset, workload.dataset_options, source, progress.say)
            found.append((experiment, loaded))
        except InputError as error:
            if named:
                raise
            progress.say(f"{experiment.name}: left out, because there are no data\n{error}")
    return found or [_fallback(wanted[0].workload.dataset, progress)]


def _fallback(missing: str, progress: Progress) -> tuple[Experiment, Dataset]:
    notice = (
        f"No source answered for {missing}, so this run used scikit-learn's digits instead:"
        f" 1,797 small images. These results are not about {missing}."
    )
    progress.say(f"\n*** {notice} ***\n")
    experiment = msgspec.structs.replace(experiments.find(FALLBACK), notice=notice)
    return experiment, datasets.load(experiment.workload.dataset)


@contextmanager
def _refused_as_of(name: str) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def _refuse_unknown_names(experiment: Experiment, source: Path) -> None:
    workload = experiment.workload
    datasets.check(workload.dataset, workload.dataset_options, source)
    model_named(workload.model, workload.model_options, source)
    if workload.task is not None:
        task_named(workload.task, source)
    optimizers.optimizer_named(workload.optimizer, workload.optimizer_options, experiment.searched)


def _refuse_what_cannot_run(session: Session) -> None:
    experiment, host, sizes = session.experiment, session.host, session.batch_sizes
    plan.check_rates(experiment, sizes)
    plan.device_counts(experiment, host.machine.device_count, host.processes)
    with _refused_as_of(experiment.name):
        optimizers.refuse_contradictions(experiment, sizes[0])
        learner = session.learner(experiment.workload.precision, None)
        if (metric := experiment.goal.metric) not in learner.task.metrics:
            found = f"target.{metric}: {experiment.workload.task or session.dataset.task} has no such score"
            raise InputError(f"{found}, expected one of {', '.join(learner.task.metrics)}")
        if metric == "bits_per_byte" and session.dataset.classes > BYTES:
            found = f"target.bits_per_byte: the tokens of {session.dataset.name} are {session.dataset.classes} numbers"
            raise InputError(f"{found}, not bytes; expected target.loss")
        parameters = sum(leaf.size for leaf in jax.tree.leaves(learner.abstract_params()))
        needed, free = COPIES_OF_PARAMETERS * 4 * parameters, host.program_memory_bytes()
        if needed > free:
            raise InputError(
                f"workload.model_options: {experiment.workload.model} has {parameters:,} parameters with these options;"
                f" training needs {needed / 2**30:,.0f} GiB or more, but {free / 2**30:,.0f} GiB are free"
            )


def _within_minutes(request: Request, sessions: Sequence[Session]) -> list[Session]:
    """Scale every experiment to its share of the minutes; refuse edited ones before any speed is tried."""
    if (minutes := request.share(len(sessions))) is None:
        return list(sessions)
    known = [_known_scale(request, one, minutes) for one in sessions]
    return [replace(one, experiment=scale or _scaled(one, minutes)) for scale, one in zip(known, sessions, strict=True)]


def _known_scale(request: Request, session: Session, minutes: float) -> Experiment | None:
    """Return the scale fixed by the trials of another folder, or by an earlier run in this one; None if there is none.

    Raises:
        InputError: When the experiment was edited since, or the run to continue has another budget of minutes.
    """
    experiment, folder = session.experiment, session.folder
    if request.trials is not None:
        named, other = time_budget.named(experiment, minutes), results_folder.read_experiment(request.trials.folder)
        if request.trials.continues and other.name != named.name:
            raise InputError(f"{request.trials.folder}: its experiment is {other.name}, expected {named.name}")
        return time_budget.scaled_like(named, other) or named
    if (folder / results_folder.EXPERIMENT).exists():
        return time_budget.scaled_before(experiment, results_folder.read_experiment(folder))
    return None


def _scaled(session: Session, minutes: float) -> Experiment:
    """Scale the experiment to the minutes, by a short measured trial that counts among them."""
    experiment, progress = session.experiment, session.progress
    progress.say(f"{experiment.name}: a short trial of this machine's speed")
    progress.begin(experiment.name)
    start, programs = time.monotonic(), LanePrograms(session)
    programs.choose()
    tuned = [programs.tuned(tier) for tier in programs.tiers]
    spent = time.monotonic() - start
    host = session.host
    counts = plan.device_counts(experiment, host.machine.device_count, host.processes)
    given = session.train_examples, programs.tiers, tuned, session.compiling, counts, len(session.lowerings)

    def seconds(scaled: Experiment) -> float:
        energy = host.policy.energy_seconds
        return spent + time_estimate.seconds(scaled, *given, graphs=host.graphs, energy_seconds=energy)

    scaled = time_budget.fit(experiment, minutes, seconds)
    choice = f"{time_budget.described(scaled)}; about {round(seconds(scaled) / 60, 1):g} of {minutes:g} minutes"
    progress.say(f"{scaled.name}: {choice}")
    return scaled
