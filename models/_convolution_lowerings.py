"""Ways to convolve: same numbers to rounding, different speed when many kernels run side by side.

XLA's own convolution is slow inside a loop on a CPU (jax issue 12868) and, mapped over kernels, in its gradient on a
GPU (jax issue 13800). The others are matrix products, which map to batched ones. They keep features as
[channel, height, width, example]: examples are the vector axis, and a product's output is the next layer's input.

A kernel is a matrix: for each filter a row of its weights [column, row, channel], in the order in which windows are
copied out. Products take it as it is, and its update runs along rows: loops over a last axis of 16 numbers, as filters
would be, take XLA several times as long on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial, reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._pooling import max_of_four, max_pool

Features = Float[Array, "_ _ _ _"]
Kernel = Float[Array, "filter weight"]


class Lowering(NamedTuple):
    """One way through a stack of stride-1 convolutions without padding, each with 2x2 max-pooling.

    `enter` takes images [example, height, width, channel], `leave` gives features [example, height, width, channel];
    the layout stays between its functions.
    """

    enter: Callable[[Features], Features]
    pool_images: Callable[[Features, Kernel], Features]
    pool: Callable[[Features, Kernel], Features]
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


def _size(kernel: Kernel, channels: int) -> int:
    """Of a square kernel over so many channels, its side."""
    return math.isqrt(kernel.shape[1] // channels)


def _xla(inputs: Features, kernel: Kernel) -> Features:
    channels = inputs.shape[3]
    size = _size(kernel, channels)
    weights, dimensions = kernel.reshape(-1, size, size, channels), ("NHWC", "OWHI", "NHWC")
    return max_pool(jax.lax.conv_general_dilated(inputs, weights, (1, 1), "VALID", dimension_numbers=dimensions))


def _patches_of_images(images: Features, kernel: Kernel) -> Features:
    """One product for each place in a 2x2 pool: their maximum, and its gradient, run through whole arrays.

    The windows of images are the same for all kernels side by side, so copying them four ways is cheap.
    """
    size = _size(kernel, len(images))
    rows, columns = ((length - size + 1) // 2 for length in images.shape[1:3])

    def product_at(row: int, column: int) -> Float[Array, "filter position"]:
        places = [(i, j) for j in range(column, column + size) for i in range(row, row + size)]
        windows = [images[:, i : i + 2 * rows : 2, j : j + 2 * columns : 2] for i, j in places]
        return _product(kernel, jnp.stack(windows))

    pooled = max_of_four(product_at(0, 0), product_at(0, 1), product_at(1, 0), product_at(1, 1))
    return pooled.reshape(len(kernel), rows, columns, -1)


def _patches(inputs: Features, kernel: Kernel) -> Features:
    return max_pool(_convolved(_size(kernel, len(inputs)), inputs, kernel))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _convolved(size: int, inputs: Features, kernel: Kernel) -> Features:
    """Every window copied out, then one product."""
    return _convolved_and_windows(size, inputs, kernel)[0]


def _convolved_and_windows(size: int, inputs: Features, kernel: Kernel) -> tuple[Features, tuple[Features, Kernel]]:
    windows = _all_windows(inputs, size)
    outputs = kernel @ windows.reshape(len(windows), -1)
    return outputs.reshape(-1, *windows.shape[1:]), (windows, kernel)


def _all_windows(inputs: Features, size: int) -> Features:
    """Windows [weight, height, width, example].

    Rows are copied first, many at a time in one run, and arrays are joined at their first axis: where XLA on a CPU
    would have to stack or reorder, its copies are several times slower.
    """
    channels, height, width, examples = inputs.shape
    rows, columns, row = height - size + 1, width - size + 1, width * examples
    flat = inputs.reshape(channels, -1)
    bands = jnp.concatenate([flat[:, shift * row : (shift + rows) * row] for shift in range(size)])
    bands = bands.reshape(-1, rows, width, examples)
    return jnp.concatenate([bands[:, :, shift : shift + columns] for shift in range(size)])


def _convolution_gradients(
    size: int, factors: tuple[Features, Kernel], gradient: Float[Array, "filter row column example"]
) -> tuple[Features, Kernel]:
    """For inputs, the gradient is spread along columns before the product and summed along rows after it.

    That costs more arithmetic than summing whole windows and far less traffic. Without the barrier, XLA computes the
    gradient anew for every shift of it.
    """
    windows, kernel = factors
    filters = len(kernel)
    gradient = jax.lax.optimization_barrier(gradient)
    spread = jnp.concatenate([_shifted(gradient, 2, shift, size) for shift in range(size)])
    matrix = kernel.reshape(filters, size, -1).transpose(2, 1, 0).reshape(-1, size * filters)
    bands = (matrix @ spread.reshape(size * filters, -1)).reshape(size, -1, *spread.shape[1:])
    of_inputs = reduce(jnp.add, [_shifted(bands[shift], 1, shift, size) for shift in range(size)])
    return of_inputs, _gradient_of_matrix(windows.reshape(len(windows), -1), gradient.reshape(filters, -1))


def _shifted(array: Array, axis: int, shift: int, size: int) -> Array:
    """Between zeros, as the output of a window at `shift` lies in its input."""
    around = [(0, 0)] * array.ndim
    around[axis] = (shift, size - 1 - shift)
    return jnp.pad(array, around)


_convolved.defvjp(_convolved_and_windows, _convolution_gradients)


def _banded(inputs: Features, kernel: Kernel) -> Features:
    """A banded (Toeplitz) matrix over height x channels per kernel column: more arithmetic, far less copying."""
    channels, height, _, _ = inputs.shape
    size, filters = _size(kernel, channels), len(kernel)
    rows = height - size + 1
    weights = kernel.reshape(filters, size, size, channels)
    shifted = [_shifted(weights, 2, row, rows) for row in range(rows)]
    windows = _windows(inputs, size)
    matrix = jnp.stack(shifted, 1).transpose(0, 1, 2, 4, 3).reshape(filters * rows, -1)
    return max_pool(_product(matrix, windows).reshape(filters, rows, *windows.shape[3:]))


def _windows(inputs: Features, size: int) -> Float[Array, "size _ _ _ _"]:
    """The `size` shifted views along columns, stacked in front."""
    columns = inputs.shape[2] - size + 1
    return jnp.stack([inputs[:, :, shift : shift + columns] for shift in range(size)])


def _product(matrix: Float[Array, "to from"], windows: Array) -> Float[Array, "to position"]:
    """Two plain matrices: with more axes XLA's product on a CPU took a third longer."""
    return _times(matrix, windows.reshape(matrix.shape[1], -1))


