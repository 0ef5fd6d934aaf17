"""Ways to convolve: same numbers to rounding, different speed when many kernels run side by side.

XLA's own convolution is slow inside a loop on a CPU (jax issue 12868) and, mapped over kernels, in its gradient on a
GPU (jax issue 13800). The others are matrix products, which map to batched ones. They keep features as
[channel, height, width, example]: examples are the vector axis, and a product's output is the next layer's input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Features = Float[Array, "_ _ _ _"]
Kernel = Float[Array, "size size channel filter"]


class Lowering(NamedTuple):
    """One way through a stack of stride-1 convolutions without padding; its layout stays between its functions.

    `enter` takes images [example, height, width, channel], `leave` gives features [example, height, width, channel].
    """

    enter: Callable[[Features], Features]
    convolve_images: Callable[[Features, Kernel], Features]
    convolve: Callable[[Features, Kernel], Features]
    leave: Callable[[Features], Features]
    channel_axis: int


def lowering_named(name: str) -> Lowering:
    """A lowering.

    Raises:
        ValueError: lists the names there are.
    """
    if name not in LOWERINGS:
        raise ValueError(f"lowering: {name!r} is not one of {', '.join(LOWERINGS)}")
    return LOWERINGS[name]


def _unchanged(features: Features) -> Features:
    return features


def _examples_last(images: Features) -> Features:
    return images.transpose(3, 1, 2, 0)


def _examples_first(features: Features) -> Features:
    return features.transpose(3, 1, 2, 0)


def _xla(inputs: Features, kernel: Kernel) -> Features:
    return jax.lax.conv_general_dilated(inputs, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _patches(inputs: Features, kernel: Kernel) -> Features:
    """Every window copied out, along rows and then along columns, so that copies are few and long; then one product."""
    size, _, _, filters = kernel.shape
    windows = _windows(_windows(inputs, 2, size), 2, size)
    product = _product(kernel.transpose(3, 0, 1, 2).reshape(filters, -1), windows)
    return product.reshape(filters, *windows.shape[3:])


def _banded(inputs: Features, kernel: Kernel) -> Features:
    """A banded (Toeplitz) matrix over height x channels per kernel column: more arithmetic, far less copying."""
    size, _, _, filters = kernel.shape
    rows = inputs.shape[1] - size + 1
    shifted = [jnp.pad(kernel, ((row, rows - 1 - row), (0, 0), (0, 0), (0, 0))) for row in range(rows)]
    windows = _windows(inputs, 2, size)
    product = _product(jnp.stack(shifted).transpose(4, 0, 2, 3, 1).reshape(filters * rows, -1), windows)
    return product.reshape(filters, rows, *windows.shape[3:])


def _windows(inputs: Array, axis: int, size: int) -> Array:
    """The `size` shifted views along `axis`, stacked in front."""
    length = inputs.shape[axis] - size + 1
    return jnp.stack([jax.lax.slice_in_dim(inputs, shift, shift + length, axis=axis) for shift in range(size)])


def _product(matrix: Float[Array, "to from"], windows: Array) -> Float[Array, "to position"]:
    """Two plain matrices: with more axes XLA's product on a CPU took a third longer."""
    return matrix @ windows.reshape(matrix.shape[1], -1)


LOWERINGS = {
    "xla": Lowering(_unchanged, _xla, _xla, _unchanged, channel_axis=3),
    "patches": Lowering(_examples_last, _patches, _patches, _examples_first, channel_axis=0),
    # The windows of images are the same for all kernels side by side: patches share them, bands would not.
    "banded": Lowering(_examples_last, _patches, _banded, _examples_first, channel_axis=0),
}
