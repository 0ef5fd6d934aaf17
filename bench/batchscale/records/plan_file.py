"""`plan.json`: what compiling an experiment for described devices shows about them, without any measurement.

A *bound* is a time that no step can beat: its arithmetic at the device's peak rate, or the bytes that must travel at
its peak bandwidth, whichever takes longer. The *likely* range is an estimate, and marked so wherever it is shown.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from batchscale.config.vocabulary import Precision
from batchscale.records.row_types import Text

Seconds = Annotated[float, Meta(ge=0)]
Bytes = Annotated[int, Meta(ge=0)]
BoundBy = Literal["FLOPs", "bytes"]
LimitedBy = Literal["FLOPs", "bytes", "launches"]


class PlannedStep(msgspec.Struct, frozen=True, kw_only=True):
    """One training step at one batch size on one device.

    Attributes:
        batch_size: Examples of the step.
        memory_bytes: Memory that the program needs according to the compiler; null where it does not say.
        temp_bytes: The part of it that lives only during a step.
        fits: True if this is at most what JAX's allocator has by default; null where that is not known.
        recomputes: True if the compiler recomputes values, by itself, to need less memory.
        flops: Arithmetic of matrix products and convolutions; null where it cannot be counted.
        compulsory_bytes: Bytes that must travel between memory and chip, whatever the program.
        traffic_bytes: Bytes that the program's kernels read and write, caches left aside.
        kernels: Kernels that a step launches.
        bound_seconds, bound_by: Least time of the step, and what it follows from.
        likely_seconds: An estimate of the time, low and high.
        likely_limited_by: What takes the longest part of that estimate.
        message: Why the program does not compile, such as that a TPU has too little memory for it.
    """

    batch_size: int
    memory_bytes: Bytes | None = None
    temp_bytes: Bytes | None = None
    fits: bool | None = None
    recomputes: bool = False
    flops: float | None = None
    compulsory_bytes: Bytes | None = None
    traffic_bytes: Bytes | None = None
    kernels: int | None = None
    bound_seconds: Seconds | None = None
    bound_by: BoundBy | None = None
    likely_seconds: tuple[Seconds, Seconds] | None = None
    likely_limited_by: LimitedBy | None = None
    message: Text | None = None


class LeastTime(msgspec.Struct, frozen=True, kw_only=True):
    """The least time to the goal at one batch size: steps that were measured elsewhere, at the bound of a step.

    Attributes:
        batch_size: Examples of a step.
        steps: Median steps to the goal.
        least_seconds: No run on this device can reach the goal sooner, if it needs the fewest steps of the interval.
        likely_seconds: An estimate: the median steps at both ends of a step's likely time.
    """

    batch_size: int
    steps: float
    least_seconds: Seconds
    likely_seconds: tuple[Seconds, Seconds]


class TargetPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One described device.

    Attributes:
        name, title: Its names.
        memory_bytes: Its memory.
        pool_bytes: What JAX's allocator has of it by default.
        flops_per_second, bytes_per_second: Its published peak rates, the first in the precision of the workload.
        lowering: How convolutions are computed; null for a model that has a single way.
        steps: By batch size, ascending.
        largest_batch_size: The largest batch that was compiled and fits; null if none was found.
        all_examples_fit: True if that is the whole train split.
        larger_tried: False if compiling took so long that the search for a larger batch ended early.
        recomputes_from: The smallest batch size that fits at which the compiler was seen to recompute by itself.
        compile_cpu_seconds: Processor time of all compilations.
        message: Why no step could be planned.
        least_times: Times to the goal, where steps to it were given.
        may_be_optimal: Batch sizes whose least time is at most the best of all likely times, taken at their high ends.
        likely_optimal: An estimate: the same with the low ends of the likely times.
    """

    name: str
    title: str
    memory_bytes: Bytes
    pool_bytes: Bytes
    flops_per_second: float
    bytes_per_second: float
    lowering: str | None = None
    steps: list[PlannedStep] = []
    largest_batch_size: int | None = None
    all_examples_fit: bool = False
    larger_tried: bool = True
    recomputes_from: int | None = None
    compile_cpu_seconds: Seconds = 0.0
    message: Text | None = None
    least_times: list[LeastTime] = []
    may_be_optimal: list[int] = []
    likely_optimal: list[int] = []


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """An experiment on devices that nobody had to have.

    Attributes:
        experiment, title: Of the experiment.
        model, dataset, optimizer, precision: Of its workload.
        train_examples: Size of the train split; no batch is larger.
        jax: Version of JAX that compiled.
        steps_from: The results folder that the steps to the goal were measured in, as <experiment>/<machine>.
        goal: The goal that those steps reach.
        targets: The devices.
    """

    schema: Literal[1] = 1
    experiment: str
    title: str
    model: str
    dataset: str
    optimizer: str
    precision: Precision
    train_examples: int
    jax: str
    steps_from: str | None = None
    goal: str | None = None
    targets: list[TargetPlan]
