"""Peak rates of the device: products of large matrices in each precision, copies of memory, ticks of the clock.

Matrix products are so large that the cost of starting one is negligible. Copies are larger than the caches. Both rates
are therefore ceilings for a training step. Every round is kept; the ceiling is the best of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from batchscale.config.vocabulary import Precision
from batchscale.measure.device.compiled_programs import (
    Clock,
    Work,
    compute_dtype,
    matmul_precision,
    of_few_trials,
    resolution,
    steps_to_fill,
    timed,
)
from batchscale.records.row_types import CalibrationQuantity

ROUNDS = 5
ROUND_SECONDS = 0.06
STEP_SECONDS = 0.01
"""Length that a matrix product should have: starting one takes some ten microseconds."""
TILE = 256
WIDTHS = (TILE, 512, 1024, 2048, 4096, 8192)
COPY_BYTES = 256 << 20
SHARE_OF_MEMORY = 1 / 16
"""Share of the free memory that one operand may take."""
FLOAT32_BYTES = 4


class Part(NamedTuple):
    """One peak rate.

    Attributes:
        quantity: Its name in rows.
        precision: Of matrix products; None for what has no precision.
        measure: Takes the bytes that an operand may have and a clock; returns the value of every round.
    """

    quantity: CalibrationQuantity
    precision: Precision | None
    measure: Callable[[int, Clock], list[float]]


def measure(part: Part, memory_bytes: int, clock: Clock) -> list[float]:
    """Return the value of every round of one peak rate.

    Raises:
        JaxRuntimeError: When the device fails.
    """
    return part.measure(int(memory_bytes * SHARE_OF_MEMORY), clock)


def rates(work: Work, amount_per_step: float, clock: Clock) -> list[float]:
    """Return the amount per second in each of ROUNDS rounds."""
    steps = steps_to_fill(ROUND_SECONDS, work, clock)
    return [amount_per_step * steps / max(timed(work, steps, clock), 1e-9) for _ in range(ROUNDS)]


def long_enough(make: Callable[[int], Work], widths: Sequence[int], clock: Clock) -> tuple[int, Work]:
    """Return a width whose work takes about STEP_SECONDS a step, or else the widest one, and the work of this width.

    The time of a product grows with the cube of its width, so few widths are tried; each one takes a compilation.
    """
    width, *wider = widths
    work = make(width)
    work(1)
    seconds = max(timed(work, 1, clock), 1e-9)
    if not wider or seconds >= STEP_SECONDS / 2:
        return width, work
    needed = width * (STEP_SECONDS / seconds) ** (1 / 3)
    return long_enough(make, [one for one in wider if one >= needed] or wider[-1:], clock)


def _timer(_: int, clock: Clock) -> list[float]:
    return [resolution(clock)]


def _matmul(precision: Precision, operand_bytes: int, clock: Clock) -> list[float]:
    """Return the FLOP/s of square products, counting two for each multiply-add."""
    fitting = [width for width in WIDTHS if width * width * FLOAT32_BYTES <= operand_bytes] or WIDTHS[:1]
    width, work = long_enough(lambda width: products(precision, width), fitting, clock)
    return rates(work, 2.0 * width**3, clock)


def _copy(operand_bytes: int, clock: Clock) -> list[float]:
    """Return the bytes per second of a copy, counting those read and those written."""
    elements = min(COPY_BYTES, operand_bytes) // FLOAT32_BYTES
    return rates(copies(elements), 2.0 * elements * FLOAT32_BYTES, clock)


def products(precision: Precision, width: int) -> Work:
    """Return work whose steps multiply the last product by the same matrix, which keeps the size of its entries.

    Random, because a device draws less power, and may run faster, on numbers that are all alike.
    """
    tile = np.random.default_rng(0).standard_normal((TILE, TILE), np.float32)
    tiles = np.tile(tile, (width // TILE, width // TILE))
    product = jnp.asarray(tiles, compute_dtype(precision))
    factor = jnp.asarray(tiles * (TILE**0.5 / width), compute_dtype(precision))
    with jax.default_matmul_precision(matmul_precision(precision)):
        multiply = jax.jit(jnp.matmul).lower(product, factor).compile(compiler_options=of_few_trials())

    def work(steps: int) -> None:
        nonlocal product
        for _ in range(steps):
            product = multiply(product, factor)
        jax.block_until_ready(product)

    return work


def copies(elements: int) -> Work:
    """Return work whose steps write one buffer, negated, over the other, so that nothing is allocated while timed."""
    source, target = jnp.ones(elements), jnp.ones(elements)

    def negated_over(source: Float[Array, " element"], target: Float[Array, " element"]) -> Float[Array, " element"]:
        del target
        return -source

    copy = jax.jit(negated_over, donate_argnums=1, keep_unused=True).lower(source, target).compile()

    def work(steps: int) -> None:
        nonlocal source, target
        for _ in range(steps):
            source, target = copy(source, target), source
        jax.block_until_ready(source)

    return work


PARTS = (
    Part("timer_resolution_seconds", None, _timer),
    Part("matmul_flops_per_second", "float32", lambda operand, clock: _matmul("float32", operand, clock)),
    Part("matmul_flops_per_second", "default", lambda operand, clock: _matmul("default", operand, clock)),
    Part("matmul_flops_per_second", "bfloat16", lambda operand, clock: _matmul("bfloat16", operand, clock)),
    Part("copy_bytes_per_second", None, _copy),
)
