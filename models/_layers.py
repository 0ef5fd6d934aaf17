"""Layers that several models share: activations by name, and convolutions and pooling in several lowerings.

Lowerings have equal results up to rounding, and different speeds.

XLA's own convolution is slow inside a loop on a CPU (jax issue 12868). Mapped over kernels, its gradient is slow on a
GPU (jax issue 13800). The other lowerings are matrix products, which become batched products when mapped. They keep
features as [channel, height, width, example]. Examples are then the vector axis, and the output of a product is the
next layer's input without a transposition.

A kernel is a matrix with one row per filter. A row holds the weights [column, row, channel], in the order in which
windows are copied out, so products need no transposition of it. Updates of the kernel run along rows: with filters as
the last axis, XLA's loops over only 16 numbers take several times as long on a CPU.

Pooling has its own gradient, because XLA's gradient of a window reduction is a scatter, which is slow on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int8

Features = Float[Array, "_ _ _ _"]
Kernel = Float[Array, "filter weight"]
Windows = Float[Array, "outer row 2 column 2 inner"]
Pooled = Float[Array, "outer row column inner"]


class Lowering(NamedTuple):
    """One way to compute a stack of convolutions. Height and width are the axes 1 and 2 of every layout.

    Attributes:
        enter: From images [example, height, width, channel] to the lowering's own layout.
        pool_images: Convolve and pool in the first layer, whose inputs are the same for all kernels. The stride is 1,
            without padding, and a 2x2 max-pool follows.
        pool: The same in later layers.
        convolve: Convolve alone, with a stride and with rows and columns of zeros on each side: (inputs, kernel,
            stride, padding).
        leave: From the lowering's own layout to features [example, height, width, channel].
        channel_axis: Axis of the channels in the lowering's own layout.
    """

    enter: Callable[[Features], Features]
    pool_images: Callable[[Features, Kernel], Features]
    pool: Callable[[Features, Kernel], Features]
    convolve: Callable[[Features, Kernel, int, int], Features]
    leave: Callable[[Features], Features]
    channel_axis: int


def recomputed(block: nnx.Module, features: Array, *options: object) -> Array:
    """Apply a block to features; its backward pass computes the activations again, which saves memory."""
    graph, params = nnx.split(block)
    return jax.checkpoint(lambda params, features: nnx.merge(graph, params)(features, *options))(params, features)


def lowering_named(name: str) -> Lowering:
    """Return the lowering of this name.

    Raises:
        ValueError: on an unknown name.
    """
    if name not in LOWERINGS:
        raise ValueError(f"lowering: {name!r}, expected one of {', '.join(LOWERINGS)}")
    return LOWERINGS[name]


def _unchanged(features: Features) -> Features:
    return features


def _examples_last(images: Features) -> Features:
    return images.transpose(3, 1, 2, 0)


def _examples_first(features: Features) -> Features:
    return features.transpose(3, 1, 2, 0)


def _size(kernel: Kernel, channels: int) -> int:
    """Return the side of a square kernel over a number of channels."""
    return math.isqrt(kernel.shape[1] // channels)


def _xla(inputs: Features, kernel: Kernel) -> Features:
    return max_pool(_xla_convolution(inputs, kernel, 1, 0))


def _xla_convolution(inputs: Features, kernel: Kernel, stride: int, padding: int) -> Features:
    channels = inputs.shape[3]
    size = _size(kernel, channels)
    weights, dimensions = kernel.reshape(-1, size, size, channels), ("NHWC", "OWHI", "NHWC")
    strides, around = (stride, stride), ((padding, padding), (padding, padding))
    return jax.lax.conv_general_dilated(inputs, weights, strides, around, dimension_numbers=dimensions)


def _patches_of_images(images: Features, kernel: Kernel) -> Features:
    """Compute one product for each of the four places in a 2x2 pool, then their maximum over whole arrays.

    The windows of images are the same for all mapped kernels, so copying them out four times is cheap.
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


def _patches_convolution(inputs: Features, kernel: Kernel, stride: int, padding: int) -> Features:
    size, inputs = _size(kernel, len(inputs)), padded(inputs, padding)
    if stride == 1 and size > 1:
        return _convolved(size, inputs, kernel)
    windows = _strided_windows(inputs, size, stride)
    return _product(kernel, windows).reshape(-1, *windows.shape[1:])


def _strided_windows(inputs: Features, size: int, stride: int) -> Features:
    """Return every `stride`-th window as [weight, height, width, example]."""
    bands = jnp.concatenate(views(inputs, 1, size, stride))
    return jnp.concatenate(views(bands, 2, size, stride))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _convolved(size: int, inputs: Features, kernel: Kernel) -> Features:
    """Copy every window out, then compute one product."""
    return _convolved_and_windows(size, inputs, kernel)[0]


def _convolved_and_windows(size: int, inputs: Features, kernel: Kernel) -> tuple[Features, tuple[Features, Kernel]]:
    windows = _all_windows(inputs, size)
    outputs = kernel @ windows.reshape(len(windows), -1)
    return outputs.reshape(-1, *windows.shape[1:]), (windows, kernel)


