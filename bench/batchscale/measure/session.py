"""One experiment on one machine with one results folder: what every stage needs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import msgspec

from batchscale.config import plan
from batchscale.config.experiment import Experiment
from batchscale.config.vocabulary import Precision, StageName
from batchscale.measure.control.failures import Failure
from batchscale.measure.control.progress import Progress
from batchscale.measure.control.signals import Stopper
from batchscale.measure.data.datasets import Dataset, Examples
from batchscale.measure.device.compiled_programs import TuningFile
from batchscale.measure.device.machine import Host
from batchscale.measure.device.platform_policy import CompileSeconds, LanePolicy
from batchscale.measure.training.flop_count import flops_per_example
from batchscale.measure.training.learner import Learner, has_lowering, make_learner, model_named, on_device
from batchscale.measure.training.named_code import code_hash
from batchscale.measure.training.optimizers import Schedule
from batchscale.records import results_folder
from batchscale.records.row_files import Writer
from batchscale.records.row_types import AnyRow, Data, Origin, Stage

MOST_ARITHMETIC = 3.0
"""A lowering is tried if it needs at most this many times the FLOPs of the cheapest one.

"banded" needs 1.7 times those of "patches" for LeNet, where either may win, and 7 times for ResNet-8, where it cannot.
"""


class Jobs(Protocol):
    """A stage as those see it who do its jobs elsewhere: where rows come from and go to.

    The type of a job is that of the stage: trials, cells, or a choice.
    """

    session: Session

    def rows_for(self, job: Any, /) -> list[AnyRow]:  # noqa: ANN401 - see above
        """Return the rows that a process needs to do a job."""
        ...

    def take(self, job: Any, row: AnyRow, seconds: float, /) -> None:  # noqa: ANN401 - see above
        """Take in a row of a job, `seconds` after the one before."""
        ...

    def lose(self, job: Any, failure: Failure, /) -> None:  # noqa: ANN401 - see above
        """Write what a job leaves undone as failed: no process could do it."""
        ...


class Runner(Protocol):
    """Does the jobs of a stage in other processes, such as those of a cluster."""

    def run(self, stage: Jobs, chains: Sequence[Iterator[Any]]) -> None:
        """Do the jobs of several chains; the next job of a chain may depend on rows of the one before.

        Raises:
            InputError: When the rows cannot be written, or a process refuses a job.
            Stopped: When a signal asked to stop.
            DeviceError: When the jobs keep failing.
        """
        ...


@dataclass
class Session:
    """An experiment with its data, the host, and the folder for its rows.

    Attributes:
        experiment: The experiment as it is run, so after scaling to a budget of minutes.
        dataset: Train, validation and test split in host memory.
        host: Machine, environment and code version.
        folder: The results folder.
        progress: The line that shows what is done and how long the rest takes.
        stopper: Holds a request to stop; its `check` raises where a stop loses nothing.
        retries_failed: True if whatever failed in an earlier run is tried again.
        sources: The folder that paths of the experiment are relative to.
        runner: Does the jobs of stages elsewhere; None if this process does them.
        batch_sizes: The batch sizes of the experiment, ascending.
        duration: Where trials stop and are evaluated, in examples.
    """

    experiment: Experiment
    dataset: Dataset
    host: Host
    folder: Path
    progress: Progress = field(default_factory=Progress)
    stopper: Stopper = field(default_factory=Stopper)
    retries_failed: bool = False
    sources: Path = Path()
    runner: Runner | None = None
    _learners: dict[tuple[Precision, str | None], Learner] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.batch_sizes = plan.batch_sizes(self.experiment, self.train_examples)
        self.duration = plan.duration(self.experiment, self.train_examples)

    def prepare_folder(self) -> None:
        """Write experiment, machine and environment into the folder.

        Raises:
            InputError: When the folder holds rows of another protocol, machine, data or code.
        """
        environments = {self.host.environment_hash: self.host.environment}
        results_folder.prepare(self.folder, self.experiment, self.host.machine, environments, self.data)

    @cached_property
    def data(self) -> Data:
        """What is measured on, as each rows file names it once."""
        workload, dataset = self.experiment.workload, self.dataset
        return Data(
            **msgspec.structs.asdict(self.origin()),
            dataset=Path(workload.dataset).name,
            task=Path(workload.task or dataset.task).name,
            source=dataset.source,
            sha256=dataset.sha256,
            train_examples=self.train_examples,
            validation_examples=len(dataset.validation.labels),
            test_examples=len(dataset.test.labels),
            classes=dataset.classes,
            tokens_per_example=dataset.tokens_per_example,
            facts=dict(dataset.facts),
            model_sha256=code_hash(workload.model, self.sources),
            task_sha256=code_hash(workload.task, self.sources) if workload.task else None,
        )

    @property
    def train_examples(self) -> int:
        """Size of the train split."""
        return len(self.dataset.train.labels)

    @property
    def schedule(self) -> Schedule:
        """How the learning rate of every trial moves; a decay ends with the budget of epochs."""
        table = self.experiment.learning_rate
        warmup_examples = table.warmup_epochs * self.train_examples
        return Schedule(table.schedule, warmup_examples, float(self.duration.budget_examples))

    @cached_property
    def splits(self) -> tuple[Examples, Examples, Examples]:
        """Train, validation and test split on the device."""
        return on_device(self.dataset.train), on_device(self.dataset.validation), on_device(self.dataset.test)

    @cached_property
    def lowerings(self) -> Sequence[str | None]:
        """Lowerings of the model worth a trial on this platform: those that do not multiply its arithmetic."""
        named = self.lane_policy.lowerings
        if len(named) == 1:
            return named
        precision, one = self.experiment.workload.precision, self.dataset.train
        flops = [flops_per_example(self.learner(precision, lowering), 1, one) for lowering in named]
        if None in flops:
            return named
        least = min(each for each in flops if each is not None)
        return [name for name, each in zip(named, flops, strict=True) if each and each <= MOST_ARITHMETIC * least]

    @property
    def lane_policy(self) -> LanePolicy:
        """How lanes of this model are trained and evaluated on this platform."""
        policy = self.host.policy
        return policy.convolutional if self.convolves else policy.other

    @property
    def compiling(self) -> CompileSeconds:
        """How long programs of this model take to compile here."""
        threads = self.host.policy.compile_threads(self.host.machine.cpu_cores)
        return replace(self.lane_policy.compiling, threads=threads)

    @property
    def tries_shapes(self) -> bool:
        """True if the shapes of lanes are tried, because the platform's numbers were measured with other models."""
        return self.experiment.workload.model not in self.lane_policy.measured_with

    @property
    def convolves(self) -> bool:
        """True if the model has convolutions that can be lowered in several ways."""
        workload = self.experiment.workload
        return has_lowering(model_named(workload.model, workload.model_options, self.sources))

    @cached_property
    def tuning(self) -> TuningFile:
        """Lowerings chosen by an earlier or by this run in this folder."""
        return TuningFile(self.folder, self.lowerings)

    def learner(self, precision: Precision, lowering: str | None) -> Learner:
        """Return the workload's learner, made once for each precision and lowering."""
        key = (precision, lowering)
        if key not in self._learners:
            workload = msgspec.structs.replace(self.experiment.workload, precision=precision)
            searched = self.experiment.searched
            self._learners[key] = make_learner(workload, self.dataset, lowering, searched, self.sources)
        return self._learners[key]

    def origin(self) -> Origin:
        """Return the provenance of a row that is written now."""
        return Origin(
            experiment=self.experiment.name,
            fingerprint=self.experiment.fingerprint,
            machine=self.host.machine.name,
            environment=self.host.environment_hash,
            code=self.host.code,
            dirty=self.host.dirty,
            recorded=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def rows(self, name: str) -> Iterator[AnyRow]:
        """Decode the rows of one file of the folder.

        Raises:
            InputError: On a row of another protocol, or one that is not valid.
        """
        return results_folder.rows(self.folder, name, self.experiment)


class StageRows:
    """The rows file of one stage: decoded once, when it is made, and appended to while it is open.

    Args:
        session: The session whose folder holds the file.
        stage: Which stage.
        see: Called with every row of the file in order, and then with every row that this run appends.
    """

    def __init__(self, session: Session, stage: StageName, see: Callable[[AnyRow], None]) -> None:
        self._session, self._see = session, see
        self._stage: StageName = stage
        self._writer: Writer | None = None
        self._names_data, self._paused = False, 0.0
        self._counted: dict[str, int] = {}
        self.finished = False
        """True if the last run of the stage came to its end."""
        for row in session.rows(results_folder.ROWS_OF[stage]):
            self._take(row)

    def append(self, row: AnyRow) -> None:
        """Write one row and wait until the disk has it.

        Raises:
            InputError: When the disk reports an error.
        """
        if self._writer is None:
            raise RuntimeError(f"rows of the {self._stage} stage are written while it runs")
        new = [row] if self._names_data else [self._session.data, row]
        self._writer.append(*new)
        for one in new:
            self._take(one)

    @contextmanager
    def open(self, cost: Callable[[], dict[str, int]]) -> Iterator[None]:
        """Allow rows to be appended, and close the run of the stage with a row of what it cost.

        A run that found nothing left to measure adds no row.

        Args:
            cost: Returns what the stage counted since it was made: fields of `Stage`.

        Raises:
            InputError: When the file cannot be written, or another run writes it.
        """
        session, start, ended = self._session, time.monotonic(), False
        self._paused = 0.0
        with Writer(session.folder / results_folder.ROWS_OF[self._stage]) as writer:
            self._writer = writer
            self._report_torn_line(writer)
            try:
                yield
                ended = True
            finally:
                if writer.appended or not (ended and self.finished):
                    origin = msgspec.structs.asdict(session.origin())
                    seconds = time.monotonic() - start - self._paused
                    spent: dict[str, Any] = {name: value - self._counted.get(name, 0) for name, value in cost().items()}
                    self._counted = cost()
                    self.append(Stage(**origin, stage=self._stage, finished=ended, seconds=seconds, **spent))
                self._writer = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let another stage work; its time is not counted as time of this one."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._paused += time.monotonic() - start

    def _take(self, row: AnyRow) -> None:
        if isinstance(row, Stage) and row.stage == self._stage:
            self.finished = row.finished
        if isinstance(row, Data):
            self._names_data = True
        self._see(row)

    def _report_torn_line(self, writer: Writer) -> None:
        if writer.torn_bytes:
            aside = writer.path.with_suffix(".torn").name
            self._session.progress.say(
                f"{writer.path}: its last line was torn and is now in {aside}; that row is measured again"
            )
