"""The types of rows: every measurement is one JSON object on one line of a results file.

The key `kind` names the type of a row. A value that does not exist is null, never NaN or a made-up number.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from batchscale.config.goal import METRICS, MetricName
from batchscale.config.vocabulary import Ended, Input, Loop, Name, Phase, Point, Positive, Precision, Slug, StageName
from batchscale.records.curves import (
    LARGEST_AMOUNT,
    Accuracy,
    Amount,
    Count,
    Curve,
    Fraction,
    ScoreValue,
    equally_long,
)

Seconds = Annotated[float, Meta(ge=0, le=1e9)]
UNKNOWN_RATE = 1.0
"""Stands for a learning rate that is not known where trials are compared; it is never shown or written."""
Short = Annotated[str, Meta(max_length=200)]
Text = Annotated[str, Meta(max_length=2000)]
Hash = Annotated[str, Meta(pattern=r"^[0-9a-f]{4,64}\Z")]

MeasurementStatus = Literal["ok", "out_of_memory", "failed"]
TrialStatus = Literal["ok", "diverged", "stopped", "failed"]
CalibrationQuantity = Literal["matmul_flops_per_second", "copy_bytes_per_second", "timer_resolution_seconds"]


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Where a row comes from.

    Attributes:
        experiment: Name of the experiment.
        fingerprint: Hash of the experiment's protocol.
        machine: Name of the machine, which `machine.json` describes.
        environment: Hash of the software environment, which `machine.json` describes.
        code: Version of the suite, with the commit if it is known.
        dirty: True if the checkout had changes that are in no commit.
        recorded: When the row was written, in ISO 8601.
    """

    experiment: Slug
    fingerprint: Hash
    machine: Slug
    environment: Hash
    code: Short
    dirty: bool
    recorded: Short


class Row(Origin, frozen=True, kw_only=True, tag_field="kind"):
    """A line of a results file."""

    schema: Literal[1, 2] = 2


class Cell(Row, frozen=True, kw_only=True):
    """One timed configuration of the training step.

    Attributes:
        batch_size: Examples in a step, over all devices.
        loop: How steps are run.
        input: Where examples come from.
        devices: Number of devices that share a batch.
        accumulation: Microbatches whose gradients are averaged into one step; above 1 if a whole batch does not fit.
    """

    batch_size: Positive
    loop: Loop
    input: Input = "device"
    precision: Precision = "float32"
    devices: Positive = 1
    accumulation: Positive = 1


class Compilation(Cell, frozen=True, kw_only=True, tag="compilation"):
    """One ahead-of-time compilation of a cell.

    Attributes:
        message: Why it failed.
        lowering: Lowering of the model's convolutions.
        predicted_bytes: Memory that the compiler predicts.
        peak_bytes: Most memory in use when the program first ran, if the device reports it.
        isolated: Compiled and timed in a child process, all rounds in one go.
        flops_per_example: Floating-point operations counted from the model; the same for every lowering.
        compiler_flops_per_example: Floating-point operations counted by the compiler, if it counts them.
        compiler_bytes_per_example: In rows of earlier versions, the bytes that the compiler counts. It takes the train
            split as read whole, so that nothing is derived from it.
        moved_bytes_per_example: Bytes that the kernels of a step read and write; of the train split, those picked.
    """

    status: MeasurementStatus
    message: Text | None = None
    lowering: Short | None = None
    compile_seconds: Seconds | None = None
    predicted_bytes: Count | None = None
    peak_bytes: Count | None = None
    isolated: bool = False
    flops_per_example: Amount | None = None
    compiler_flops_per_example: Amount | None = None
    compiler_bytes_per_example: Amount | None = None
    moved_bytes_per_example: Amount | None = None


