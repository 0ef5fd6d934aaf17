"""The gradient noise scale's two ingredients, from norms that accumulating a batch leaves at hand.

The mean gradient over so many examples has the expected squared norm |G|^2 + tr(Sigma) / examples: half a batch and the
whole are two sizes for two unknowns (McCandlish et al., 2018, appendix A.1). Smaller parts tell whether the variance
does fall as one over the number of examples.
"""

from __future__ import annotations

import math
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

    `pending` is of the batch in progress and joins `complete` with its last microbatch: all parts then are of the same
    batches, seen at the same parameters.
    """

    pending: Sums
    complete: Sums


Norms = NormSums | tuple[()]
"""Of lanes whose norms are summed, or of lanes whose norms are not."""


class Ingredients(NamedTuple):
    """Unbiased estimates; their ratio is not, so each is averaged before it is divided."""

    gradient_squared: float
    noise_trace: float


def part_sizes(microbatch_size: int, batch_size: int) -> list[int]:
    """The examples in a batch, in its half, and so on, in whole microbatches."""
    microbatches = batch_size // microbatch_size
    return [(microbatches >> halvings) * microbatch_size for halvings in range(microbatches.bit_length())]


def no_sums(seeds: int, settings: int, parts: int) -> NormSums:
    """Nothing summed yet."""
    return NormSums(*(jnp.zeros((seeds, settings, parts)) for _ in NormSums._fields))


def observed(
    norms: Norms,
    summed: PyTree,
    microbatches: Int32[Array, " setting"],
    microbatches_per_step: Int32[Array, " setting"],
) -> Norms:
    """Look at the gradient `summed` over the first `microbatches` of a batch, where they are one of its parts.

    Only what is accumulated anyway is looked at: the norm of each microbatch's own gradient cost a fifth of the time
    at microbatches of 1, whose outer products otherwise go straight into the sum.
    """
    if not norms:
        return norms
    parts = microbatches_per_step[:, None] >> jnp.arange(norms.pending.shape[-1])
    looks = (microbatches[:, None] == parts) & (microbatches_per_step > 1)[:, None]
    return jax.lax.cond(looks.any(), partial(_look, looks, microbatches), lambda same, _: same, norms, summed)


def _look(
    looks: Bool[Array, "setting part"], microbatches: Int32[Array, " setting"], norms: NormSums, summed: PyTree
) -> NormSums:
    found = squared_norms(summed) / microbatches.astype(jnp.float32) ** 2
    pending = jnp.where(looks, found[..., None], norms.pending)
    return NormSums(pending, norms.complete + jnp.where(looks[:, :1], pending, 0))


def squared_norms(gradient: PyTree) -> Float[Array, "seed setting"]:
    """The squared Euclidean norm of each lane's gradient."""
    return sum((_squares(leaf) for leaf in jax.tree.leaves(gradient)), start=jnp.float32(0))


def _squares(leaf: Shaped[Array, "seed setting ..."]) -> Float[Array, "seed setting"]:
    return jnp.square(leaf.astype(jnp.float32)).sum(range(2, leaf.ndim))


def read(norms: Norms) -> tuple[Float[np.ndarray, "seed setting part"] | None, Norms]:
    """What complete batches summed up to, and the norms to go on with."""
    if not norms:
        return None, norms
    return np.asarray(norms.complete, np.float64), norms._replace(complete=jnp.zeros_like(norms.complete))


def ingredients(small_norm: float, big_norm: float, small_batch_size: int, big_batch_size: int) -> Ingredients:
    """|G|^2 and tr(Sigma) from mean squared norms of gradients at two batch sizes."""
    squared = (big_batch_size * big_norm - small_batch_size * small_norm) / (big_batch_size - small_batch_size)
    return Ingredients(squared, (small_norm - big_norm) / (1 / small_batch_size - 1 / big_batch_size))


def no_estimate(microbatch_size: int, batch_size: int) -> NoiseEstimate | None:
    """An empty series; None where the microbatch is the batch, so that there is only one size."""
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
    """With the stretch of `batches` batches that ends at `examples`; what is no number or too large becomes null."""
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