@jax.custom_vjp
def _times(matrix: Float[Array, "to from"], windows: Float[Array, "from position"]) -> Float[Array, "to position"]:
    return matrix @ windows


def _gradients(
    factors: tuple[Float[Array, "to from"], Float[Array, "from position"]], gradient: Float[Array, "to position"]
) -> tuple[Float[Array, "to from"], Float[Array, "from position"]]:
    matrix, windows = factors
    return _gradient_of_matrix(windows, gradient), matrix.T @ gradient


def _gradient_of_matrix(
    windows: Float[Array, "from position"], gradient: Float[Array, "to position"]
) -> Float[Array, "to from"]:
    """Windows on the left: the other way round took 2.6 times as long on a CPU, in LeNet with single examples.

    Without the barrier XLA turns a run alone round all the same, which then takes 1.1 to 1.2 times as long.
    """
    product = jax.lax.dot_general(windows, gradient, (((1,), (1,)), ((), ())))
    return jax.lax.optimization_barrier(product).T


_times.defvjp(lambda matrix, windows: (matrix @ windows, (matrix, windows)), _gradients)


LOWERINGS = {
    "xla": Lowering(_unchanged, _xla, _xla, _unchanged, channel_axis=3),
    "patches": Lowering(_examples_last, _patches_of_images, _patches, _examples_first, channel_axis=0),
    "banded": Lowering(_examples_last, _patches_of_images, _banded, _examples_first, channel_axis=0),
}
