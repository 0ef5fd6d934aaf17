"""How programs are compiled: as XLA would, but for options on a CPU that were measured."""

from __future__ import annotations

import os
import re

import jax

DROPPING_BARRIERS = "cse_barrier_expander"
"""The pass by which XLA of JAX 0.10 drops barriers before it fuses: what they hold back is computed several times.

LeNet's small batches train 1.1 to 1.6 times as fast without the pass.
"""
SHARING_LOOPS = "cpu-parallel-task-assigner"
"""The pass by which programs hand parts of small loops to other cores, where cores have programs of their own.

They only wait for them: microbatches of 1 train 1.25 times as fast without the pass.
"""
FOR_ONE_CORE: dict[str, str | bool] = {
    "xla_cpu_copy_insertion_use_region_analysis": True,
    "xla_cpu_prefer_vector_width": "512",
}
"""Parameters are updated in place instead of copied at every tick, in vectors as wide as the processor has.

The first trains LeNet 1.02 to 1.08 times as fast, an MLP in microbatches of 16 1.3 times; the second 1.00 to 1.05.
"""


def compiled(lowered: jax.stages.Lowered, *, for_one_core: bool = False) -> jax.stages.Compiled:
    """A program for the default device; `for_one_core` says that on a CPU others run beside it."""
    return lowered.compile(compiler_options=options(for_one_core=for_one_core))


def options(*, for_one_core: bool = False) -> dict[str, str | bool]:
    """What programs are compiled with: those that are timed as the environment says, others as this code does."""
    if jax.default_backend() != "cpu":
        return {}
    # An option of one compilation replaces the user's flag of that name.
    given = re.findall(r"--xla_disable_hlo_passes=(\S+)", os.environ.get("XLA_FLAGS", ""))
    passes = [*given, DROPPING_BARRIERS, *([SHARING_LOOPS] if for_one_core else [])]
    return {"xla_disable_hlo_passes": ",".join(passes)} | (FOR_ONE_CORE if for_one_core else {})


def predicted_bytes(compiled: jax.stages.Compiled) -> int | None:
    """Device memory the compiler says a program needs; None where it does not say."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return None
    total = analysis.argument_size_in_bytes + analysis.output_size_in_bytes + analysis.temp_size_in_bytes
    return total - analysis.alias_size_in_bytes
