"""Multinomial logistic regression: the smallest model that trains."""

from __future__ import annotations

import math

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


class Model(nnx.Module):
    """One affine map from pixels to logits."""

    def __init__(
        self, input_shape: tuple[int, ...], classes: int, *, rngs: nnx.Rngs, dtype: jnp.dtype = jnp.float32
    ) -> None:
        self.out = nnx.Linear(math.prod(input_shape), classes, dtype=dtype, rngs=rngs)

    def __call__(self, inputs: Float[Array, "batch ..."]) -> Float[Array, "batch class"]:
        """Return the logits of each example."""
        return self.out(inputs.reshape(inputs.shape[0], -1))
