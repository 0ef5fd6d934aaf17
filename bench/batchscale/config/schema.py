"""The tables of an experiment file, each field with the values it may have."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

NAME = "a lower-case letter, then lower-case letters, digits or _, at most 40 in all"
NAME_PATTERN = r"^[a-z][a-z0-9_]{0,39}\Z"
Name = Annotated[str, Meta(pattern=NAME_PATTERN, description=NAME)]
Positive = Annotated[int, Meta(ge=1, le=10**9)]
Devices = Annotated[int, Meta(ge=1, le=4096)]
Rate = Annotated[float, Meta(gt=0, le=1e3)]
Fraction = Annotated[float, Meta(gt=0, lt=1)]
Values = Annotated[list[Annotated[float, Meta(ge=-1e3, le=1e3)]], Meta(min_length=2, max_length=16)]
Option = bool | int | float | str | list[int]


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
    """The validation accuracy whose first crossing is timed; `also` are read from the same curves.

    Those above `accuracy` are read within the budget of epochs, where runs that have `accuracy` end.
    """

    accuracy: Fraction
    also: Annotated[list[Fraction], Meta(max_length=16)] = []


class BatchSizes(Table, frozen=True, kw_only=True):
    """Either `values`, or `start`, `stop` and `factor` (both ends included)."""

    values: Annotated[list[Positive], Meta(min_length=1, max_length=64)] | None = None
    start: Positive | None = None
    stop: Positive | None = None
    factor: Annotated[float, Meta(gt=1, le=1024)] = 2.0


class LearningRate(Table, frozen=True, kw_only=True):
    """A grid of rates `factor` apart: `anchor`, moved with the batch size by `rule`, and `span` on either side of it.

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

    @property
    def grid_size(self) -> int:
        """Rates in the grid, before it grows."""
        return 2 * self.span + 1

    @property
    def decays(self) -> bool:
        """Whether the schedule comes to a rate of 0 where the budget of epochs ends."""
        return self.schedule in ("warmup_cosine", "linear_decay")


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
