"""Everything that depends on the platform and is no compile option: how work is scheduled on a CPU, a GPU and a TPU.

The numbers for a CPU were measured with LeNet and a perceptron on 2 x86 cores, JAX 0.10, November 2026. For these
models they are fixed, since the rounding of results depends on them. For other models a run tries a few shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from batchscale.config.plan import MOST_SPLITTING, WIDEST_MICROBATCH
from batchscale.measure.device.compile_ahead import MOST_THREADS

EVALUATION_BATCH_SIZE = 500
"""Examples of a lane that are evaluated at once, where nothing smaller is needed."""
SHAPES_OF_A_TIER = 3
"""Shapes of lanes that a tier is compiled for: of the search, of its last lanes, and of the confirmation."""


@dataclass(frozen=True, kw_only=True)
class CompileSeconds:
    """Processor seconds of compiling one program, to guess the time left before anything is compiled.

    For a GPU, the kernels that it tries meanwhile are included.

    Attributes:
        cell: For a timed cell.
        training: For the mapped training of a tier.
        evaluation: For the evaluation of its lanes.
        threads: Programs that are compiled at the same time.
    """

    cell: float
    training: float
    evaluation: float
    threads: int = 1

    def of_a_cell(self, count: float) -> float:
        """Return the seconds that each of so many timed cells takes, as they are compiled next to each other."""
        return self.cell / max(1.0, min(count, self.threads))

    @property
    def of_a_tier(self) -> float:
        """The seconds that all programs of a tier take, once its lowering is chosen."""
        return SHAPES_OF_A_TIER * (self.training + self.evaluation) / min(SHAPES_OF_A_TIER, self.threads)


@dataclass(frozen=True, kw_only=True)
class LanePolicy:
    """How lanes of one kind of model are trained and evaluated.

    Attributes:
        compiling: how long the programs of such models take to compile.
        lowerings: implementations of the model's convolutions worth a trial; None means the model's only one.
        widest_microbatch: examples of a microbatch, at most.
        most_splitting: how many times smaller than alone a batch size's microbatch may become in a shared program.
        shard_examples: examples of a microbatch, summed over the settings of a program call; None: it holds all lanes.
        evaluation_batch_size: examples of a lane evaluated at once, at most.
        evaluated_at_once: examples evaluated at once, summed over the lanes of a tier, about; None for no bound.
        measured_with: shipped models that the numbers above were measured with; no other shape is tried for them.
        microbatches: widest microbatches worth a trial for other models, each while the one before was faster still.
        settings: most settings of a program call worth a trial for other models, in the same way; None means all.
    """

    compiling: CompileSeconds
    lowerings: tuple[str | None, ...] = (None,)
    widest_microbatch: int = WIDEST_MICROBATCH
    most_splitting: int = MOST_SPLITTING
    shard_examples: int | None = None
    evaluation_batch_size: int = EVALUATION_BATCH_SIZE
    evaluated_at_once: int | None = None
    measured_with: tuple[str, ...] = ()
    microbatches: tuple[int, ...] = (WIDEST_MICROBATCH,)
    settings: tuple[int | None, ...] = (None, 4, 1)


@dataclass(frozen=True, kw_only=True)
class PlatformPolicy:
    """How work is scheduled on a platform.

    Attributes:
        convolutional: for models whose convolutions have several lowerings.
        other: for all other models.
        program_per_core: True if every core runs a separate program, False if one program has the whole device.
        single_process: True if the device serves one process at a time.
        in_host_memory: True if arrays are held in host memory, whose use an operating system can limit by process.
        virtual_devices: True if several devices are threads of one processor. Then steps in flight block each other.
        selected_numbers: Most parameters of all lanes of a device for which every tick updates all of them and selects
            the result where a batch is complete. With more, a conditional skips the update and costs a few launches.
        compiles_together: True if the programs of timed cells are compiled next to each other, before any is timed.
            Where False, one is compiled at a time, and its seconds are those of a machine that does nothing else.
        compile_seconds: A program that takes longer to compile is given up, once it was waited for as long again; None
            for no bound.
        graphs: True if a program that runs as one CUDA graph is worth a trial.
        graph_seconds: A round or a trial of a CUDA graph that takes longer hangs, and ends its process; None for no
            bound.
        process_per_block: True if compiling chooses kernels by timing them, so that the speed of a program differs from
            process to process. Every block of rounds after the first then has a new process, and rows number them.
        silent_seconds: A child process that writes no row for longer hangs, and is ended; None for no bound.
        warm_up_seconds: Seconds at load before rounds are timed.
        energy_seconds: Seconds that a round lasts until its energy is known, as a guess of time before any is timed.
        keeps_programs: True if programs of mapped training are kept for later runs.
    """

    convolutional: LanePolicy
    other: LanePolicy
    program_per_core: bool = False
    single_process: bool = False
    in_host_memory: bool = False
    virtual_devices: bool = False
    selected_numbers: int = 0
    compiles_together: bool = False
    compile_seconds: float | None = None
    graphs: bool = False
    graph_seconds: float | None = None
    process_per_block: bool = False
    silent_seconds: float | None = None
    warm_up_seconds: float = 0.0
    energy_seconds: float = 0.0
    keeps_programs: bool = False

    def compile_threads(self, cores: int) -> int:
        """Return how many programs are compiled at the same time on a host with so many cores."""
        return min(MOST_THREADS, cores) if self.compiles_together else 1


# Seconds of compiling. For a CPU: of cells as in the published rows, of the others in their measured proportion to
# these. For a TPU: means over the programs of the default suite, compiled for a TPU v5e
# (`tests/accelerators/last_seen.toml`). For a GPU: an H100 with 16 cores compiled the 27 cells of a perceptron in 39 s,
# with all trials of kernels, and the first programs of its two tiers in 10 to 20 s. Programs with convolutions are in
# proportion to the processor seconds of compiling them for a described H100.
_CPU_CONVOLUTIONAL = LanePolicy(
    compiling=CompileSeconds(cell=1.0, training=1.5, evaluation=0.9),
    # XLA's own convolution ("xla") misses its fast path inside a loop on a CPU (jax issue 12868), so it is not tried.
    lowerings=("patches", "banded"),
    # The patches of 16 examples stay in a core's cache: LeNet's lanes train 1.2 to 1.5 times as fast as with 64.
    widest_microbatch=16,
    # Lanes run 12-17% slower at microbatch 4 than at 16, so a second program is compiled instead of splitting further.
    most_splitting=2,
    # Where a core trains LeNet fastest: five settings at microbatches of 1 and 4, four at 8, two at 16.
    shard_examples=32,
    # The fastest of 10 to 500 for two or five lanes of LeNet: twice as fast as 500.
    evaluation_batch_size=20,
    measured_with=("lenet",),
    microbatches=(4, 16),
    settings=(1, 4, None),
)
# A perceptron trains fastest with one setting a call: two take three times as long at single examples, and 1.17 times
# at microbatches of 64.
_CPU_OTHER = LanePolicy(
    compiling=CompileSeconds(cell=0.3, training=0.5, evaluation=0.3),
    shard_examples=1,
    measured_with=("mlp", "linear"),
    # A byte decoder (T 64, width 64) trains 1.1 times as fast at 4 as at 16, and 1.25 times as fast as at 1.
    microbatches=(4, 16, 64, WIDEST_MICROBATCH),
    settings=(1, 4, None),
)
_EVALUATED_AT_ONCE = 1 << 14
"""On an accelerator, about: 500 examples per lane would need gigabytes for LeNet's patches."""

