"""Programs on this device: how they are compiled, what they need, how long they take, and which variant is fastest.

Compile options are XLA's own, but for a few on a CPU that were measured to be faster (2 x86 cores, JAX 0.10,
November 2026, lanes of the convergence stage). Timed work is repeated a given number of times; the clock is an
argument, so that tests can give a fake one. A choice that changes speed and nothing else is made by a short measured
trial and kept in `tuning.json`.
"""

from __future__ import annotations

import math
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, TypeVar

import jax
import jax.numpy as jnp
import msgspec
from msgspec import Meta

from batchscale.config.vocabulary import Precision
from batchscale.errors import InputError
from batchscale.measure.control.failures import FAILURES, NO_KERNELS, is_of_choosing_kernels
from batchscale.printable import bare
from batchscale.records import results_folder, row_files

DROPPING_BARRIERS = "cse_barrier_expander"
"""XLA pass (JAX 0.10) that removes optimization barriers before fusion, so protected values are recomputed.

Disabled: small batches of LeNet train 1.1 to 1.6 times as fast.
"""
SHARING_LOOPS = "cpu-parallel-task-assigner"
"""XLA pass that hands parts of small loops to other cores, which are busy with other programs.

Disabled for programs on one core: microbatches of 1 train 1.25 times as fast.
"""
FOR_ONE_CORE: dict[str, str | bool] = {
    # Updates parameters in place instead of copying them at every tick: LeNet trains 1.02 to 1.08 times as fast, an
    # MLP in microbatches of 16 1.3 times.
    "xla_cpu_copy_insertion_use_region_analysis": True,
    # Uses vectors as wide as the processor has: 1.00 to 1.05 times as fast.
    "xla_cpu_prefer_vector_width": "512",
}
"""Further options for programs that run on one core."""
GRAPH_OPTION = "xla_gpu_enable_command_buffer"
"""XLA option (JAX 0.10 to 0.12) with the kinds of operations that a CUDA graph may hold.

If it holds loops and all that is in them, no turn of a loop waits for the host. By default it holds neither loops nor
convolutions. Then each turn starts with a wait, and LeNet's own convolutions cut it into three graphs.
"""
IN_A_GRAPH = (
    "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,CONDITIONAL,DYNAMIC_SLICE_FUSION,WHILE,CONVOLUTION"  # the last two added
)
TRYING_IN_LESS_MEMORY: dict[str, str | bool] = {"xla_gpu_autotune_level": "2"}
"""How a GPU's kernels are tried once more where memory ran out.

Level 2 times them as the usual level 4 does, but without what guards against wrong results: a copy of every result, and
megabytes around every array.
"""
TRYING_NOTHING: dict[str, str | bool] = {"xla_gpu_autotune_level": "0"}
"""How a program is compiled only to learn what memory it needs; never to be run, as its kernels are guesses."""
TRYING_OWN_PRODUCTS = "xla_gpu_enable_triton_gemm"
LIBRARY_ALONE: dict[str, str | bool] = {TRYING_OWN_PRODUCTS: False}
"""How matrix products are compiled for a GPU where few trials suffice: by the vendor's library.

XLA tries kernels of its own too. On an H100 (JAX 0.11, 16 cores, November 2026) that takes 5 s of the 6 s in which a
step of a perceptron is compiled, and 25 s for a product of 8,192 x 8,192 float32. Trying them made a step of
1,024 examples 8% faster, a decoder's 1%, and changed no peak rate by more than 2%.
"""
_KEPT = 200
"""Characters kept of either end of another program's message, whose cause is at one of them."""
_alone = threading.Lock()


def compiled(lowered: jax.stages.Lowered, *, lanes: bool = False, graph: bool = False) -> jax.stages.Compiled:
    """Compile a program for the default device.

    A GPU's compiler tries kernels on the device. If memory runs out meanwhile, the program is compiled once more with
    `TRYING_IN_LESS_MEMORY`, one such program at a time.

    Args:
        lowered: the program.
        lanes: True for mapped training, whose speed is not part of an answer. On a CPU, other programs run at the same
            time on the other cores. A GPU's compiler tries fewer kernels.
        graph: True if, on an NVIDIA GPU, one CUDA graph is to hold all of its loops.

    Raises:
        MemoryError: When no kernels could be chosen the second time either. The message begins with `NO_KERNELS` if
            the program itself would fit into memory.
        JaxRuntimeError: On any other failure.
    """
    chosen = options(lanes=lanes, graph=graph)
    try:
        return lowered.compile(compiler_options=chosen)
    except FAILURES as error:
        if jax.default_backend() != "gpu" or not is_of_choosing_kernels(str(error)):
            raise
        first = _ends(str(error))
    with _alone:
        try:
            return lowered.compile(compiler_options={**chosen, **TRYING_IN_LESS_MEMORY})
        except FAILURES as error:
            again = _ends(str(error))
        needed, limit = _bytes_without_trying(lowered, chosen), _device_bytes()
    if needed is not None and limit is not None and needed > limit:
        raise MemoryError(f"RESOURCE_EXHAUSTED: the program needs {needed} bytes, the device has {limit}")
    fits = "" if needed is None else f", and would itself need {needed} bytes"
    raise MemoryError(f"{NO_KERNELS}: {first}; in less memory it failed again{fits}: {again}")


