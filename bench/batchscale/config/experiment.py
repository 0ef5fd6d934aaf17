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
from batchscale.config.target import Target, check_each_once, check_target
from batchscale.config.vocabulary import (
    NAME_PATTERN,
    NAME_RULE,
    FreeText,
    Input,
    Name,
    Precision,
    Source,
    UsersLoop,
)
from batchscale.errors import InputError
from batchscale.printable import LONGEST_REASON, bare, printable
from batchscale.untrusted_input import convert, did_you_mean, read_small

LARGEST_BATCH_SIZE = 10**9
BatchSize = Annotated[int, Meta(ge=1, le=LARGEST_BATCH_SIZE)]
Devices = Annotated[int, Meta(ge=1, le=4096)]
Rate = Annotated[float, Meta(gt=0, le=1e3)]
Values = Annotated[list[Annotated[float, Meta(ge=-1e3, le=1e3)]], Meta(min_length=2, max_length=16)]
MOST_LOOKS = 6  # each has a part of the error that is allowed in all
Looks = Annotated[list[Annotated[int, Meta(ge=2, le=1000)]], Meta(min_length=1, max_length=MOST_LOOKS)]
Option = bool | int | float | str | list[int]

LARGEST_FILE_BYTES = 1 << 20
MOST_COMBINATIONS = 64
"""The most combinations of options that may be searched together with the learning rate."""
MOST_FACTORS = 256
"""The most batch sizes that a range may have."""
LARGEST_FLOAT32 = 3.4e38
OPTION_RANGES = {
    **dict.fromkeys(("momentum", "b1", "b2", "decay", "eta_minus"), (0.0, 1.0)),
    **dict.fromkeys(("weight_decay", "eps", "eps_root", "initial_scale", "trust_coefficient"), (0.0, LARGEST_FLOAT32)),
    **dict.fromkeys(("min_step_size", "max_step_size"), (0.0, LARGEST_FLOAT32)),
    "eta_plus": (1.0, LARGEST_FLOAT32),
}
"""Allowed values of optimizer options: from the first number, included, to the second, excluded."""


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A TOML table; unknown keys are refused."""


class Workload(Table, frozen=True, kw_only=True):
    """What is trained, and in which arithmetic.

    A file of the user is named by a path relative to the folder of the experiment's file.

    Attributes:
        dataset: A shipped dataset, or a path: an .npz file, a folder of .npy files, or a text file.
        model: A shipped model, or a class of the user: "mine.py:Model" or "package.module:Model".
        task: What training means: a shipped task, or a class of the user; by default the task of the dataset.
        dataset_options: Arguments of the dataset, such as the window of a text.
        model_options: Arguments of the model's constructor.
        optimizer_options: Arguments of the optimizer, such as momentum.
    """

    dataset: Source
    model: Source
    optimizer: Name
    task: Source | None = None
    dataset_options: dict[str, Option] = {}
    model_options: dict[str, Option] = {}
    optimizer_options: dict[str, float | bool] = {}
    precision: Precision = "float32"


class BatchSizes(Table, frozen=True, kw_only=True):
    """Either `values`, or the sizes from `start` to `stop`, both included, each `factor` times the one before."""

    values: Annotated[list[BatchSize], Meta(min_length=1, max_length=64)] | None = None
    start: BatchSize | None = None
    stop: BatchSize | None = None
    factor: Annotated[float, Meta(gt=1, le=1024)] = 2.0


class LearningRate(Table, frozen=True, kw_only=True):
    """The rates that are tried at every batch size: a geometric grid around an anchor.

    If momentum is searched, all rates but `fixed` are effective rates, rate / (1 - momentum), so that every momentum
    is tried over its own range of rates.

    Attributes:
        anchor: The middle of the grid at `anchor_batch_size`.
        rule: How the anchor moves with the batch size: with its square root, in proportion, or not at all.
        factor: Ratio of neighbouring rates.
        span: Number of rates on either side of the anchor.
        extend: Number of rates by which the grid may grow on a side whose edge has the best rate.
        fixed: One more rate, tried unchanged at every batch size.
        warmup_epochs: Length of the linear warm-up, if the schedule has one.
    """

    anchor: Rate
    anchor_batch_size: BatchSize = 128
    rule: Literal["none", "sqrt", "linear"] = "sqrt"
    factor: Annotated[float, Meta(gt=1, le=100)] = 2.0
    span: Annotated[int, Meta(ge=0, le=20)] = 2
    extend: Annotated[int, Meta(ge=0, le=10)] = 2
    fixed: Rate | None = None
    schedule: Literal["constant", "warmup", "warmup_cosine", "linear_decay"] = "constant"
    warmup_epochs: Annotated[float, Meta(ge=0, le=1000)] = 0.0

    @property
    def grid_size(self) -> int:
        """Number of rates in the grid, before it grows."""
        return 2 * self.span + 1

    @property
    def decays(self) -> bool:
        """True if the schedule brings the rate to 0 at the end of the epoch budget."""
        return self.schedule in ("warmup_cosine", "linear_decay")


class Seeds(Table, frozen=True, kw_only=True):
    """Number of seeds that choose the rate (`search`), and of fresh seeds that claims rest on (`confirm`)."""

    search: Annotated[int, Meta(ge=1, le=1000)] = 1
    confirm: Annotated[int, Meta(ge=1, le=1000)] = 3


class Confirm(Table, frozen=True, kw_only=True):
    """Confirm at looks: after each one, only batch sizes that can still be the best get more seeds.

    `seeds.confirm` then counts runs to the epoch budget, on average over batch sizes: they are spent where they decide
    most. A first seed counts as one, however long it goes on. Without this table every batch size gets as many seeds.

    Attributes:
        looks: Seeds of every batch size that is left, at each look.
        tolerance: The study is over when the recommended batch size is at most this much slower than the best.
        past_target: Runs end at this multiple of their first evaluation at the target; the first three seeds run the
            whole epoch budget as well. Smoothed curves need evaluations on both sides of the target.
    """

    looks: Looks = msgspec.field(default_factory=lambda: [3, 6, 12, 24])
    tolerance: Annotated[float, Meta(gt=0, le=1)] = 0.05
    past_target: Annotated[float, Meta(ge=1.2, le=10)] = 1.42


class Budget(Table, frozen=True, kw_only=True):
    """How long trials train.

    Attributes:
        epochs: Every trial trains so long; accuracies are compared within it.
        max_epochs: A trial that has not reached the target by `epochs` continues up to this limit.
    """

    epochs: Annotated[float, Meta(gt=0, le=1e5)]
    max_epochs: Annotated[float, Meta(gt=0, le=1e5)] | None = None


class Evaluation(Table, frozen=True, kw_only=True):
    """When and what trials are evaluated on; the cadence counts examples, so it is the same for every batch size.

    Attributes:
        first_epoch: Number of evaluations in the first epoch.
        per_epoch: Number of evaluations in every later epoch.
        test: Evaluate on the test split at the end of the epoch budget only, or at every evaluation.
        noise: Estimate the gradient noise between evaluations; this changes no other number.
        averaging_epochs: Also evaluate an exponential moving average of the parameters with this time constant.
    """

    first_epoch: Annotated[int, Meta(ge=1, le=1000)] = 8
    per_epoch: Annotated[int, Meta(ge=1, le=1000)] = 4
    test: Literal["end", "always"] = "end"
    noise: bool = True
    averaging_epochs: Annotated[float, Meta(gt=0, le=100)] | None = None


class Throughput(Table, frozen=True, kw_only=True):
    """What the throughput stage times.

    Attributes:
        loops: Loops to time.
        inputs: Sources of the examples to time with.
        precisions: Precisions to time; by default the one that is trained in.
        devices: Numbers of local devices that share a batch; "auto" takes every power of two up to the number there is.
        rounds: Timed repetitions of every configuration.
        round_seconds: Least duration of a round.
        memory_limit_bytes: The most that a program may need; by default what is free.
        isolate: Which configurations run in a child process; "auto" takes those that may not fit into memory.
        max_batch_size: Look for the largest batch size up to the training set, up to what memory holds, or not at all.
    """

    loops: Annotated[list[UsersLoop], Meta(min_length=1, max_length=2)] = msgspec.field(
        default_factory=lambda: ["dispatch", "scan"]
    )
    inputs: Annotated[list[Input], Meta(min_length=1, max_length=2)] = msgspec.field(default_factory=lambda: ["device"])
    precisions: Annotated[list[Precision], Meta(max_length=3)] = []
    devices: Literal["auto"] | Annotated[list[Devices], Meta(min_length=1, max_length=16)] = "auto"
    rounds: Annotated[int, Meta(ge=5, le=1000)] = 7
    round_seconds: Annotated[float, Meta(gt=0, le=60)] = 0.1
    memory_limit_bytes: Annotated[int, Meta(ge=1 << 20, le=1 << 50)] | None = None
    isolate: Literal["auto", "always", "never"] = "auto"
    max_batch_size: Literal["training_set", "memory", "skip"] = "training_set"


class Experiment(Table, frozen=True, kw_only=True):
    """One validated experiment file.

    Attributes:
        name: The file's stem.
        search: Optimizer options to search together with the learning rate: each value is tried over the grid of rates.
        confirm: How seeds are spent at looks; None gives every batch size `seeds.confirm` seeds.
        notice: A remark that is shown on every page about the experiment.
        suites: The platforms whose default suite the experiment is part of. `batchscale run` without names runs the
            experiments that list this device's platform.
    """

    name: Name = ""
    title: Annotated[FreeText, Meta(min_length=1, max_length=120)]
    description: Annotated[FreeText, Meta(max_length=4000)] = ""
    workload: Workload
    target: Target
    batch_sizes: BatchSizes
    learning_rate: LearningRate
    search: Annotated[dict[str, Values], Meta(max_length=3)] = msgspec.field(default_factory=dict)
    seeds: Seeds = Seeds()
    confirm: Confirm | None = None
    budget: Budget
    evaluation: Evaluation = Evaluation()
    throughput: Throughput = Throughput()
    notice: Annotated[FreeText, Meta(max_length=400)] = ""
    suites: list[Literal["cpu", "gpu", "tpu"]] = msgspec.field(default_factory=list)

    @property
    def searched(self) -> tuple[str, ...]:
        """Names of the options that are searched together with the learning rate, sorted."""
        return tuple(sorted(self.search))

    @property
    def goal(self) -> Goal:
        """The target: the score that trials are compared by, and the value of it that they are timed to."""
        [(metric, threshold)] = self.target.given.items()
        return Goal(metric=metric, threshold=threshold, name=self.target.name)

    @property
    def max_epochs(self) -> float:
        """Epochs after which a trial ends even if it has not reached the target."""
        return max(self.budget.max_epochs or 0.0, self.budget.epochs)

    def epochs_to_reach(self, threshold: float) -> float:
        """Return how many epochs each trial was given to reach a `threshold` of the goal's score.

        Trials stop at the epoch budget once they have reached the experiment's target, so a harder one can only be
        judged within that budget.
        """
        return self.budget.epochs if self.goal.better(threshold, self.goal.threshold) else self.max_epochs

    def budget_examples(self, train_examples: int) -> int:
        """Return the number of examples in the epoch budget. Accuracies are compared within this budget."""
        return round(self.budget.epochs * train_examples)

    @property
    def protocol(self) -> dict[str, object]:
        """The settings that must be equal in two trials that are compared.

        The tried learning rates, options and seeds may differ.
        """
        rate, evaluation = self.learning_rate, msgspec.to_builtins(self.evaluation)
        del evaluation["noise"]
        if self.evaluation.averaging_epochs is None:
            del evaluation["averaging_epochs"]
        searched = {"search": list(self.searched)} if self.search else {}
        # When the study looks, and when it is content, changes no trial.
        past_target = {"confirm": {"past_target": self.confirm.past_target}} if self.confirm else {}
        workload = msgspec.to_builtins(self.workload)
        # Absent from fingerprints unless given, so that rows from before these fields existed keep theirs.
        for later in ("task", "dataset_options"):
            if not workload[later]:
                del workload[later]
        return {
            "workload": workload,
            "target": self.target.given | ({"name": self.target.name} if self.target.name else {}),
            "budget": {"epochs": self.budget.epochs, "max_epochs": self.max_epochs},
            "evaluation": evaluation,
            "learning_rate": {"schedule": rate.schedule, "warmup_epochs": rate.warmup_epochs},
            **searched,
            **past_target,
        }

    @property
    def fingerprint(self) -> str:
        """The first 16 digits of the protocol's SHA-256; every row carries it."""
        canonical = msgspec.json.encode(self.protocol, order="deterministic")
        return hashlib.sha256(canonical).hexdigest()[:16]


