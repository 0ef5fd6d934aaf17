"""The gradient noise scale's two ingredients, from norms that accumulating a batch leaves at hand.

A microbatch gradient has the expected squared norm |G|^2 + tr(Sigma) / microbatch_size, the batch's mean gradient
|G|^2 + tr(Sigma) / batch_size: two sizes, two unknowns (McCandlish et al., 2018, appendix A.1).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree, Shaped

from bench.rows import LARGEST_AMOUNT, NoiseEstimate

Sums = Float[Array, "seed setting"]


class NormSums(NamedTuple):
    """Sums of squared gradient norms; `microbatch` and `batch` hold one value for each batch completed since a reading.

    `pending` sums over the microbatches of the batch in progress, whose mean joins `microbatch` once it is complete:
    so both sums see the same parameters and the same examples.
    """

    pending: Sums
    microbatch: Sums
    batch: Sums


Norms = NormSums | tuple[()]
"""Of lanes whose norms are summed, or of lanes whose norms are not."""


class Ingredients(NamedTuple):
    """Unbiased estimates; their ratio is not, so each is averaged before it is divided."""

    gradient_squared: float
    noise_trace: float


def no_sums(seeds: int, settings: int) -> NormSums:
    """Nothing summed yet."""
    return NormSums(*(jnp.zeros((seeds, settings)) for _ in NormSums._fields))


def with_microbatch(sums: Norms, gradient: PyTree) -> Norms:
    """Add the microbatch gradients of all lanes."""
    if not sums:
        return sums
    return sums._replace(pending=sums.pending + squared_norms(gradient))


def with_batches(sums: Norms, mean: PyTree, due: Bool[Array, " setting"], weights: Float[Array, " setting"]) -> Norms:
    """Close the batches of the settings that are `due`; `weights` is one over the microbatches of a batch."""
    if not sums:
        return sums
    return NormSums(
        jnp.where(due, 0, sums.pending),
        sums.microbatch + jnp.where(due, sums.pending * weights, 0),
        sums.batch + jnp.where(due, squared_norms(mean), 0),
    )


def squared_norms(gradient: PyTree) -> Sums:
    """The squared Euclidean norm of each lane's gradient."""
    return sum((_squares(leaf) for leaf in jax.tree.leaves(gradient)), start=jnp.float32(0))


def _squares(leaf: Shaped[Array, "seed setting ..."]) -> Sums:
    return jnp.square(leaf.astype(jnp.float32)).sum(range(2, leaf.ndim))


def read(sums: Norms) -> tuple[Float[np.ndarray, "seed setting size"] | None, Norms]:
    """What was summed, in the order [microbatch, batch], and the sums to go on with."""
    if not sums:
        return None, sums
    found = np.stack([np.asarray(sums.microbatch, np.float64), np.asarray(sums.batch, np.float64)], axis=-1)
    return found, sums._replace(microbatch=jnp.zeros_like(sums.microbatch), batch=jnp.zeros_like(sums.batch))


def ingredients(small_norm: float, big_norm: float, small_batch_size: int, big_batch_size: int) -> Ingredients:
    """|G|^2 and tr(Sigma) from mean squared norms of gradients at two batch sizes."""
    squared = (big_batch_size * big_norm - small_batch_size * small_norm) / (big_batch_size - small_batch_size)
    return Ingredients(squared, (small_norm - big_norm) / (1 / small_batch_size - 1 / big_batch_size))


def no_estimate(small_batch_size: int, big_batch_size: int) -> NoiseEstimate | None:
    """An empty series; None where the microbatch is the batch, so that there is only one size."""
    if small_batch_size == big_batch_size:
        return None
    return NoiseEstimate(
        examples=[],
        gradient_squared=[],
        noise_trace=[],
        small_batch_size=small_batch_size,
        big_batch_size=big_batch_size,
    )


def append(series: NoiseEstimate, examples: int, sums: Float[np.ndarray, " size"], batches: int) -> None:
    """Add the stretch of `batches` batches that ends at `examples`; what is no number or too large becomes null."""
    small_norm, big_norm = (float(total) / batches for total in sums)
    found = ingredients(small_norm, big_norm, series.small_batch_size, series.big_batch_size)
    squared, trace = (value if math.isfinite(value) and abs(value) <= LARGEST_AMOUNT else None for value in found)
    series.examples.append(examples)
    series.gradient_squared.append(squared)
    series.noise_trace.append(trace)