def _ends(message: str) -> str:
    """Return both ends of a message."""
    if len(message) <= 2 * _KEPT:
        return bare(message, 2 * _KEPT)
    return f"{bare(message[:_KEPT], _KEPT)} ... {bare(message[-_KEPT:], _KEPT)}"


def _bytes_without_trying(lowered: jax.stages.Lowered, chosen: Mapping[str, str | bool]) -> int | None:
    """Return the memory that a program needs, whatever its kernels; None if it cannot be compiled at all."""
    with suppress(*FAILURES):
        return predicted_bytes(lowered.compile(compiler_options={**chosen, **TRYING_NOTHING}))
    return None


def _device_bytes() -> int | None:
    """Return the memory of the device that programs may use; None if it is not known."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


def options(*, lanes: bool = False, graph: bool = False) -> dict[str, str | bool]:
    """Return the compile options, as described at `compiled`; those without any flag are in every row.

    An option of one compilation replaces the user's flag of that name.
    """
    if jax.default_backend() != "cpu":
        return (of_few_trials() if lanes else {}) | ({GRAPH_OPTION: IN_A_GRAPH} if graph else {})
    given = re.findall(r"--xla_disable_hlo_passes=(\S+)", os.environ.get("XLA_FLAGS", ""))
    passes = [*given, DROPPING_BARRIERS, *([SHARING_LOOPS] if lanes else [])]
    return {"xla_disable_hlo_passes": ",".join(passes)} | (FOR_ONE_CORE if lanes else {})


def of_few_trials() -> dict[str, str | bool]:
    """Return `LIBRARY_ALONE` on a GPU, unless the user's flags say whether XLA tries kernels of its own."""
    chosen = TRYING_OWN_PRODUCTS in os.environ.get("XLA_FLAGS", "")
    return LIBRARY_ALONE if jax.default_backend() == "gpu" and not chosen else {}