def _all_windows(inputs: Features, size: int) -> Features:
    """Return all windows as [weight, height, width, example].

    Rows are copied first, because many of them are next to each other in memory. Arrays are joined at their first axis:
    XLA's copies on a CPU are several times slower when it has to stack or reorder.
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
    """Return the gradients of inputs and kernel.

    For the inputs, the gradient is spread along columns before the product and summed along rows after it. This costs
    more arithmetic than summing whole windows, but far less memory traffic.
    """
    windows, kernel = factors
    filters = len(kernel)
    # Without the barrier XLA computes the gradient again for each of its shifts.
    gradient = jax.lax.optimization_barrier(gradient)
    spread = jnp.concatenate([_shifted(gradient, 2, shift, size) for shift in range(size)])
    matrix = kernel.reshape(filters, size, -1).transpose(2, 1, 0).reshape(-1, size * filters)
    bands = (matrix @ spread.reshape(size * filters, -1)).reshape(size, -1, *spread.shape[1:])
    of_inputs = reduce(jnp.add, [_shifted(bands[shift], 1, shift, size) for shift in range(size)])
    return of_inputs, _gradient_of_matrix(windows.reshape(len(windows), -1), gradient.reshape(filters, -1))


def _shifted(array: Array, axis: int, shift: int, size: int) -> Array:
    """Pad `array` with zeros, so that an output of a window at `shift` gets the position of its input."""
    around = [(0, 0)] * array.ndim
    around[axis] = (shift, size - 1 - shift)
    return jnp.pad(array, around)


_convolved.defvjp(_convolved_and_windows, _convolution_gradients)


def _banded(inputs: Features, kernel: Kernel) -> Features:
    return max_pool(_banded_convolution(inputs, kernel, 1, 0))


def _banded_convolution(inputs: Features, kernel: Kernel, stride: int, padding: int) -> Features:
    """Multiply by a banded (Toeplitz) matrix over height x channels: more arithmetic, far less copying."""
    inputs = padded(inputs, padding)
    channels, height, _, _ = inputs.shape
    size, filters = _size(kernel, channels), len(kernel)
    starts = range(0, height - size + 1, stride)
    weights = kernel.reshape(filters, size, size, channels)
    shifted = [_shifted(weights, 2, start, height - size + 1) for start in starts]
    windows = jnp.stack(views(inputs, 2, size, stride))
    matrix = jnp.stack(shifted, 1).transpose(0, 1, 2, 4, 3).reshape(filters * len(starts), -1)
    return _product(matrix, windows).reshape(filters, len(starts), *windows.shape[3:])


def _product(matrix: Float[Array, "to from"], windows: Array) -> Float[Array, "to position"]:
    """Multiply two plain matrices: with more axes, XLA's product on a CPU took a third longer."""
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
    """Multiply with the windows on the left.

    With the gradient on the left, LeNet with single examples took 2.6 times as long on a CPU. Without the barrier XLA
    swaps the operands of an unmapped run all the same, which then takes 1.1 to 1.2 times as long.
    """
    product = jax.lax.dot_general(windows, gradient, (((1,), (1,)), ((), ())))
    return jax.lax.optimization_barrier(product).T


_times.defvjp(lambda matrix, windows: (matrix @ windows, (matrix, windows)), _gradients)


def padded(features: Features, padding: int, value: float = 0.0) -> Features:
    """Add `padding` rows and columns of `value` on each side."""
    around = (padding, padding)
    return jnp.pad(features, ((0, 0), around, around, (0, 0)), constant_values=value) if padding else features


def views(array: Array, axis: int, size: int, stride: int) -> list[Array]:
    """Return, for each position in a window of `size` along `axis`, the values there in every window."""
    last = array.shape[axis] - size + 1
    return [jax.lax.slice_in_dim(array, shift, shift + last, stride, axis) for shift in range(size)]


def max_pool_overlapping(features: Features, size: int, stride: int, padding: int) -> Features:
    """Return the maximum over windows that may overlap and reach over the edge.

    Of equal values the first one, row by row, gets the gradient. NaNs are kept.
    """
    bands = views(padded(features, padding, -jnp.inf), 1, size, stride)
    return reduce(_first_largest, [view for band in bands for view in views(band, 2, size, stride)])


def _first_largest(a: Array, b: Array) -> Array:
    return jnp.where((a >= b) | jnp.isnan(a), a, b)


def max_pool(inputs: Float[Array, "outer height width inner"]) -> Pooled:
    """Return the maximum over 2x2 windows, leaving out an odd last row or column.

    Of equal values the first one, row by row, gets the gradient, as in XLA's own window reduction.
    """
    outer, height, width, inner = inputs.shape
    rows, columns = height // 2, width // 2
    even = inputs[:, : 2 * rows, : 2 * columns]
    return _max_of(even.reshape(outer, rows, 2, columns, 2, inner))


