"""Models: every lowering is the same function, no example sees another, and precision is as asked for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batchscale.measure.training.learner import model_names, take
from batchscale.models._layers import LOWERINGS
from flax import nnx
from jax.extend.core import jaxprs_in_params
from long_proofs import long_unless
from tiny_workload import MODEL_OPTIONS, assert_same, learner, train_split

BATCH = 6
OF_IMAGES = [name for name in MODEL_OPTIONS if name != "decoder"]
"""The decoder reads text; test_decoder.py tests it."""


def inputs_and_labels():
    split = train_split()
    return take(split, np.arange(BATCH))


def test_every_model_is_tested():
    shipped = [name for name in MODEL_OPTIONS if ":" not in name]
    assert sorted(shipped) == model_names()


@pytest.mark.parametrize("lowering", long_unless(["patches"], [name for name in LOWERINGS if name != "xla"]))
def test_lowerings_agree_in_values_and_gradients(lowering):
    batch = inputs_and_labels()
    inputs = batch.inputs
    reference, lowered = learner("lenet", lowering="xla"), learner("lenet", lowering=lowering)
    params = reference.params(3)
    assert_same(lowered.params(3), params)
    assert_same(jax.jit(lowered.outputs)(params, inputs), jax.jit(reference.outputs)(params, inputs), 1e-5)
    assert_same(jax.jit(lowered.gradient)(params, batch), jax.jit(reference.gradient)(params, batch), 1e-5)


@pytest.mark.parametrize("name", [name for name in LOWERINGS if name != "xla"])
def test_lowerings_agree_on_oblong_features_of_several_channels(name):
    lowering, reference = LOWERINGS[name], LOWERINGS["xla"]
    features = jax.random.normal(jax.random.key(0), (3, 9, 13, 2))
    kernel = jax.random.normal(jax.random.key(1), (5, 4 * 4 * 2))

    def total(lowering, features, kernel):
        found = lowering.leave(lowering.pool(lowering.enter(features), kernel))
        return jnp.sum(found**2)

    gradient = jax.jit(jax.grad(total, argnums=(1, 2)), static_argnums=0)
    gradients = [gradient(one, features, kernel) for one in (lowering, reference)]
    assert_same(gradients[0], gradients[1], 1e-4)


@pytest.mark.parametrize("name", LOWERINGS)
def test_a_row_of_a_kernel_is_a_filter_by_columns_then_rows_then_channels(name):
    lowering, layer = LOWERINGS[name], nnx.Conv(2, 5, (4, 4), padding="VALID", use_bias=False, rngs=nnx.Rngs(1))
    features = jax.random.normal(jax.random.key(0), (3, 9, 13, 2))
    kernel = layer.kernel[...].transpose(3, 1, 0, 2).reshape(5, -1)
    found = jax.jit(lambda features, kernel: lowering.leave(lowering.pool(lowering.enter(features), kernel)))
    assert_same(found(features, kernel), nnx.max_pool(layer(features), (2, 2), strides=(2, 2)), 1e-5)


@pytest.mark.parametrize("name", LOWERINGS)
def test_float32_means_all_bits_in_every_product_of_a_step(name):
    one, batch = learner("lenet", lowering=name), inputs_and_labels()
    products = _products(jax.make_jaxpr(one.gradient)(one.params(1), batch).jaxpr)
    assert len(products) >= 10
    assert all(product.params["precision"] == (jax.lax.Precision.HIGHEST,) * 2 for product in products)


def _products(jaxpr):
    inner = [each for equation in jaxpr.eqns for each in jaxprs_in_params(equation.params)]
    own = [one for one in jaxpr.eqns if one.primitive.name in ("dot_general", "conv_general_dilated")]
    return own + [product for each in inner for product in _products(each)]


@pytest.mark.parametrize("name", LOWERINGS)
def test_a_pool_of_equal_values_gives_its_gradient_to_the_first(name):
    """As in XLA's own window reduction; the first place of a window is at an even row and column."""
    lowering, images = LOWERINGS[name], jax.random.uniform(jax.random.key(0), (2, 9, 9, 1))
    gradient = jax.jit(jax.grad(lambda kernel: lowering.pool_images(lowering.enter(images), kernel).sum()))
    found, images = gradient(jnp.zeros((4, 3 * 3))), np.asarray(images)
    first = [images[:, i : i + 6 : 2, j : j + 6 : 2].sum() for j in range(3) for i in range(3)]
    np.testing.assert_allclose(found[0], np.array(first), rtol=1e-5)


@pytest.mark.parametrize("model", long_unless(["lenet"], OF_IMAGES))
def test_the_logits_of_an_example_depend_on_no_other(model):
    one, (inputs, _) = learner(model), inputs_and_labels()
    params = jax.device_put(one.params(1))
    jacobian = jax.jit(jax.jacrev(lambda batch: one.outputs(params, batch)))(inputs)
    influence = np.asarray(jnp.abs(jacobian).sum(axis=(1, 3, 4, 5)))
    assert np.all(np.diag(influence) > 0)
    np.testing.assert_array_equal(influence - np.diag(np.diag(influence)), 0)


@pytest.mark.parametrize("model", long_unless(["lenet"], OF_IMAGES))
def test_precision_decides_the_products_and_never_the_parameters(model):
    inputs, _ = inputs_and_labels()
    for precision, products in (("float32", "f32"), ("bfloat16", "bf16")):
        one = learner(model, precision=precision)
        params = one.params(1)
        assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
        logits = jax.eval_shape(one.outputs, params, inputs)
        assert logits.dtype == jnp.float32
        assert logits.shape == (BATCH, 10)
        lines = str(jax.make_jaxpr(one.outputs)(params, inputs)).splitlines()
        made = [
            line.split(" = ")[0] for line in lines if " = dot_general[" in line or " = conv_general_dilated[" in line
        ]
        assert made
        assert all(f":{products}[" in line for line in made)


def test_bfloat16_is_near_and_float32_nearer():
    inputs, _ = inputs_and_labels()
    params = learner("mlp").params(1)
    exact = jax.jit(learner("mlp").outputs)(params, inputs)
    rough = jax.jit(learner("mlp", precision="bfloat16").outputs)(params, inputs)
    difference = float(jnp.abs(exact - rough).max())
    assert 1e-6 < difference < 0.05 * float(jnp.abs(exact).max())


@pytest.mark.parametrize("model", OF_IMAGES)
def test_fresh_parameters_are_a_function_of_the_seed(model):
    one = learner(model)
    assert_same(one.params(7), one.params(7))
    with pytest.raises(AssertionError):
        assert_same(one.params(7), one.params(8), 1e-3)
