"""What a results folder holds: the row types every measurement is written as, and nothing else.

A row is one JSON object on one line, told apart by `kind`. What did not happen is null, never NaN or a made-up number.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from batchscale.config.vocabulary import Input, Loop, Name, Phase, Point, Positive, Precision, Slug, StageName

SCHEMA = 1

Count = Annotated[int, Meta(ge=0, le=10**15)]
Seconds = Annotated[float, Meta(ge=0, le=1e9)]
LARGEST_AMOUNT = 1e30
Amount = Annotated[float, Meta(ge=0, le=LARGEST_AMOUNT)]
Accuracy = Annotated[float, Meta(ge=0, le=1)]
Short = Annotated[str, Meta(max_length=200)]
Text = Annotated[str, Meta(max_length=2000)]
Hash = Annotated[str, Meta(pattern=r"^[0-9a-f]{4,64}\Z")]

MeasurementStatus = Literal["ok", "out_of_memory", "failed"]
TrialStatus = Literal["ok", "diverged", "stopped", "failed"]
CalibrationQuantity = Literal["matmul_flops_per_second", "copy_bytes_per_second", "timer_resolution_seconds"]


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Where a row comes from: enough to trace it to a machine, an environment and a commit."""

    experiment: Slug
    fingerprint: Hash
    machine: Slug
    environment: Hash
    code: Short
    dirty: bool
    recorded: Short


class Row(Origin, frozen=True, kw_only=True, tag_field="kind"):
    """A line of a results file."""

    schema: Literal[1] = 1


class Cell(Row, frozen=True, kw_only=True):
    """One way of running the training step whose speed is measured."""

    batch_size: Positive
    loop: Loop
    input: Input = "device"
    precision: Precision = "float32"
    devices: Positive = 1
    accumulation: Positive = 1
    """Microbatches whose gradients are averaged into one step; above 1 where the whole batch does not fit."""


class Compilation(Cell, frozen=True, kw_only=True, tag="compilation"):
    """One ahead-of-time compilation of a cell, and what the compiler says the program needs.

    `flops_per_example` is counted from the model and the same under every lowering; what the compiler counts, of
    arithmetic and of bytes read and written, stands beside it where it counts.
    """

    status: MeasurementStatus
    message: Text | None = None
    lowering: Short | None = None
    compile_seconds: Seconds | None = None
    predicted_bytes: Count | None = None
    peak_bytes: Count | None = None
    isolated: bool = False
    """Compiled and timed in a process of its own, all its rounds in a row."""
    flops_per_example: Amount | None = None
    compiler_flops_per_example: Amount | None = None
    compiler_bytes_per_example: Amount | None = None


class Round(Cell, frozen=True, kw_only=True, tag="round"):
    """One timed repetition: `steps` training steps of `batch_size` examples in `seconds`."""

    round: Count
    steps: Positive
    seconds: Annotated[float, Meta(gt=0, le=1e9)]
    lowering: Short | None = None
    joules: Amount | None = None
    clock_mhz: Amount | None = None
    celsius: Annotated[float, Meta(ge=-100, le=300)] | None = None


class Limit(Row, frozen=True, kw_only=True, tag="limit"):
    """The largest batch size whose training step fits into `memory_bytes`; where there is none, `message` says why.

    `bound` says what ends there: memory, or the training set. `confirmed` where a real step of it was run.
    """

    precision: Precision = "float32"
    memory_bytes: Count
    batch_size: Positive | None = None
    bound: Literal["memory", "training_set"] | None = None
    confirmed: bool = False
    predicted_bytes: Count | None = None
    message: Text | None = None


class Calibration(Row, frozen=True, kw_only=True, tag="calibration"):
    """One round of what this device can do at best: matrix-multiply rate in one precision, or copy bandwidth."""

    quantity: CalibrationQuantity
    precision: Precision | None = None
    value: Annotated[float, Meta(gt=0, le=1e30)]


def _equally_long(row: msgspec.Struct, *names: str) -> None:
    lengths = {name: len(one) for name in names if (one := getattr(row, name)) is not None}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"lists of different lengths: {', '.join(f'{n} {name}' for name, n in lengths.items())}")


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    """Evaluations of one trial, equally long lists in order; `examples` = `steps` x batch size. Null = not finite.

    `ema_accuracy` is of the exponential average of the parameters, where one was kept.
    """

    examples: list[Count]
    steps: list[Count]
    accuracy: list[Accuracy]
    loss: list[Amount | None]
    test_accuracy: list[Accuracy] | None = None
    ema_accuracy: list[Accuracy] | None = None

    def __post_init__(self) -> None:
        _equally_long(self, *self.__struct_fields__)

    def scores(self, metric: str) -> list[float]:
        """Return the evaluations of one metric, such as "accuracy", in the order of `examples`."""
        return getattr(self, metric)


class NoiseEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """Unbiased |G|^2 and tr(Sigma), averaged over a stretch of training that ends at `examples`.

    They come from the mean gradients over two sizes (McCandlish et al., 2018). `squared_norms` are averaged over the
    whole trial, one for each of the `part_sizes`: the examples in a batch, in its first half, its first quarter, etc.
    """

    examples: list[Count]
    gradient_squared: list[Annotated[float, Meta(ge=-1e30, le=1e30)] | None]
    noise_trace: list[Annotated[float, Meta(ge=-1e30, le=1e30)] | None]
    small_batch_size: Positive
    big_batch_size: Positive
    part_sizes: list[Positive] | None = None
    squared_norms: list[Amount | None] | None = None

    def __post_init__(self) -> None:
        _equally_long(self, "examples", "gradient_squared", "noise_trace")


class Run(Row, frozen=True, kw_only=True):
    """A run at one point of what is tuned; `options` are those searched beside the learning rate."""

    batch_size: Positive
    learning_rate: Annotated[float, Meta(gt=0, le=1e9)]
    options: Annotated[dict[Name, Annotated[float, Meta(ge=-1e3, le=1e3)]], Meta(max_length=3)] = {}
    seed: Count

    def __post_init__(self) -> None:
        if (momentum := self.options.get("momentum", 0.0)) >= 1:
            raise ValueError(f"options.momentum: {momentum:g}; below 1 is right")

    @property
    def point(self) -> Point:
        """Where among the learning rates and options that were tried."""
        return Point(self.learning_rate, tuple(sorted(self.options.items())))


class TrialKey(msgspec.Struct, frozen=True, order=True):
    """What tells one trial from another."""

    phase: Phase
    batch_size: int
    point: Point
    seed: int


class Trial(Run, frozen=True, kw_only=True, tag="trial"):
    """One training run (batch size, point, seed) with its whole validation curve."""

    phase: Phase
    status: TrialStatus
    reason: Text | None = None
    train_examples: Positive
    validation_examples: Positive | None = None
    steps: Count
    curve: Curve
    test_accuracy: Accuracy | None = None
    microbatch_size: Positive
    lanes: Positive
    lowering: Short | None = None
    noise: NoiseEstimate | None = None

    @property
    def key(self) -> TrialKey:
        """Which trial this is a row of."""
        return TrialKey(self.phase, self.batch_size, self.point, self.seed)

    def supersedes(self, earlier: Trial) -> bool:
        """Whether this row stands for its trial, not an `earlier` one: the last that ended well does, else the last."""
        return self.status == "ok" or earlier.status != "ok"


class Stage(Row, frozen=True, kw_only=True, tag="stage"):
    """What one run of a stage cost: its wall time and how many training programs it compiled.

    `finished` unless a signal or a failure ended it; the next run goes on and has a row of its own.
    """

    stage: StageName
    finished: bool = True
    seconds: Seconds
    compilations: Count
    trained_examples: Count = 0


class Verification(Run, frozen=True, kw_only=True, tag="verification"):
    """One unmapped run to the target, timed, beside the steps of the mapped run and the time the join predicts.

    Rounding differs between the two, so the target may be reached at another evaluation.
    """

    status: Literal["ok", "not_reached", "failed"]
    message: Text | None = None
    steps: Count
    seconds: Seconds
    predicted_steps: Count | None = None
    predicted_seconds: Seconds | None = None


AnyRow = Compilation | Round | Limit | Calibration | Trial | Stage | Verification


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """The hardware, without anything that names its owner."""

    name: Slug
    platform: Literal["cpu", "gpu", "tpu", "unknown"]
    device_kind: Short
    device_count: Positive
    device_memory_bytes: Count | None = None
    cpu: Short
    cpu_cores: Positive
    host_memory_bytes: Count
    virtual_devices: bool = False


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """The software a row was measured with."""

    python: Short
    os: Short
    packages: Annotated[dict[Short, Short], Meta(max_length=64)]
    driver: Short | None = None
    xla_flags: Text = ""
    settings: Annotated[dict[Short, Short], Meta(max_length=64)] = {}


class MachineFile(msgspec.Struct, frozen=True, kw_only=True):
    """`machine.json`: the machine and every environment its rows name by hash."""

    schema: Literal[1] = 1
    machine: Machine
    environments: dict[Hash, Environment]