def expand_batch_sizes(table: BatchSizes, source: str) -> list[int]:
    """Return the batch sizes of a table, sorted.

    Raises:
        InputError: if both forms or neither is given, a value is repeated, or `stop` is below `start`.
    """
    field = f"{source}: batch_sizes"
    if table.values is not None:
        if table.start is not None or table.stop is not None:
            raise InputError(f"{field}: has values, and start or stop; expected only one of the two forms")
        check_each_once(table.values, f"{field}.values")
        return sorted(table.values)
    if table.start is None or table.stop is None:
        raise InputError(f"{field}: expected values = [16, 64, 256], or start and stop (and factor)")
    if table.stop < table.start:
        raise InputError(f"{field}.stop: {table.stop}, expected at least start = {table.start}")
    factors = math.log(table.stop / table.start) / math.log(table.factor)
    if factors > MOST_FACTORS:
        raise InputError(
            f"{field}.factor: {table.factor} gives more than {MOST_FACTORS} batch sizes up to {table.stop},"
            " expected a larger factor"
        )
    between = [round(table.start * table.factor**power) for power in range(math.ceil(factors - 1e-9))]
    return sorted({table.start, *between, table.stop})


def parse(data: object, name: str, source: str) -> Experiment:
    """Validate parsed TOML as the experiment `name`.

    Raises:
        InputError: one line that names the full path of the first field that is wrong.
    """
    if not isinstance(data, dict):
        raise InputError(f"{source}: expected tables such as [workload], found {printable(data)}")
    experiment = convert({**data, "name": name}, Experiment, source)
    expand_batch_sizes(experiment.batch_sizes, source)
    for option, value in experiment.workload.optimizer_options.items():
        _check_option(option, value, f"{source}: workload.optimizer_options.{option}")
    _check_search(experiment, source)
    check_target(experiment.target, f"{source}: target")
    if experiment.confirm:
        _check_looks(experiment.confirm.looks, f"{source}: confirm.looks")
    for table in ("loops", "inputs", "precisions", "devices"):
        listed = getattr(experiment.throughput, table)
        if listed != "auto":
            check_each_once(listed, f"{source}: throughput.{table}")
    _check_warmup(experiment, f"{source}: learning_rate.warmup_epochs")
    least, longest = experiment.budget.epochs, experiment.budget.max_epochs
    if longest is not None and longest < least:
        raise InputError(f"{source}: budget.max_epochs: {longest}, expected at least epochs = {least}")
    return experiment


