"""Keep `make test` short: most cases of a proof are left to `make test-rest`, and XLA compiles quickly."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from importlib.metadata import version
from typing import Any

import pytest


def long_unless(quick: Collection[Any], cases: Iterable[Any]) -> list[Any]:
    """Return the cases as parameters; those that are not `quick` are marked `slow`."""
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=() if case in quick else pytest.mark.slow)
        for case in cases
    ]


QUICK_FLAGS = ("--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1")
"""Of JAX 0.10; XLA ends the process at a flag that it does not know, and that of JAX 0.12 does not know the first.

The programs of `tests/measure/convergence/test_lanes.py` take 13.4 s to compile without them, and 3.7 s with both
(1 x86 core, JAX 0.10, November 2026).
"""


KNOWN_FLAGS = QUICK_FLAGS if version("jaxlib").startswith("0.10.") else ()
QUICKLY: dict[str, bool | int] = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    **{name: json.loads(value) for name, value in (flag.removeprefix("--").split("=") for flag in KNOWN_FLAGS)},
}
"""Options for `jax.jit` with which a program is compiled as in `make test`: a ResNet-18 in 0.7 s in place of 5.4 s."""


def with_quick_flags(given: str) -> str:
    """Return XLA_FLAGS with the quick flags added, where this version of JAX has them."""
    return " ".join([*given.split(), *(flag for flag in KNOWN_FLAGS if flag not in given)])
