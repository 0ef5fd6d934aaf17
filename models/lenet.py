"""LeNet: two convolutions with pooling, one hidden dense layer (LeCun et al. 1998, as taught since)."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from models._layers import Convolution, activation_named, max_pool


class Model(nnx.Module):
    """Per entry of `filters`: convolution, `activation`, 2x2 max-pool; then `hidden` units and logits."""

    def __init__(
        self,
        input_shape: tuple[int, int, int],
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
        height, width, channels = input_shape
        self.convolutions = nnx.List([])
        for count in filters:
            height, width = (height + 2 * padding - kernel + 1) // 2, (width + 2 * padding - kernel + 1) // 2
            if min(height, width) < 1:
                raise ValueError(f"kernel = {kernel} does not fit {len(filters)} times into {input_shape}: add padding")
            convolution = Convolution(
                channels, count, kernel, padding=padding, rngs=rngs, dtype=dtype, lowering=lowering
            )
            self.convolutions.append(convolution)
            channels = count
        self.hidden = nnx.Linear(height * width * channels, hidden, dtype=dtype, rngs=rngs)
        self.out = nnx.Linear(hidden, classes, dtype=dtype, rngs=rngs)
        self.activation = activation_named(activation)

    def __call__(self, inputs: Float[Array, "batch height width channel"]) -> Float[Array, "batch class"]:
        """Logits of each example."""
        features = inputs
        for convolution in self.convolutions:
            features = max_pool(self.activation(convolution(features)))
        features = self.activation(self.hidden(features.reshape(features.shape[0], -1)))
        return self.out(features)
