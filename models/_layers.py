"""What several models share: activations by name and a convolution whose lowering can be chosen."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from models._lowerings import convolve

_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "gelu": jax.nn.gelu,
}


def activation_named(name: str) -> Callable[[Array], Array]:
    """An activation function.

    Raises:
        ValueError: lists the names there are.
    """
    if name not in _ACTIVATIONS:
        raise ValueError(f"activation: {name!r} is not one of {', '.join(sorted(_ACTIVATIONS))}")
    return _ACTIVATIONS[name]


class Convolution(nnx.Module):
    """A stride-1 convolution, padded by `padding` zeros on every side. `lowering` changes how, never what."""

    def __init__(
        self,
        channels: int,
        filters: int,
        kernel: int,
        *,
        rngs: nnx.Rngs,
        padding: int = 0,
        dtype: jnp.dtype = jnp.float32,
        lowering: str = "xla",
    ) -> None:
        shape = (kernel, kernel, channels, filters)
        self.kernel = nnx.Param(nnx.initializers.lecun_normal()(rngs.params(), shape))
        self.bias = nnx.Param(jnp.zeros(filters))
        self.padding = padding
        self.dtype = dtype
        self.lowering = lowering

    def __call__(self, inputs: Float[Array, "batch height width channel"]) -> Float[Array, "batch rows columns filter"]:
        """Convolve every example; rows = height + 2 padding - kernel + 1."""
        around = (self.padding, self.padding)
        inputs = jnp.pad(inputs, ((0, 0), around, around, (0, 0))) if self.padding else inputs
        kernel, bias = self.kernel[...].astype(self.dtype), self.bias[...].astype(self.dtype)
        return convolve(inputs.astype(self.dtype), kernel, self.lowering) + bias


def max_pool(
    inputs: Float[Array, "batch height width channel"],
) -> Float[Array, "batch rows columns channel"]:
    """The maximum over 2x2 windows; an odd last row or column is left out.

    A maximum of four slices has an elementwise gradient, which XLA fuses; its window reduction scatters instead.
    """
    height, width = inputs.shape[1] // 2 * 2, inputs.shape[2] // 2 * 2
    even = inputs[:, :height, :width]
    rows = jnp.maximum(even[:, 0::2], even[:, 1::2])
    return jnp.maximum(rows[:, :, 0::2], rows[:, :, 1::2])