POLICIES: Mapping[str, PlatformPolicy] = {
    "cpu": PlatformPolicy(
        convolutional=_CPU_CONVOLUTIONAL,
        other=_CPU_OTHER,
        # One XLA program of many small products does not fill the cores of a CPU.
        program_per_core=True,
        in_host_memory=True,
        virtual_devices=True,
    ),
    "gpu": PlatformPolicy(
        convolutional=LanePolicy(
            compiling=CompileSeconds(cell=37.0, training=20.0, evaluation=8.0),
            lowerings=("xla", "patches", "banded"),
            evaluated_at_once=_EVALUATED_AT_ONCE,
        ),
        other=LanePolicy(
            compiling=CompileSeconds(cell=23.0, training=10.0, evaluation=6.0), evaluated_at_once=_EVALUATED_AT_ONCE
        ),
        # Compiled for an H100, a conditional is 10 to 18 more kernels of a tick; an update moves 24 bytes a parameter.
        selected_numbers=1 << 21,
        compiles_together=True,
        # Up to seven programs of a small decoder's lanes at a time took up to a minute each, on 16 cores.
        compile_seconds=300.0,
        graphs=True,
        graph_seconds=120.0,
        process_per_block=True,
        # Of one kind there are three programs. Each of them may be late, and the last is waited for twice as long.
        silent_seconds=1800.0,
        # The clock of a GPU falls within seconds at load, and training is the hot state.
        warm_up_seconds=5.0,
        # The energy counter of an H100 advances every 0.1 s.
        energy_seconds=1.0,
        keeps_programs=True,
    ),
    "tpu": PlatformPolicy(
        # XLA's own convolutions in float32 take minutes to compile for a TPU, so they are tried last. So does LeNet's
        # evaluation in pieces of 500, under any lowering.
        convolutional=LanePolicy(
            # LeNet's lanes and its cell of 256 examples under "patches" in float32, for a TPU v5e.
            compiling=CompileSeconds(cell=24.0, training=32.0, evaluation=31.0),
            lowerings=("patches", "banded", "xla"),
            evaluation_batch_size=128,
            evaluated_at_once=_EVALUATED_AT_ONCE,
        ),
        other=LanePolicy(
            compiling=CompileSeconds(cell=3.1, training=4.0, evaluation=9.9), evaluated_at_once=_EVALUATED_AT_ONCE
        ),
        single_process=True,
        keeps_programs=True,
        compiles_together=True,
        compile_seconds=120.0,
    ),
}
"""The policy of each platform, by the names that rows give them."""