def refuse_contradictions(experiment: Experiment, source: str) -> None:
    """Check before a run that no setting would be ignored and no trial trained in vain.

    Reading does not check this, so that rows measured under such an experiment stay readable.

    Raises:
        InputError: one line that names the first such setting.
    """
    sizes, target, budget = experiment.batch_sizes, experiment.target, experiment.budget
    if sizes.values is not None and sizes.factor != BatchSizes().factor:
        raise InputError(
            f"{source}: batch_sizes.factor: {sizes.factor:g} with values, expected a factor only with start and stop"
        )
    goal = experiment.goal
    if goal.threshold in target.also:
        raise InputError(
            f"{source}: target.also: {printable(target.also)} holds {goal.metric} = {goal.threshold} itself,"
            " expected other targets"
        )
    rate = experiment.learning_rate
    if rate.span == 0 and rate.extend not in (0, LearningRate(anchor=rate.anchor).extend):
        raise InputError(f"{source}: learning_rate.extend: {rate.extend} with span = 0, expected a span of 1 or more")
    if rate.decays and experiment.max_epochs > budget.epochs:
        raise InputError(
            f"{source}: budget.max_epochs: {budget.max_epochs}, expected at most epochs = {budget.epochs}, where"
            f" {printable(rate.schedule)} has brought the rate to 0"
        )


