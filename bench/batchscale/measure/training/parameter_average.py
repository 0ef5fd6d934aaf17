"""Exponential averages of the parameters along training (EMA), read out beside them.

An average forgets over examples, not over steps, so that it means the same at every batch size: what was sampled after
n examples counts exp((n - now) / `horizon`), and the weights of all samples sum to one.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32, PyTree

SAMPLES = 4096
"""At most so many samples for each horizon: more are no better, and their weights would drown in float32 rounding."""


def advanced(
    average: PyTree, params: PyTree, batch_sizes: Int32[Array, " setting"], examples: Int32[Array, ""], horizon: float
) -> PyTree:
    """The averages once lanes [seed, setting] have seen so many `examples`; a lane is sampled after whole batches."""
    stride = batch_sizes * jnp.maximum(1, int(horizon / SAMPLES) // batch_sizes)
    sampled = examples % stride == 0
    weights = jnp.expm1(-stride / horizon) / jnp.expm1(-examples / horizon)
    move = partial(_move, sampled, weights)
    return jax.lax.cond(sampled.any(), move, lambda same, _: same, average, params)


def _move(
    sampled: Bool[Array, " setting"], weights: Float[Array, " setting"], average: PyTree, params: PyTree
) -> PyTree:
    share = jnp.where(sampled, weights, 0)

    def toward(old: Array, new: Array) -> Array:
        kept = share.reshape(1, -1, *[1] * (old.ndim - 2))
        return jnp.where(kept > 0, old + kept * (new - old), old)

    return jax.tree.map(toward, average, params)
