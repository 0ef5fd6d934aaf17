"""Layers that several models share: activations by name, and convolutions whose lowering can be chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ._convolution_lowerings import Features, lowering_named

_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "gelu": jax.nn.gelu,
}


def activation_named(name: str) -> Callable[[Array], Array]:
    """Return the activation function of this name.

    Raises:
        ValueError: on an unknown name.
    """
    if name not in _ACTIVATIONS:
        raise ValueError(f"activation: {name!r} is not one of {', '.join(sorted(_ACTIVATIONS))}")
    return _ACTIVATIONS[name]


class ConvolutionStack(nnx.Module):
    """For each entry of `filters`: a stride-1 convolution, 2x2 max-pooling, bias and `activation`.

    Pooling first leaves bias and activation a quarter of the work. The result is the same for every activation that
    never falls.

    Attributes:
        convolutions: The parameters, one entry per layer.
        features: Features of an example in the output.
        activation: The activation function.
        lowering: How the convolutions are computed; results differ by rounding only.

    Raises:
        ValueError: when an image becomes smaller than the kernel, or a name is unknown.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        filters: Sequence[int],
        kernel: int,
        *,
        rngs: nnx.Rngs,
        padding: int = 0,
        activation: str = "relu",
        dtype: jnp.dtype = jnp.float32,
        lowering: str = "xla",
    ) -> None:
        height, width, channels = input_shape
        self.convolutions = nnx.List([])
        for count in filters:
            height, width = (height + 2 * padding - kernel + 1) // 2, (width + 2 * padding - kernel + 1) // 2
            if min(height, width) < 1:
                raise ValueError(
                    f"kernel = {kernel} does not fit {len(filters)} times into {input_shape}, expected padding"
                )
            self.convolutions.append(_Convolution(channels, count, kernel, padding=padding, dtype=dtype, rngs=rngs))
            channels = count
        self.features = height * width * channels
        self.activation = activation_named(activation)
        lowering_named(lowering)
        self.lowering = lowering

    def __call__(self, inputs: Float[Array, "batch height width channel"]) -> Float[Array, "batch feature"]:
        """Return the features of each example, flattened in the order height, width, channel."""
        lowering = lowering_named(self.lowering)
        features = lowering.enter(inputs)
        for position, convolution in enumerate(self.convolutions):
            pool = lowering.pool if position else lowering.pool_images
            features = self.activation(convolution(features, pool, lowering.channel_axis))
        return lowering.leave(features).reshape(len(inputs), -1)


class _Convolution(nnx.Module):
    """The parameters of one convolution with pooling: kernel [filter, weight] and bias [filter]."""

    def __init__(
        self, channels: int, filters: int, kernel: int, *, padding: int, dtype: jnp.dtype, rngs: nnx.Rngs
    ) -> None:
        shape = (kernel, kernel, channels, filters)
        weights = nnx.initializers.lecun_normal()(rngs.params(), shape)
        self.kernel = nnx.Param(weights.transpose(3, 1, 0, 2).reshape(filters, -1))
        self.bias = nnx.Param(jnp.zeros(filters))
        self.padding = padding
        self.dtype = dtype

    def __call__(self, features: Features, pool: Callable[[Features, Array], Features], channel_axis: int) -> Features:
        around = (self.padding, self.padding)
        features = jnp.pad(features, ((0, 0), around, around, (0, 0))) if self.padding else features
        kernel, bias = self.kernel[...].astype(self.dtype), self.bias[...].astype(self.dtype)
        other_axes = [axis for axis in range(4) if axis != channel_axis]
        return pool(features.astype(self.dtype), kernel) + jnp.expand_dims(bias, other_axes)
