"""How programs are compiled: as XLA would, but for options on a CPU that were measured."""

from __future__ import annotations

from collections.abc import Mapping

import jax

KEEPING_BARRIERS: Mapping[str, str | bool] = {"xla_disable_hlo_passes": "cse_barrier_expander"}
"""With JAX 0.10, XLA drops barriers before it fuses: what they hold back is then computed several times over.

LeNet's small batches train 1.1 to 1.6 times as fast with barriers kept.
"""
FOR_ONE_CORE: Mapping[str, str | bool] = {
    "xla_disable_hlo_passes": "cpu-parallel-task-assigner,cse_barrier_expander",
    "xla_cpu_copy_insertion_use_region_analysis": True,
    "xla_cpu_prefer_vector_width": "512",
}
"""Where each core has a program of its own.

Programs that hand parts of their small loops to other cores only wait for them: microbatches of 1 train 1.25 times as
fast without. Parameters are then updated in place instead of copied at every tick (LeNet 1.02 to 1.08 times as fast,
an MLP in microbatches of 16 1.3), and in vectors as wide as the processor has (1.00 to 1.05).
"""


def compiled(lowered: jax.stages.Lowered, *, for_one_core: bool = False) -> jax.stages.Compiled:
    """A program for the default device; `for_one_core` says that on a CPU others run beside it."""
    if jax.default_backend() != "cpu":
        return lowered.compile()
    return lowered.compile(compiler_options=dict(FOR_ONE_CORE if for_one_core else KEEPING_BARRIERS))
