"""An experiment is one TOML file: what to train, the target, the sweep, the seeds and the budgets."""

from __future__ import annotations

import hashlib
import math
import re
import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from batchscale.config.goal import Goal
from batchscale.config.schema import (
    NAME,
    NAME_PATTERN,
    BatchSizes,
    Budget,
    Evaluation,
    LearningRate,
    Name,
    Seeds,
    Table,
    Target,
    Throughput,
    Values,
    Workload,
)
from batchscale.config.validation import convert
from batchscale.errors import InputError
from batchscale.printable import LONGEST_REASON, bare, printable
from batchscale.safe_files import read_small

LARGEST_FILE_BYTES = 1 << 20
MOST_COMBINATIONS = 64
"""Of options searched beside the learning rate."""
LARGEST_FLOAT32 = 3.4e38
OPTION_RANGES = {
    **dict.fromkeys(("momentum", "b1", "b2", "decay", "eta_minus"), (0.0, 1.0)),
    **dict.fromkeys(("weight_decay", "eps", "eps_root", "initial_scale", "trust_coefficient"), (0.0, LARGEST_FLOAT32)),
    **dict.fromkeys(("min_step_size", "max_step_size"), (0.0, LARGEST_FLOAT32)),
    "eta_plus": (1.0, LARGEST_FLOAT32),
}
"""Of optimizers: from the first number to below the second."""
MOST_FACTORS = 256
"""A range of batch sizes may take this many factors from `start` to `stop`."""


class Experiment(Table, frozen=True, kw_only=True):
    """One validated experiment file. `name` is the file's stem.

    `search` holds optimizer options, such as momentum, with values that are each tried over the grid of rates.
    """

    name: Name = ""
    title: Annotated[str, Meta(min_length=1, max_length=120)]
    description: Annotated[str, Meta(max_length=4000)] = ""
    workload: Workload
    target: Target
    batch_sizes: BatchSizes
    learning_rate: LearningRate
    search: Annotated[dict[str, Values], Meta(max_length=3)] = msgspec.field(default_factory=dict)
    seeds: Seeds = Seeds()
    budget: Budget
    evaluation: Evaluation = Evaluation()
    throughput: Throughput = Throughput()
    notice: Annotated[str, Meta(max_length=400)] = ""
    suites: list[Literal["cpu", "gpu", "tpu"]] = msgspec.field(default_factory=list)

    @property
    def searched(self) -> tuple[str, ...]:
        """The options that are searched beside the learning rate, by name."""
        return tuple(sorted(self.search))

    @property
    def goal(self) -> Goal:
        """The target: the score that trials are compared by, and the value of it that they are timed to."""
        return Goal(metric="accuracy", threshold=self.target.accuracy)

    @property
    def max_epochs(self) -> float:
        """Epochs after which a trial that has not reached the target is given up."""
        return max(self.budget.max_epochs or 0.0, self.budget.epochs)

    def epochs_to_reach(self, accuracy: float) -> float:
        """Return how many epochs each trial was given to reach `accuracy`.

        Trials stop at the epoch budget once they have reached the experiment's target, so a higher accuracy can only
        be judged within that budget.
        """
        return self.budget.epochs if self.goal.better(accuracy, self.goal.threshold) else self.max_epochs

    def budget_examples(self, train_examples: int) -> int:
        """Examples that every trial trains, and within which accuracies are compared."""
        return round(self.budget.epochs * train_examples)

    @property
    def protocol(self) -> dict[str, object]:
        """All that must agree before two trials may be put side by side; the values that are tried may differ."""
        rate, evaluation = self.learning_rate, msgspec.to_builtins(self.evaluation)
        del evaluation["noise"]
        if self.evaluation.averaging_epochs is None:
            del evaluation["averaging_epochs"]
        searched = {"search": list(self.searched)} if self.search else {}
        return {
            "workload": msgspec.to_builtins(self.workload),
            "target": {"accuracy": self.target.accuracy},
            "budget": {"epochs": self.budget.epochs, "max_epochs": self.max_epochs},
            "evaluation": evaluation,
            "learning_rate": {"schedule": rate.schedule, "warmup_epochs": rate.warmup_epochs},
            **searched,
        }

    @property
    def fingerprint(self) -> str:
        """A short SHA-256 of the protocol; every row carries it."""
        canonical = msgspec.json.encode(self.protocol, order="deterministic")
        return hashlib.sha256(canonical).hexdigest()[:16]


def expand_batch_sizes(table: BatchSizes, source: str) -> list[int]:
    """The sorted batch sizes of a table.

    Raises:
        InputError: on both or neither form, a repeated value, or `stop` below `start`.
    """
    field = f"{source}: batch_sizes"
    if table.values is not None:
        if table.start is not None or table.stop is not None:
            raise InputError(f"{field}: give either values, or start and stop, not both")
        _check_each_once(table.values, f"{field}.values")
        return sorted(table.values)
    if table.start is None or table.stop is None:
        raise InputError(f"{field}: give either values = [16, 64, 256], or start and stop (and factor)")
    if table.stop < table.start:
        raise InputError(f"{field}.stop: {table.stop} is below start = {table.start}")
    factors = math.log(table.stop / table.start) / math.log(table.factor)
    if factors > MOST_FACTORS:
        raise InputError(f"{field}.factor: {table.factor} takes more than {MOST_FACTORS} factors to {table.stop}")
    between = [round(table.start * table.factor**power) for power in range(math.ceil(factors - 1e-9))]
    return sorted({table.start, *between, table.stop})


