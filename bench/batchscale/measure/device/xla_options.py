"""How programs are compiled and in which precision they compute.

Compile options are XLA's own, but for a few on a CPU that were measured to be faster (2 x86 cores, JAX 0.10,
November 2026, lanes of the convergence stage).
"""

from __future__ import annotations

import os
import re

import jax
import jax.numpy as jnp

from batchscale.config.vocabulary import Precision

DROPPING_BARRIERS = "cse_barrier_expander"
"""XLA pass (JAX 0.10) that removes optimization barriers before fusion, so protected values are recomputed.

Disabled: small batches of LeNet train 1.1 to 1.6 times as fast.
"""
SHARING_LOOPS = "cpu-parallel-task-assigner"
"""XLA pass that hands parts of small loops to other cores, which are busy with programs of their own.

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


def compiled(lowered: jax.stages.Lowered, *, for_one_core: bool = False) -> jax.stages.Compiled:
    """Compile a program for the default device.

    Args:
        lowered: the program.
        for_one_core: True if, on a CPU, other programs run at the same time on the other cores.
    """
    return lowered.compile(compiler_options=options(for_one_core=for_one_core))


def options(*, for_one_core: bool = False) -> dict[str, str | bool]:
    """Return the compile options; those without `for_one_core` apply to timed programs and are in every row."""
    if jax.default_backend() != "cpu":
        return {}
    # An option of one compilation replaces the user's flag of that name.
    given = re.findall(r"--xla_disable_hlo_passes=(\S+)", os.environ.get("XLA_FLAGS", ""))
    passes = [*given, DROPPING_BARRIERS, *([SHARING_LOOPS] if for_one_core else [])]
    return {"xla_disable_hlo_passes": ",".join(passes)} | (FOR_ONE_CORE if for_one_core else {})


def predicted_bytes(compiled: jax.stages.Compiled) -> int | None:
    """Return the device memory that a program needs according to the compiler; None if it does not say."""
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
