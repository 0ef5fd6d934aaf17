"""An experiment is one TOML file: what to train, the target, the sweep, the seeds and the budgets."""

from __future__ import annotations

import hashlib
import math
import re
import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from bench.decoding import LONGEST_REASON, convert, printable, read_small
from bench.errors import InputError

NAME = "a lower-case letter, then lower-case letters, digits or _, at most 40 in all"
NAME_PATTERN = r"^[a-z][a-z0-9_]{0,39}\Z"
Name = Annotated[str, Meta(pattern=NAME_PATTERN, description=NAME)]
Positive = Annotated[int, Meta(ge=1, le=10**9)]
Devices = Annotated[int, Meta(ge=1, le=4096)]
Rate = Annotated[float, Meta(gt=0, le=1e3)]
Fraction = Annotated[float, Meta(gt=0, lt=1)]
Values = Annotated[list[Annotated[float, Meta(ge=-1e3, le=1e3)]], Meta(min_length=2, max_length=16)]
Option = bool | int | float | str | list[int]

LARGEST_FILE_BYTES = 1 << 20
MOST_COMBINATIONS = 64
"""Of options searched beside the learning rate."""
MOST_FACTORS = 256
"""A range of batch sizes may take this many factors from `start` to `stop`."""


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A TOML table whose unknown keys are refused."""


class Workload(Table, frozen=True, kw_only=True):
    """What is trained, and in which arithmetic."""

    dataset: Name
    model: Name
    optimizer: Name
    model_options: dict[str, Option] = {}
    optimizer_options: dict[str, float | bool] = {}
    precision: Literal["float32", "default", "bfloat16"] = "float32"


class Target(Table, frozen=True, kw_only=True):
    """The validation accuracy whose first crossing is timed; `also` are read from the same curves."""

    accuracy: Fraction
    also: Annotated[list[Fraction], Meta(max_length=16)] = []


class BatchSizes(Table, frozen=True, kw_only=True):
    """Either `values`, or `start`, `stop` and `factor` (both ends included)."""

    values: Annotated[list[Positive], Meta(min_length=1, max_length=64)] | None = None
    start: Positive | None = None
    stop: Positive | None = None
    factor: Annotated[float, Meta(gt=1, le=1024)] = 2.0


class LearningRate(Table, frozen=True, kw_only=True):
    """A grid of 2 `span` + 1 rates, `factor` apart, around `anchor` moved with the batch size by `rule`.

    `extend` is how many rates a grid may grow on a side where its best rate lies at the edge.
    `fixed` adds trials at that one rate at every batch size. Where momentum is searched, all but `fixed` are effective
    rates, rate / (1 - momentum), so that every momentum is tried over a range of its own.
    """

    anchor: Rate
    anchor_batch_size: Positive = 128
    rule: Literal["none", "sqrt", "linear"] = "sqrt"
    factor: Annotated[float, Meta(gt=1, le=100)] = 2.0
    span: Annotated[int, Meta(ge=0, le=20)] = 2
    extend: Annotated[int, Meta(ge=0, le=10)] = 2
    fixed: Rate | None = None
    schedule: Literal["constant", "warmup", "warmup_cosine", "linear_decay"] = "constant"
    warmup_epochs: Annotated[float, Meta(ge=0, le=1000)] = 0.0


class Seeds(Table, frozen=True, kw_only=True):
    """How many seeds choose the rate, and how many fresh ones the claims rest on."""

    search: Annotated[int, Meta(ge=1, le=1000)] = 1
    confirm: Annotated[int, Meta(ge=1, le=1000)] = 3


class Budget(Table, frozen=True, kw_only=True):
    """Every trial trains `epochs` (accuracies are compared there); one short of the target goes on to `max_epochs`."""

    epochs: Annotated[float, Meta(gt=0, le=1e5)]
    max_epochs: Annotated[float, Meta(gt=0, le=1e5)] | None = None


class Evaluation(Table, frozen=True, kw_only=True):
    """Cadence in examples, the same for every batch size: `first_epoch` times in epoch one, then `per_epoch`.

    `noise` estimates the gradient noise between evaluations; it changes no other number. `averaging_epochs` also
    evaluates an average of the parameters that forgets exponentially over so many epochs.
    """

    first_epoch: Annotated[int, Meta(ge=1, le=1000)] = 8
    per_epoch: Annotated[int, Meta(ge=1, le=1000)] = 4
    test: Literal["end", "always"] = "end"
    noise: bool = True
    averaging_epochs: Annotated[float, Meta(gt=0, le=100)] | None = None


class Throughput(Table, frozen=True, kw_only=True):
    """Timed rounds of at least `round_seconds` for every loop and kind of input.

    `devices` are the numbers of local devices that share a batch; "auto" takes the powers of two there are.
    A program may need at most `memory_limit_bytes` (by default what is free). `isolate` says which cells are timed in
    a process of their own: "auto" those that may not fit. `max_batch_size` is looked for up to the training set, or up
    to what memory holds.
    """

    loops: Annotated[list[Literal["dispatch", "scan"]], Meta(min_length=1, max_length=2)] = msgspec.field(
        default_factory=lambda: ["dispatch", "scan"]
    )
    inputs: Annotated[list[Literal["device", "host"]], Meta(min_length=1, max_length=2)] = msgspec.field(
        default_factory=lambda: ["device"]
    )
    precisions: Annotated[list[Literal["float32", "default", "bfloat16"]], Meta(max_length=3)] = []
    devices: Literal["auto"] | Annotated[list[Devices], Meta(min_length=1, max_length=16)] = "auto"
    rounds: Annotated[int, Meta(ge=5, le=1000)] = 7
    round_seconds: Annotated[float, Meta(gt=0, le=60)] = 0.1
    memory_limit_bytes: Annotated[int, Meta(ge=1 << 20, le=1 << 50)] | None = None
    isolate: Literal["auto", "always", "never"] = "auto"
    max_batch_size: Literal["training_set", "memory", "skip"] = "training_set"


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
    search: Annotated[dict[str, Values], Meta(max_length=3)] = {}
    seeds: Seeds = Seeds()
    budget: Budget
    evaluation: Evaluation = Evaluation()
    throughput: Throughput = Throughput()
    notice: Annotated[str, Meta(max_length=400)] = ""
    suites: list[Literal["cpu", "gpu", "tpu"]] = []

    @property
    def searched(self) -> tuple[str, ...]:
        """The options that are searched beside the learning rate, by name."""
        return tuple(sorted(self.search))

    @property
    def max_epochs(self) -> float:
        """Epochs after which a trial that has not reached the target is given up."""
        return max(self.budget.max_epochs or 0.0, self.budget.epochs)

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
        if len(set(table.values)) != len(table.values):
            raise InputError(f"{field}.values: {printable(table.values)} holds a batch size twice")
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
    _check_search(experiment, source)
    budget = experiment.budget
    if budget.max_epochs is not None and budget.max_epochs < budget.epochs:
        raise InputError(f"{source}: budget.max_epochs: {budget.max_epochs} is below epochs = {budget.epochs}")
    return experiment


def _check_search(experiment: Experiment, source: str) -> None:
    for option, tried in experiment.search.items():
        field = f"{source}: search.{printable(option)[1:-1]}"
        if not re.match(NAME_PATTERN, option):
            raise InputError(f"{field}: the name of an option is right: {NAME}")
        if len(set(tried)) != len(tried):
            raise InputError(f"{field}: {printable(tried)} holds a value twice")
        if option == "momentum" and not 0 <= min(tried) <= max(tried) < 1:
            raise InputError(f"{field}: {printable(tried)} holds a value that is not from 0 to below 1")
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
        raise InputError(f"{path}: not valid TOML ({printable(position, LONGEST_REASON)[1:-1]})") from None
    if "name" not in data and not re.match(NAME_PATTERN, path.stem):
        raise InputError(
            f"{printable(path.name)[1:-1]}: the file's name is the experiment's name:"
            f" expected {NAME}, found {printable(path.stem)}"
        )
    name = data.get("name", path.stem)
    return parse(data, name if isinstance(name, str) else path.stem, path.name)


def shipped() -> list[str]:
    """Names of the experiments that come with the package."""
    folder = resources.files("bench") / "experiments"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def find(name: str) -> Experiment:
    """An experiment by shipped name or by path.

    Raises:
        InputError: when neither exists; lists the shipped names.
    """
    if name in shipped():
        return read(Path(str(resources.files("bench") / "experiments" / f"{name}.toml")))
    if name.endswith(".toml"):
        return read(Path(name))
    raise InputError(
        f"experiment {printable(name)} is neither a file ending in .toml nor one of {', '.join(shipped())}"
    )