class Round(Cell, frozen=True, kw_only=True, tag="round"):
    """One timed repetition: `steps` training steps of `batch_size` examples in `seconds`.

    Attributes:
        round: Number of the repetition, from 0, over all blocks.
        block: Rounds of one block were timed in one go.
        process: Number of the process that timed it, from 1, where speed differs between processes; elsewhere 0.
        lowering: Lowering of the model's convolutions.
        joules: Energy that the device used in the round.
        clock_mhz, celsius: Mean clock rate and highest temperature of the device.
        watts, power_cap_watts: Power that the device drew at the end of the round, and the most that it may draw.
        other_processes: Processes of others that computed on the device when the round began.
        compiling: Programs that were given up, and that this process still compiled when the round began.
    """

    round: Count
    block: Count = 0
    process: Count = 0
    steps: Positive
    seconds: Annotated[float, Meta(gt=0, le=1e9)]
    lowering: Short | None = None
    joules: Amount | None = None
    clock_mhz: Amount | None = None
    celsius: Annotated[float, Meta(ge=-100, le=300)] | None = None
    watts: Amount | None = None
    power_cap_watts: Amount | None = None
    other_processes: Count | None = None
    compiling: Count = 0


class TimedEpoch(Cell, frozen=True, kw_only=True, tag="timed_epoch"):
    """One timed epoch, in a table of another tool that does not show how many steps an epoch has.

    Attributes:
        round: Number of the repetition, from 0.
        joules: Energy that the device used in the epoch.
    """

    round: Count
    seconds: Annotated[float, Meta(gt=0, le=1e9)]
    joules: Amount | None = None


class Limit(Row, frozen=True, kw_only=True, tag="limit"):
    """The largest batch size whose training step fits into `memory_bytes`.

    Attributes:
        batch_size: The largest batch size; None if none was found; `message` then gives the reason.
        bound: What keeps batches from being larger: memory, or the size of the training set.
        confirmed: True if a step of this batch size was run, rather than only compiled.
        predicted_bytes: Memory that the compiler predicts for this batch size.
    """

    precision: Precision = "float32"
    memory_bytes: Count
    batch_size: Positive | None = None
    bound: Literal["memory", "training_set"] | None = None
    confirmed: bool = False
    predicted_bytes: Count | None = None
    message: Text | None = None


class Calibration(Row, frozen=True, kw_only=True, tag="calibration"):
    """One measurement of a limit of the device: its rate of matrix products or of copies, or its timer's resolution."""

    quantity: CalibrationQuantity
    precision: Precision | None = None
    value: Annotated[float, Meta(gt=0, le=1e30)]


class NoiseEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """Gradient noise of one trial, estimated from mean gradients over two batch sizes (McCandlish et al., 2018).

    Attributes:
        examples: Examples trained at the end of each interval that was averaged over.
        gradient_squared: Unbiased estimate of |G|^2, the squared norm of the true gradient.
        noise_trace: Unbiased estimate of tr(Sigma), the summed variance of a single example's gradient.
        small_batch_size: The smaller of the two batch sizes.
        big_batch_size: The larger of the two batch sizes.
        part_sizes: Examples in a batch, in its first half, its first quarter, and so on.
        squared_norms: Squared norm of the mean gradient over each part, averaged over the whole trial.
    """

    examples: list[Count]
    gradient_squared: list[Annotated[float, Meta(ge=-1e30, le=1e30)] | None]
    noise_trace: list[Annotated[float, Meta(ge=-1e30, le=1e30)] | None]
    small_batch_size: Positive
    big_batch_size: Positive
    part_sizes: list[Positive] | None = None
    squared_norms: list[Amount | None] | None = None

    def __post_init__(self) -> None:
        names = ("examples", "gradient_squared", "noise_trace")
        equally_long({name: getattr(self, name) for name in names})