def _check_looks(looks: Sequence[int], field: str) -> None:
    if list(looks) != sorted(set(looks)):
        raise InputError(f"{field}: {printable(looks)}, expected rising numbers of seeds")


def _check_warmup(experiment: Experiment, field: str) -> None:
    rate, epochs = experiment.learning_rate, experiment.budget.epochs
    if rate.schedule.startswith("warmup"):
        expected = "" if 0 < rate.warmup_epochs < epochs else f"above 0 and below budget.epochs = {epochs}"
    else:
        expected = "'warmup' or 'warmup_cosine'" if rate.warmup_epochs else ""
    if expected:
        found = f"{rate.warmup_epochs} with schedule = {printable(rate.schedule)}"
        raise InputError(f"{field}: {found}, expected {expected}")


def _check_option(name: str, value: float, field: str) -> None:
    if name not in OPTION_RANGES:
        return
    lowest, below = OPTION_RANGES[name]
    if not lowest <= value < below:
        only_low = value < lowest and below == LARGEST_FLOAT32
        right = f"{lowest:g} or more" if only_low else f"from {lowest:g} to below {below:g}"
        raise InputError(f"{field}: {value}, expected {right}")


def _check_search(experiment: Experiment, source: str) -> None:
    for option, tried in experiment.search.items():
        field = f"{source}: search.{bare(option)}"
        if not re.match(NAME_PATTERN, option):
            raise InputError(f"{field}: expected the name of an option: {NAME_RULE}")
        check_each_once(tried, field)
        for value in tried:
            _check_option(option, value, field)
        if option in experiment.workload.optimizer_options:
            raise InputError(f"{field}: also set by workload.optimizer_options, expected only one of the two")
    combinations = math.prod(map(len, experiment.search.values()))
    if combinations > MOST_COMBINATIONS:
        raise InputError(f"{source}: search: {combinations} combinations, expected at most {MOST_COMBINATIONS}")