@jax.custom_vjp
def max_of_four(a: Array, b: Array, c: Array, d: Array) -> Array:
    """Return the elementwise maximum. Of equal values the first one gets the gradient."""
    return _max_and_place(a, b, c, d)[0]


def _max_and_place(a: Array, b: Array, c: Array, d: Array) -> tuple[Array, Int8[Array, "*shape"]]:
    largest = jnp.maximum(jnp.maximum(a, b), jnp.maximum(c, d))
    place = jnp.where(a == largest, 0, jnp.where(b == largest, 1, jnp.where(c == largest, 2, 3)))
    return largest, place.astype(jnp.int8)


def _gradients_of_four(place: Int8[Array, "*shape"], gradient: Array) -> tuple[Array, Array, Array, Array]:
    a, b, c, d = (jnp.where(place == which, gradient, 0) for which in range(4))
    return a, b, c, d


max_of_four.defvjp(_max_and_place, _gradients_of_four)


@jax.custom_vjp
def _max_of(windows: Windows) -> Pooled:
    return _max_and_place_in(windows)[0]


def _max_and_place_in(windows: Windows) -> tuple[Pooled, Int8[Array, "outer row column inner"]]:
    a, b, c, d = (windows[:, :, row, :, column] for row in (0, 1) for column in (0, 1))
    return _max_and_place(a, b, c, d)


def _gradient_of_windows(place: Int8[Array, "outer row column inner"], gradient: Pooled) -> tuple[Windows]:
    outer, rows, columns, inner = place.shape
    shape = (outer, rows, 2, columns, 2, inner)
    own = 2 * jax.lax.broadcasted_iota(jnp.int8, shape, 2) + jax.lax.broadcasted_iota(jnp.int8, shape, 4)
    return (jnp.where(own == place[:, :, None, :, None], gradient[:, :, None, :, None], 0),)


_max_of.defvjp(_max_and_place_in, _gradient_of_windows)


LOWERINGS = {
    "xla": Lowering(_unchanged, _xla, _xla, _xla_convolution, _unchanged, channel_axis=3),
    "patches": Lowering(
        _examples_last, _patches_of_images, _patches, _patches_convolution, _examples_first, channel_axis=0
    ),
    "banded": Lowering(
        _examples_last, _patches_of_images, _banded, _banded_convolution, _examples_first, channel_axis=0
    ),
}


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
        raise ValueError(f"activation: {name!r}, expected one of {', '.join(sorted(_ACTIVATIONS))}")
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
        ValueError: when inputs are not images, one becomes smaller than the kernel, or a name is unknown.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        filters: Sequence[int],
        kernel: int,
        *,
        rngs: nnx.Rngs,
        padding: int = 0,
        activation: str = "relu",
        dtype: jnp.dtype = jnp.float32,
        lowering: str = "xla",
    ) -> None:
        if len(input_shape) != 3:
            raise ValueError(f"inputs of shape {input_shape} are not images, expected [height, width, channel]")
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
        kernel, bias = self.kernel[...].astype(self.dtype), self.bias[...].astype(self.dtype)
        return pool(padded(features, self.padding).astype(self.dtype), kernel) + along(channel_axis, bias)


def along(channel_axis: int, values: Float[Array, " channel"]) -> Features:
    """Give `values` the axes of features, so that each belongs to a channel."""
    return jnp.expand_dims(values, [axis for axis in range(4) if axis != channel_axis])


class Convolution(nnx.Module):
    """A convolution alone, with `size // 2` rows and columns of zeros on each side.

    An odd `size` with stride 1 keeps height and width. With stride 2 they are halved and rounded up.

    Args:
        channels: Of the inputs.
        filters: Channels of the outputs.
        size: Side of the kernel.
        stride: Rows and columns between two windows.
        scale: Factor on the initialisation of He et al. (2015), which keeps the variance through a ReLU.
        bias: True to add a number to each channel.
        dtype: Type of the arithmetic.
        rngs: Source of the initial kernel.
    """

    def __init__(
        self,
        channels: int,
        filters: int,
        size: int,
        *,
        stride: int = 1,
        scale: float = 1.0,
        bias: bool,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ) -> None:
        fresh = nnx.initializers.he_normal(in_axis=1, out_axis=0)
        self.kernel = nnx.Param(scale * fresh(rngs.params(), (filters, size * size * channels)))
        self.bias = nnx.Param(jnp.zeros(filters)) if bias else None
        self.stride = stride
        self.padding = size // 2
        self.dtype = dtype

    def __call__(self, features: Features, lowering: Lowering) -> Features:
        """Convolve features in the layout of `lowering`."""
        kernel = self.kernel[...].astype(self.dtype)
        outputs = lowering.convolve(features.astype(self.dtype), kernel, self.stride, self.padding)
        if self.bias is None:
            return outputs
        return outputs + along(lowering.channel_axis, self.bias[...].astype(self.dtype))