def parse(data: object, name: str, source: str) -> Experiment:
    """Validate parsed TOML as the experiment `name`.

    Raises:
        InputError: one line with the full path of the first thing wrong.
    """
    if not isinstance(data, dict):
        raise InputError(f"{source}: expected tables such as [workload], found {printable(data)}")
    experiment = convert({**data, "name": name}, Experiment, source)
    expand_batch_sizes(experiment.batch_sizes, source)
    for option, value in experiment.workload.optimizer_options.items():
        _check_option(option, value, f"{source}: workload.optimizer_options.{option}")
    _check_search(experiment, source)
    _check_lists(experiment, source)
    _check_warmup(experiment, f"{source}: learning_rate.warmup_epochs")
    budget = experiment.budget
    if budget.max_epochs is not None and budget.max_epochs < budget.epochs:
        raise InputError(f"{source}: budget.max_epochs: {budget.max_epochs} is below epochs = {budget.epochs}")
    return experiment


def refuse_contradictions(experiment: Experiment, source: str) -> None:
    """Check before a run that nothing asked for would be ignored or trained in vain; rows of such a run can be read.

    Raises:
        InputError: one line that names the first such setting.
    """
    sizes, target, budget = experiment.batch_sizes, experiment.target, experiment.budget
    if sizes.values is not None and sizes.factor != BatchSizes().factor:
        raise InputError(f"{source}: batch_sizes.factor: {sizes.factor:g} goes with start and stop, not with values")
    if target.accuracy in target.also:
        raise InputError(f"{source}: target.also: {printable(target.also)} holds accuracy = {target.accuracy} itself")
    rate = experiment.learning_rate
    if rate.span == 0 and rate.extend not in (0, LearningRate(anchor=rate.anchor).extend):
        raise InputError(f"{source}: learning_rate.extend: {rate.extend} goes with a span of 1 or more; span is 0")
    if rate.decays and experiment.max_epochs > budget.epochs:
        schedule = printable(rate.schedule)
        raise InputError(
            f"{source}: budget.max_epochs: {budget.max_epochs} is above epochs = {budget.epochs}, where {schedule}"
            " has brought the rate to 0; leave it out"
        )


def _check_lists(experiment: Experiment, source: str) -> None:
    _check_each_once(experiment.target.also, f"{source}: target.also")
    for name in ("loops", "inputs", "precisions", "devices"):
        listed = getattr(experiment.throughput, name)
        if listed != "auto":
            _check_each_once(listed, f"{source}: throughput.{name}")


def _check_each_once(values: Sequence[object], field: str) -> None:
    for at, value in enumerate(values):
        if value in values[:at]:
            raise InputError(f"{field}: {printable(values)} holds {printable(value)} twice")


def _check_warmup(experiment: Experiment, field: str) -> None:
    rate, epochs = experiment.learning_rate, experiment.budget.epochs
    if not rate.schedule.startswith("warmup"):
        if rate.warmup_epochs:
            right = 'schedule = "warmup" or "warmup_cosine"'
            raise InputError(f"{field}: {rate.warmup_epochs} needs {right}, found {printable(rate.schedule)}")
    elif not rate.warmup_epochs:
        raise InputError(f"{field}: {rate.warmup_epochs} is no warm-up; above 0 is right")
    elif rate.warmup_epochs >= epochs:
        raise InputError(f"{field}: {rate.warmup_epochs} leaves nothing of budget.epochs = {epochs}")


def _check_option(name: str, value: float, field: str) -> None:
    if name not in OPTION_RANGES:
        return
    lowest, below = OPTION_RANGES[name]
    if not lowest <= value < below:
        only_low = value < lowest and below == LARGEST_FLOAT32
        right = f"{lowest:g} or more" if only_low else f"from {lowest:g} to below {below:g}"
        raise InputError(f"{field}: {value} is not {right}")


def _check_search(experiment: Experiment, source: str) -> None:
    for option, tried in experiment.search.items():
        field = f"{source}: search.{bare(option)}"
        if not re.match(NAME_PATTERN, option):
            raise InputError(f"{field}: the name of an option is right: {NAME}")
        _check_each_once(tried, field)
        for value in tried:
            _check_option(option, value, field)
        if option in experiment.workload.optimizer_options:
            raise InputError(f"{field}: workload.optimizer_options sets it as well; name it once")
    combinations = math.prod(map(len, experiment.search.values()))
    if combinations > MOST_COMBINATIONS:
        raise InputError(
            f"{source}: search: {combinations} combinations are above the {MOST_COMBINATIONS} there may be"
        )


def read(path: Path) -> Experiment:
    """Read one experiment file; its stem is its name.

    Raises:
        InputError: when the file is missing, too large, not TOML, or does not validate.
    """
    try:
        data = tomllib.loads(read_small(path, LARGEST_FILE_BYTES).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        *said, where = str(error).rpartition(" (at ")
        position = f"at {where.removesuffix(')')}: {said[0]}" if said[0] else where
        raise InputError(f"{path}: not valid TOML ({bare(position, LONGEST_REASON)})") from None
    if "name" not in data and not re.match(NAME_PATTERN, path.stem):
        raise InputError(
            f"{bare(path.name)}: the file's name is the experiment's name:"
            f" expected {NAME}, found {printable(path.stem)}"
        )
    name = data.get("name", path.stem)
    return parse(data, name if isinstance(name, str) else path.stem, str(path))


def shipped() -> list[str]:
    """Names of the experiments that come with the package."""
    folder = resources.files("batchscale") / "experiments"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def find(name: str) -> Experiment:
    """An experiment by shipped name or by path.

    Raises:
        InputError: when neither exists; lists the shipped names.
    """
    if name in shipped():
        return read(Path(str(resources.files("batchscale") / "experiments" / f"{name}.toml")))
    if name.endswith(".toml"):
        return read(Path(name))
    raise InputError(
        f"experiment {printable(name)} is neither a file ending in .toml nor one of {', '.join(shipped())}"
    )
