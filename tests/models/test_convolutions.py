"""Convolutions and pooling with strides and padding: every lowering equals Flax's own layers, gradients too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batchscale.models._layers import LOWERINGS, max_pool_overlapping
from flax import nnx
from long_proofs import long_unless
from tiny_workload import assert_same

SHAPES = [(1, 1, 0), (1, 2, 0), (3, 1, 1), (3, 2, 1), (3, 2, 0), (7, 2, 3)]
"""Sides of kernels, strides and padding: those of residual networks, and one that leaves a last row out."""


def features(channels=2):
    """Oblong, with an odd and an even side."""
    return jax.random.normal(jax.random.key(0), (3, 9, 12, channels))


@pytest.mark.parametrize(("size", "stride", "padding"), long_unless([(3, 2, 1)], SHAPES))
@pytest.mark.parametrize("name", LOWERINGS)
def test_a_lowered_convolution_equals_flax_in_values_and_gradients(name, size, stride, padding):
    lowering, around = LOWERINGS[name], ((padding, padding), (padding, padding))
    layer = nnx.Conv(2, 5, (size, size), (stride, stride), padding=around, use_bias=False, rngs=nnx.Rngs(1))
    graph, params = nnx.split(layer)

    def lowered(inputs, params):
        kernel = params["kernel"][...].transpose(3, 1, 0, 2).reshape(5, -1)
        return lowering.leave(lowering.convolve(lowering.enter(inputs), kernel, stride, padding))

    def plain(inputs, params):
        return nnx.merge(graph, params)(inputs)

    found, expected = (_values_and_gradients(function, features(), params) for function in (lowered, plain))
    assert_same(found, expected, 1e-5)


def _values_and_gradients(function, *given):
    def total(*given):
        values = function(*given)
        return (values**2).mean(), values

    return jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))(*given)


@pytest.mark.parametrize(
    ("size", "stride", "padding"), long_unless([(3, 2, 1)], [(3, 2, 1), (3, 2, 0), (2, 2, 0), (3, 1, 1)])
)
def test_an_overlapping_pool_equals_flax_in_values_and_gradients(size, stride, padding):
    """Of equal values the first, row by row, gets the gradient in both: half of these values are zero."""

    def own(inputs):
        return max_pool_overlapping(inputs, size, stride, padding)

    def plain(inputs):
        around = ((padding, padding), (padding, padding))
        return nnx.max_pool(inputs, (size, size), (stride, stride), around)

    inputs = jax.nn.relu(features())
    found = own(inputs)
    np.testing.assert_array_equal(found, plain(inputs))
    weights = jax.random.normal(jax.random.key(1), found.shape)
    gradients = [jax.jit(jax.grad(lambda x, f=function: (f(x) * weights).sum()))(inputs) for function in (own, plain)]
    assert_same(gradients[0], gradients[1], 1e-6)


@pytest.mark.parametrize("place", [(0, 0), (1, 1), (2, 2)])
def test_a_pool_keeps_nan(place):
    inputs = jnp.zeros((1, 3, 3, 1)).at[0, *place, 0].set(jnp.nan)
    assert jnp.isnan(max_pool_overlapping(inputs, 3, 2, 0)).all()