def predicted_bytes(compiled: jax.stages.Compiled) -> int | None:
    """Return the device memory that a program needs according to the compiler; None if it does not report it."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return None
    total = analysis.argument_size_in_bytes + analysis.output_size_in_bytes + analysis.temp_size_in_bytes
    return total - analysis.alias_size_in_bytes


def compute_dtype(precision: Precision) -> jnp.dtype:
    """Return the type that a model computes in; its parameters stay float32."""
    return jnp.dtype(jnp.bfloat16 if precision == "bfloat16" else jnp.float32)


def matmul_precision(precision: Precision) -> str | None:
    """Return JAX's name for the precision of matrix products: all bits of float32, or the platform's default (None)."""
    return "highest" if precision == "float32" else None


Shape = TypeVar("Shape")

Clock = Callable[[], float]
"""Returns seconds since some moment."""
Work = Callable[[int], object]
"""Does its work `steps` times and returns once the device has finished."""
WALL: Clock = time.perf_counter
MOST_STEPS = 1 << 24
FIXED_SHARE = 0.05
"""Largest share of a round that the fixed cost of a call may have."""
LONGEST_ROUND = 10
"""Longest round, as a multiple of the seconds asked for."""


def timed(work: Work, steps: int, clock: Clock = WALL) -> float:
    """Return the seconds that `steps` steps take."""
    start = clock()
    work(steps)
    return clock() - start


def steps_to_fill(seconds: float, work: Work, clock: Clock = WALL) -> int:
    """Return the number of steps that takes about `seconds`.

    If the fixed cost of a call exceeds `FIXED_SHARE` of the round, more steps are used, up to `LONGEST_ROUND` times
    `seconds`: a run to the target pays that cost once in many steps, for example to get memory from the system.
    """
    steps, before, fastest = 1, math.inf, math.inf
    work(steps)
    # Doubling the steps until they are enough warms the work up.
    while steps < MOST_STEPS:
        elapsed = timed(work, steps, clock)
        fastest = min(fastest, elapsed / steps)
        # A call of n steps compared with one of 2n gives the fixed cost: 2 t(n) - t(2n).
        fixed = 2 * before - elapsed
        if elapsed >= LONGEST_ROUND * seconds / 2:
            break
        if elapsed >= seconds / 2 and fixed <= FIXED_SHARE * max(elapsed, seconds):
            break
        steps, before = steps * 2, elapsed
    # The fastest call counts: a call that something else delayed would make every round too short.
    return min(MOST_STEPS, max(steps, math.ceil(seconds / max(fastest, 1e-12))))


def resolution(clock: Clock = WALL, ticks: int = 100) -> float:
    """Return the smallest step seen between two readings of the clock, in seconds."""
    smallest = math.inf
    for _ in range(ticks):
        start = clock()
        while (now := clock()) <= start:
            pass
        smallest = min(smallest, now - start)
    return smallest


NOMINAL_EXAMPLES_PER_SECOND = 10_000.0
"""Plans the time left where the device fails and no speed could be measured."""


class Tuned(msgspec.Struct, frozen=True):
    """The fastest lowering and shape of a program, and its speed.

    Attributes:
        lowering: Name of the lowering, None for a model that has a single one.
        examples_per_second: Speed of training in the trial, summed over lanes where lanes share the program.
        seconds_per_evaluation: Seconds to evaluate one lane; 0 where nothing is evaluated.
        shard_settings: Most settings of a program call; None where no shapes were tried, or all settings won.
        microbatch_size: Widest microbatch of the lanes; None where no microbatches were tried.
        late: Lowerings that were not compiled in time, and so not tried; "graphs" if a CUDA graph hung.
        graph: True if the program is compiled to run as one CUDA graph.
    """

    lowering: str | None
    examples_per_second: Annotated[float, Meta(ge=1e-6, le=1e30)]
    seconds_per_evaluation: Annotated[float, Meta(ge=0, le=1e6)] = 0.0
    shard_settings: Annotated[int, Meta(ge=1, le=10**9)] | None = None
    microbatch_size: Annotated[int, Meta(ge=1, le=10**9)] | None = None
    late: tuple[str, ...] = ()
    graph: bool = False


class TuningFile:
    """`tuning.json` in a results folder: resumed runs repeat the same choices, so their numbers stay the same.

    A file that cannot be read counts as empty, and a choice that is not among `lowerings` as missing: both are
    measured again.

    Args:
        folder: The results folder.
        lowerings: The lowerings that may be chosen.
        report: Receives every choice that is measured.
    """

    def __init__(
        self,
        folder: Path,
        lowerings: Sequence[str | None],
        report: Callable[[dict[str, Tuned]], None] = lambda _: None,
    ) -> None:
        self._path, self._lowerings, self._report = folder / results_folder.TUNING, lowerings, report
        self._known: dict[str, Tuned] = {}
        with suppress(InputError):
            kept = results_folder.read_file(folder, results_folder.TUNING, dict[str, Tuned])
            self._known = {key: one for key, one in kept.items() if one.lowering in lowerings}

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def __getitem__(self, key: str) -> Tuned:
        return self._known[key]

    def get(self, key: str, measure: Callable[[], Tuned]) -> Tuned:
        """Return the choice for `key`; measure and keep it when it is asked for the first time.

        Where every lowering fails, return the first one and keep nothing, so that the failure becomes rows.
        """
        if key not in self._known:
            try:
                self._known[key] = measure()
            except FAILURES:
                return Tuned(self._lowerings[0], NOMINAL_EXAMPLES_PER_SECOND)
            row_files.write_json(self._path, self._known)
            self._report({key: self._known[key]})
        return self._known[key]

    @property
    def choices(self) -> dict[str, Tuned]:
        """Every choice by its key."""
        return dict(self._known)

    def add(self, choices: Mapping[str, Tuned]) -> None:
        """Keep choices that another process made."""
        self._known |= {key: one for key, one in choices.items() if one.lowering in self._lowerings}
        row_files.write_json(self._path, self._known)


def fastest(lowerings: Sequence[str | None], speed: Callable[[str | None], float]) -> Tuned:
    """Measure the `speed` of every lowering in examples per second; ties go to the first, failures lose.

    Raises:
        JaxRuntimeError: The first failure, when every lowering fails.
    """
    tried, failures = [], []
    for lowering in lowerings:
        try:
            tried.append(Tuned(lowering, speed(lowering)))
        except FAILURES as error:
            failures.append(error)
    if not tried:
        raise failures[0]
    return max(tried, key=lambda one: one.examples_per_second)


WORTH_A_CHANGE = 1.05
"""A shape replaces the one tried before it only if it is this many times as fast, so that noise changes no choice."""


def climbed(
    shapes: Iterable[Shape], speed: Callable[[Shape], float], seconds: float, clock: Clock = WALL
) -> tuple[Shape, float]:
    """Measure the `speed` of shapes in order, as long as each is faster than the one before.

    Args:
        shapes: At least one shape; neighbours are similar.
        speed: Measures a shape, in examples per second. A shape that fails loses, unless it is the first.
        seconds: No further shape is tried after this time.
        clock: Reads the time.

    Returns:
        The last shape that was worth a change, and its speed.

    Raises:
        JaxRuntimeError: When the first shape fails.
    """
    start, order = clock(), iter(shapes)
    best = next(order)
    reached = speed(best)
    for shape in order:
        if clock() - start > seconds:
            break
        try:
            found = speed(shape)
        except FAILURES:
            break
        if found < WORTH_A_CHANGE * reached:
            break
        best, reached = shape, found
    return best, reached
