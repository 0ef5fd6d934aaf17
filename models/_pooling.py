"""2x2 max-pooling whose gradient is elementwise: XLA's window reduction scatters it, which is slow on a CPU."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int8

Windows = Float[Array, "outer row 2 column 2 inner"]
Pooled = Float[Array, "outer row column inner"]


def max_pool(inputs: Float[Array, "outer height width inner"]) -> Pooled:
    """The maximum over 2x2 windows; an odd last row or column is left out. Of equal values the first has the gradient.

    First is meant row by row, as in XLA's own window reduction.
    """
    outer, height, width, inner = inputs.shape
    rows, columns = height // 2, width // 2
    even = inputs[:, : 2 * rows, : 2 * columns]
    return _max_of(even.reshape(outer, rows, 2, columns, 2, inner))


@jax.custom_vjp
def max_of_four(a: Array, b: Array, c: Array, d: Array) -> Array:
    """The elementwise maximum of equal shapes. Of equal values the first has the gradient."""
    return _max_and_place(a, b, c, d)[0]


def _max_and_place(a: Array, b: Array, c: Array, d: Array) -> tuple[Array, Int8[Array, "*shape"]]:
    largest = jnp.maximum(jnp.maximum(a, b), jnp.maximum(c, d))
    place = jnp.where(a == largest, 0, jnp.where(b == largest, 1, jnp.where(c == largest, 2, 3)))
    return largest, place.astype(jnp.int8)


def _gradients(place: Int8[Array, "*shape"], gradient: Array) -> tuple[Array, Array, Array, Array]:
    a, b, c, d = (jnp.where(place == which, gradient, 0) for which in range(4))
    return a, b, c, d


max_of_four.defvjp(_max_and_place, _gradients)


@jax.custom_vjp
def _max_of(windows: Windows) -> Pooled:
    return _max_and_place_in(windows)[0]


def _max_and_place_in(windows: Windows) -> tuple[Pooled, Int8[Array, "outer row column inner"]]:
    a, b, c, d = (windows[:, :, row, :, column] for row in (0, 1) for column in (0, 1))
    return _max_and_place(a, b, c, d)


def _gradient(place: Int8[Array, "outer row column inner"], gradient: Pooled) -> tuple[Windows]:
    outer, rows, columns, inner = place.shape
    shape = (outer, rows, 2, columns, 2, inner)
    own = 2 * jax.lax.broadcasted_iota(jnp.int8, shape, 2) + jax.lax.broadcasted_iota(jnp.int8, shape, 4)
    return (jnp.where(own == place[:, :, None, :, None], gradient[:, :, None, :, None], 0),)


_max_of.defvjp(_max_and_place_in, _gradient)