class Run(Row, frozen=True, kw_only=True):
    """A training run at one point.

    Attributes:
        learning_rate: The base rate, before any schedule; None in a table of another tool that does not name it.
        options: The optimizer options that are searched together with the learning rate.
        seed: Seed of the initial parameters and of the order of examples.
    """

    batch_size: Positive
    learning_rate: Annotated[float, Meta(gt=0, le=1e9)] | None
    options: Annotated[dict[Name, Annotated[float, Meta(ge=-1e3, le=1e3)]], Meta(max_length=3)] = {}
    seed: Count

    def __post_init__(self) -> None:
        if (momentum := self.options.get("momentum", 0.0)) >= 1:
            raise ValueError(f"options.momentum: {momentum:g}, expected below 1")

    @property
    def point(self) -> Point:
        """The learning rate and the options, as one value; `UNKNOWN_RATE` stands for a rate that is not known."""
        return Point(self.learning_rate or UNKNOWN_RATE, tuple(sorted(self.options.items())))


class TrialKey(msgspec.Struct, frozen=True, order=True):
    """The identity of a trial: no two trials of an experiment have the same."""

    phase: Phase
    batch_size: int
    point: Point
    seed: int


class Trial(Run, frozen=True, kw_only=True, tag="trial"):
    """One training run (batch size, point, seed) with its whole validation curve.

    Rows of schema 1 hold `test_accuracy` instead of `test_scores`; reading moves it there.

    Attributes:
        reason: Why it ended early.
        ended: Where it ended, if it ended as planned; older rows hold none.
        train_examples: Examples in the training set; None in a file of another tool that does not show it.
        validation_examples: Examples in the validation split.
        steps: Optimizer steps that it took in all; None where they are not known.
        test_scores: Scores on the test split at the end of the epoch budget, by name.
        tokens_per_example: Tokens of an example, if it is text.
        microbatch_size: Examples per forward pass while it was trained together with others.
        lanes: Number of trials that were trained together.
        devices: Local devices that shared them.
        lowering: Lowering of the model's convolutions.
        graph: Trained by a program that was compiled to run as one CUDA graph.
    """

    phase: Phase
    status: TrialStatus
    reason: Text | None = None
    ended: Ended | None = None
    train_examples: Positive | None
    validation_examples: Positive | None = None
    steps: Count | None
    curve: Curve
    test_scores: Annotated[dict[Name, ScoreValue | None], Meta(max_length=16)] = {}
    tokens_per_example: Positive | None = None
    test_accuracy: Accuracy | None = None
    microbatch_size: Positive
    lanes: Positive
    devices: Positive = 1
    lowering: Short | None = None
    graph: bool = False
    noise: NoiseEstimate | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.test_accuracy is not None:
            msgspec.structs.force_setattr(self, "test_scores", {"accuracy": self.test_accuracy})
            msgspec.structs.force_setattr(self, "test_accuracy", None)

    def test_score(self, metric: MetricName) -> float:
        """Return a metric on the test split at the end of the epoch budget; NaN if it was not measured."""
        kind = METRICS[metric]
        found = self.test_scores.get(kind.measured_as)
        return math.nan if found is None else kind.scale * found

    @property
    def key(self) -> TrialKey:
        """The identity of the trial."""
        return TrialKey(self.phase, self.batch_size, self.point, self.seed)

    def supersedes(self, earlier: Trial) -> bool:
        """Return True if this row replaces an `earlier` row of the same trial.

        The latest successful row counts; if none succeeded, the latest row.
        """
        return self.status == "ok" or earlier.status != "ok"


class Arm(msgspec.Struct, frozen=True, kw_only=True, order=True, omit_defaults=True):
    """A batch size at the point that is confirmed for its time to the target."""

    batch_size: Positive
    learning_rate: Annotated[float, Meta(gt=0, le=1e9)]
    options: Annotated[dict[Name, Annotated[float, Meta(ge=-1e3, le=1e3)]], Meta(max_length=3)] = {}

    @property
    def point(self) -> Point:
        """The learning rate and the options, as one value."""
        return Point(self.learning_rate, tuple(sorted(self.options.items())))


Arms = Annotated[list[Arm], Meta(max_length=1024)]


