"""The two ingredients of the gradient noise scale, from norms that are at hand while a batch is accumulated.

The mean gradient over n examples has the expected squared norm |G|^2 + tr(Sigma) / n. Half a batch and the whole batch
are two sizes, which is enough for the two unknowns (McCandlish et al., 2018, appendix A.1). Smaller parts of the batch
show if the variance does fall as 1 / n.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
from jaxtyping import Array, Bool, Float, Int32, PyTree, Shaped

from batchscale.records.row_types import LARGEST_AMOUNT, NoiseEstimate

Sums = Float[Array, "seed setting part"]


class NormSums(NamedTuple):
    """Squared norms of the mean gradient over the whole batch, its first half, its first quarter and so on.

    Attributes:
        pending: Norms of the batch in progress.
        complete: Sums over complete batches. `pending` is added with the last microbatch of a batch, so all parts are
            of the same batches, seen at the same parameters.
    """

    pending: Sums
    complete: Sums


Norms = NormSums | tuple[()]
"""Empty in lanes whose norms are not summed."""


class Ingredients(NamedTuple):
    """Unbiased estimates of |G|^2 and tr(Sigma).

    Their ratio is biased, so each is averaged before they are divided.
    """

    gradient_squared: float
    noise_trace: float


def part_sizes(microbatch_size: int, batch_size: int) -> list[int]:
    """Return the examples in a batch, in its first half, its first quarter and so on, in whole microbatches."""
    microbatches = batch_size // microbatch_size
    return [(microbatches >> halvings) * microbatch_size for halvings in range(microbatches.bit_length())]


def no_sums(seeds: int, settings: int, parts: int) -> NormSums:
    """Return sums of nothing."""
    return NormSums(*(jnp.zeros((seeds, settings, parts)) for _ in NormSums._fields))


def with_norms_of(
    norms: Norms,
    summed: PyTree,
    microbatches: Int32[Array, " setting"],
    microbatches_per_step: Int32[Array, " setting"],
    where: Callable[..., PyTree] = jax.lax.cond,
) -> Norms:
    """Record the norm of the gradient `summed` over the first `microbatches` of a batch, if they are one of its parts.

    Norms are taken of the accumulated sum only. Taking them of every microbatch cost 20% at microbatch size 1, because
    it prevented fusing the outer product into the sum.

    Args:
        norms: The norms so far.
        summed: The sum of the gradients of the batch in progress, leaves [seed, setting, ...].
        microbatches: Microbatches of the batch in progress that `summed` holds.
        microbatches_per_step: Microbatches in a whole batch.
        where: Skips the norms in ticks that end no part.
    """
    if not norms:
        return norms
    # Column p holds the number of microbatches in the part that is halved p times.
    parts = microbatches_per_step[:, None] >> jnp.arange(norms.pending.shape[-1])
    ends = (microbatches[:, None] == parts) & (microbatches_per_step > 1)[:, None]
    # Most ticks end no part: `cond` then skips the pass over all gradients.
    return where(ends.any(), partial(_record, ends, microbatches), lambda same, _: same, norms, summed)


def _record(
    ends: Bool[Array, "setting part"], microbatches: Int32[Array, " setting"], norms: NormSums, summed: PyTree
) -> NormSums:
    found = squared_norms(summed) / microbatches.astype(jnp.float32) ** 2
    pending = jnp.where(ends, found[..., None], norms.pending)
    # Part 0 is the whole batch. When it ends, the norms of all parts are complete and are added to the sums.
    return NormSums(pending, norms.complete + jnp.where(ends[:, :1], pending, 0))


def squared_norms(gradient: PyTree) -> Float[Array, "seed setting"]:
    """Return the squared Euclidean norm of each lane's gradient."""
    return sum((_squares(leaf) for leaf in jax.tree.leaves(gradient)), start=jnp.float32(0))


def _squares(leaf: Shaped[Array, "seed setting ..."]) -> Float[Array, "seed setting"]:
    return jnp.square(leaf.astype(jnp.float32)).sum(range(2, leaf.ndim))


def read(norms: Norms) -> tuple[Float[np.ndarray, "seed setting part"] | None, Norms]:
    """Return the sums over complete batches (None without norms), and the norms to continue with."""
    if not norms:
        return None, norms
    return np.asarray(norms.complete, np.float64), norms._replace(complete=jnp.zeros_like(norms.complete))


def ingredients(small_norm: float, big_norm: float, small_batch_size: int, big_batch_size: int) -> Ingredients:
    """Solve for |G|^2 and tr(Sigma), given the mean squared norms of gradients at two batch sizes."""
    squared = (big_batch_size * big_norm - small_batch_size * small_norm) / (big_batch_size - small_batch_size)
    return Ingredients(squared, (small_norm - big_norm) / (1 / small_batch_size - 1 / big_batch_size))


def no_estimate(microbatch_size: int, batch_size: int) -> NoiseEstimate | None:
    """Return an empty series; None if the microbatch is the whole batch, because two sizes are needed."""
    sizes = part_sizes(microbatch_size, batch_size)
    nothing: list[float | None] = [0.0] * len(sizes)
    if len(sizes) == 1:
        return None
    return NoiseEstimate(
        examples=[],
        gradient_squared=[],
        noise_trace=[],
        small_batch_size=sizes[1],
        big_batch_size=sizes[0],
        part_sizes=sizes,
        squared_norms=nothing,
    )


def extended(series: NoiseEstimate, examples: int, sums: Float[np.ndarray, " part"], batches: int) -> NoiseEstimate:
    """Return `series` with one more entry: the batches since the last entry.

    A value that is not finite, or too large for a row, becomes null.

    Args:
        series: The entries so far.
        examples: Examples seen at the end of the new entry.
        sums: Squared norms, summed over its batches.
        batches: How many batches it holds.
    """
    big_norm, small_norm = (float(total) / batches for total in sums[:2])
    found = ingredients(small_norm, big_norm, series.small_batch_size, series.big_batch_size)
    before = examples // series.big_batch_size - batches
    means = [
        None if mean is None else _number((mean * before + float(total)) / (before + batches))
        for mean, total in zip(series.squared_norms or [], sums, strict=False)
    ]
    return msgspec.structs.replace(
        series,
        examples=[*series.examples, examples],
        gradient_squared=[*series.gradient_squared, _number(found.gradient_squared)],
        noise_trace=[*series.noise_trace, _number(found.noise_trace)],
        squared_norms=means,
    )


def _number(value: float) -> float | None:
    return value if math.isfinite(value) and abs(value) <= LARGEST_AMOUNT else None