def read(path: Path) -> Experiment:
    """Read one experiment file; its stem is the experiment's name.

    Raises:
        InputError: if the file is missing, too large, not TOML, or not a valid experiment.
    """
    try:
        data = tomllib.loads(read_small(path, LARGEST_FILE_BYTES).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        fault, _, where = str(error).rpartition(" (at ")
        position = f"at {where.removesuffix(')')}: {fault}" if fault else where
        raise InputError(f"{path}: not valid TOML ({bare(position, LONGEST_REASON)})") from None
    if "name" not in data and not re.match(NAME_PATTERN, path.stem):
        raise InputError(
            f"{bare(path.name)}: the file's name is the experiment's name:"
            f" expected {NAME_RULE}, found {printable(path.stem)}"
        )
    name = data.get("name", path.stem)
    return parse(data, name if isinstance(name, str) else path.stem, str(path))


def shipped() -> list[str]:
    """List the names of the experiments that come with the package."""
    folder = resources.files("batchscale") / "experiments"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def sources_of(name: str) -> Path:
    """Return the folder that paths in an experiment are relative to: that of its file, else the current one."""
    return Path(name).parent if name.endswith(".toml") else Path()


def find(name: str) -> Experiment:
    """Read an experiment by shipped name or by path.

    Raises:
        InputError: if there is neither; lists the shipped names.
    """
    if name in shipped():
        return read(Path(str(resources.files("batchscale") / "experiments" / f"{name}.toml")))
    if name.endswith(".toml"):
        return read(Path(name))
    known = f"expected a file ending in .toml, or one of {', '.join(shipped())}"
    raise InputError(f"experiment {printable(name)}: {known}{did_you_mean(name, shipped())}")
