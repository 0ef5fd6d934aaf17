"""Ways to compute one convolution: same numbers to rounding, different speed when many kernels run side by side."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

LOWERINGS = ("xla", "patches", "banded")


def convolve(
    inputs: Float[Array, "batch height width channel"],
    kernel: Float[Array, "size size channel filter"],
    lowering: str,
) -> Float[Array, "batch rows columns filter"]:
    """A stride-1 convolution without padding, lowered as named.

    Raises:
        ValueError: when `lowering` is not one of LOWERINGS.
    """
    if lowering == "xla":
        return jax.lax.conv_general_dilated(inputs, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    if lowering == "patches" or (lowering == "banded" and inputs.shape[-1] == 1):
        return _patches(inputs, kernel)
    if lowering == "banded":
        return _banded(inputs, kernel)
    raise ValueError(f"lowering: {lowering!r} is not one of {', '.join(LOWERINGS)}")


def _patches(inputs: Array, kernel: Array) -> Array:
    """Every window copied out by static slices, then one matrix product: XLA's convolution is slow in a CPU loop."""
    size, _, channels, filters = kernel.shape
    rows, columns = inputs.shape[1] - size + 1, inputs.shape[2] - size + 1
    windows = [inputs[:, i : i + rows, j : j + columns] for i in range(size) for j in range(size)]
    stacked = jnp.concatenate(windows, axis=-1)
    return jnp.dot(stacked, kernel.reshape(size * size * channels, filters))


def _banded(inputs: Array, kernel: Array) -> Array:
    """Each kernel row becomes a banded (Toeplitz) matrix over width x channels: more arithmetic, wider products."""
    size, _, channels, filters = kernel.shape
    batch, height, width, _ = inputs.shape
    rows, columns = height - size + 1, width - size + 1
    shift = jnp.stack([jnp.eye(width, columns, -j, dtype=kernel.dtype) for j in range(size)])
    bands = jnp.einsum("jwc,ijkf->iwkcf", shift, kernel).reshape(size * width * channels, columns * filters)
    lines = inputs.reshape(batch, height, width * channels)
    stacked = jnp.concatenate([lines[:, i : i + rows] for i in range(size)], axis=-1)
    return jnp.dot(stacked, bands).reshape(batch, rows, columns, filters)
