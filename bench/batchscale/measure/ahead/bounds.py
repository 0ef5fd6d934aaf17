"""The least time of a training step on a device, from its published peak rates; and an estimate of the likely time."""

from __future__ import annotations

import math

import jax
from jaxtyping import PyTree

from batchscale.config.vocabulary import Precision
from batchscale.measure.ahead.program_facts import Facts
from batchscale.measure.ahead.targets import Target
from batchscale.measure.data.made_up import ExampleSpec
from batchscale.records.plan_file import BoundBy, LimitedBy

LAUNCH_SECONDS = {"gpu": (1.3e-6, 2.5e-6), "tpu": (0.0, 1e-6)}
"""Time from one kernel to the next, low and high: an assumption. On a GPU, inside a CUDA graph and outside it."""
LEAST_SHARE_OF_PEAK = 0.3
"""Share of peak arithmetic that products of a training step reach at least, for the high end: an assumption."""
LEAST_SHARE_OF_BANDWIDTH = 0.6
"""The same for bytes."""


def compulsory_bytes(target: Target, spec: ExampleSpec, state: PyTree, batch_size: int, train_examples: int) -> int:
    """Return the bytes that must travel in a step, on average over an epoch, whatever the program.

    Each example of the batch is read, and the state of the optimizer is read and written, but for the part of either
    that the chip's own memory can hold from one use to the next.
    """
    example = spec.inputs.example_bytes + spec.labels.example_bytes
    travelling = max(0.0, 1.0 - target.cache_bytes / max(1, example * train_examples))
    held = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    return math.floor(batch_size * example * travelling) + 2 * max(0, held - target.cache_bytes)


def bound(target: Target, precision: Precision, flops: float | None, must_travel: int) -> tuple[float, BoundBy]:
    """Return the least seconds of a step, and whether arithmetic or bytes take them."""
    computing, moving = (flops or 0.0) / target.flops[precision], must_travel / target.bytes_per_second
    return (computing, "FLOPs") if computing >= moving else (moving, "bytes")


def likely(
    target: Target, precision: Precision, flops: float | None, least: float, facts: Facts
) -> tuple[tuple[float, float], LimitedBy]:
    """Return an estimate of the seconds of a step, low and high, and what takes the longest part of it.

    Low: the slowest of arithmetic at peak, traffic between kernels at peak, and launches. High: all three one after
    another, arithmetic and traffic at the shares of peak that small programs reach.
    """
    computing, moving = (flops or 0.0) / target.flops[precision], facts.traffic_bytes / target.bytes_per_second
    fast, slow = (facts.kernels * seconds for seconds in LAUNCH_SECONDS[target.platform])
    parts: dict[LimitedBy, float] = {
        "FLOPs": computing / LEAST_SHARE_OF_PEAK,
        "bytes": moving / LEAST_SHARE_OF_BANDWIDTH,
        "launches": slow,
    }
    # Caches can make the traffic cheaper than its bytes at the bandwidth of memory, so it does not raise the low end.
    low = max(least, computing, fast)
    return (low, max(low, sum(parts.values()))), max(parts, key=lambda name: parts[name])
