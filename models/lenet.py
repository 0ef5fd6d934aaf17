"""LeNet: two convolutions with pooling, one hidden dense layer (LeCun et al. 1998, as taught since)."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ._layers import ConvolutionStack, activation_named


class Model(nnx.Module):
    """For each entry of `filters`: convolution, 2x2 max-pool, `activation`; then `hidden` units and logits."""

    def __init__(
        self,
        input_shape: tuple[int, ...],
        classes: int,
        *,
        rngs: nnx.Rngs,
        dtype: jnp.dtype = jnp.float32,
        lowering: str = "xla",
        filters: Sequence[int] = (6, 16),
        kernel: int = 5,
        padding: int = 0,
        hidden: int = 84,
        activation: str = "relu",
    ) -> None:
        self.convolutions = ConvolutionStack(
            input_shape,
            filters,
            kernel,
            padding=padding,
            activation=activation,
            lowering=lowering,
            dtype=dtype,
            rngs=rngs,
        )
        self.hidden = nnx.Linear(self.convolutions.features, hidden, dtype=dtype, rngs=rngs)
        self.out = nnx.Linear(hidden, classes, dtype=dtype, rngs=rngs)
        self.activation = activation_named(activation)

    def __call__(self, inputs: Float[Array, "batch height width channel"]) -> Float[Array, "batch class"]:
        """Return the logits of each example."""
        features = self.convolutions(inputs)
        return self.out(self.activation(self.hidden(features)))
