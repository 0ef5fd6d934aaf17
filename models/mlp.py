"""A multi-layer perceptron over flattened pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ._layers import activation_named


class Model(nnx.Module):
    """Dense layers of the widths in `hidden`, each followed by `activation`, then logits."""

    def __init__(
        self,
        input_shape: tuple[int, ...],
        classes: int,
        *,
        rngs: nnx.Rngs,
        dtype: jnp.dtype = jnp.float32,
        hidden: Sequence[int] = (128,),
        activation: str = "relu",
    ) -> None:
        widths = [math.prod(input_shape), *hidden]
        self.hidden = nnx.List([nnx.Linear(a, b, dtype=dtype, rngs=rngs) for a, b in pairwise(widths)])
        self.out = nnx.Linear(widths[-1], classes, dtype=dtype, rngs=rngs)
        self.activation = activation_named(activation)

    def __call__(self, inputs: Float[Array, "batch ..."]) -> Float[Array, "batch class"]:
        """Return the logits of each example."""
        features = inputs.reshape(inputs.shape[0], -1)
        for layer in self.hidden:
            features = self.activation(layer(features))
        return self.out(features)