class Look(Row, frozen=True, kw_only=True, tag="look"):
    """One comparison of the batch sizes that are left, and what follows; a resumed run repeats it from this row.

    Look 0 compares nothing: it adds the first arms.

    Attributes:
        number: Number of the look, from 1; a look that only adds arms has the number of the one before it.
        seeds: Confirmation seeds that every compared arm had.
        alpha: Chance of an error that this look was allowed.
        compared: The arms that were left before it.
        out: The compared arms that cannot be the best; they get no more seeds.
        added: Arms that join, with as many seeds as the others.
        next_seeds: Seeds of every arm that is left until the next look.
        spent: Lane-examples of the runs of all arms so far.
        left: Lane-examples that may still be spent.
        stop: Why no look follows; None where one does.
    """

    number: Count
    seeds: Count
    alpha: Fraction
    compared: Arms = []
    out: Arms = []
    added: Arms = []
    next_seeds: Count
    spent: Count
    left: Count
    stop: Short | None = None


class Stage(Row, frozen=True, kw_only=True, tag="stage"):
    """The cost of one run of a stage.

    Attributes:
        finished: False if a signal or a failure ended the run; the next run continues and writes another row.
        seconds: Wall time.
        compilations: Number of training programs that were compiled.
        trained_examples: Examples trained, summed over trials.
    """

    stage: StageName
    finished: bool = True
    seconds: Seconds
    compilations: Count
    trained_examples: Count = 0


class Verification(Run, frozen=True, kw_only=True, tag="verification"):
    """One timed run to the target, trained alone, to verify the predicted time to the target.

    Rounding differs between a run alone and one trained together with others, so the target may be reached at another
    evaluation.

    Attributes:
        steps: Steps to the target, alone.
        seconds: Training time to the target, alone; evaluation is not counted.
        predicted_steps: Steps to the target of the trial with the same point and seed.
        predicted_seconds: `predicted_steps` times the measured seconds per step.
    """

    status: Literal["ok", "not_reached", "failed"]
    message: Text | None = None
    steps: Count
    seconds: Seconds
    predicted_steps: Count | None = None
    predicted_seconds: Seconds | None = None


class Data(Row, frozen=True, kw_only=True, tag="data"):
    """What the rows of a file were measured on: the data and the user's own code, each by a hash of its content.

    A file holds one such row, before every row of the same suite version. Files of earlier versions have none.

    Attributes:
        dataset: Name of the dataset, or of the user's file or folder, without the folders above it.
        task: What the data is made for.
        source: Where its files came from.
        sha256: Hash of what was loaded.
        classes: Width of a model's output.
        tokens_per_example: Tokens of an example, if it is text.
        facts: Numbers worth knowing, such as the bits per byte that a program compresses the text to.
        model_sha256: Hash of the file with the user's own model.
        task_sha256: Hash of the file with the user's own task.
    """

    dataset: Short
    task: Short
    source: Short
    sha256: Hash
    train_examples: Count
    validation_examples: Count
    test_examples: Count
    classes: Positive
    tokens_per_example: Positive | None = None
    facts: Annotated[
        dict[Name, Annotated[float, Meta(ge=-LARGEST_AMOUNT, le=LARGEST_AMOUNT)]], Meta(max_length=64)
    ] = {}
    model_sha256: Hash | None = None
    task_sha256: Hash | None = None

    def changed(self, now: Data) -> str:
        """Return what differs between this row and the data and code of `now`, with both hashes; empty if nothing."""
        found = {
            f"the data of {now.dataset}": (self.sha256, now.sha256),
            "the code of the model": (self.model_sha256, now.model_sha256),
            "the code of the task": (self.task_sha256, now.task_sha256),
        }
        differ = [(name, *pair) for name, pair in found.items() if pair[0] != pair[1]]
        return ", ".join(f"{name}: SHA-256 {_start(old)} there, {_start(new)} here" for name, old, new in differ)


def _start(digest: str | None) -> str:
    return f"{digest[:16]}..." if digest else "none"


AnyRow = Compilation | Round | TimedEpoch | Limit | Calibration | Trial | Look | Stage | Verification | Data
