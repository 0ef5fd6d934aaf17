"""The vision transformer: parameters and FLOPs of closed forms, patches in order, and wrong options in one line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batchscale.config.experiment import Workload
from batchscale.errors import InputError
from batchscale.measure.training import flop_count
from batchscale.measure.training.learner import make_learner
from batchscale.models.vit import Model, _patches
from flax import nnx
from tiny_workload import assert_same, learner, shaped, train_split

PATCH, WIDTH, HIDDEN, CLASSES = 4, 8, 24, 10
OPTIONS = {"patch": PATCH, "width": WIDTH, "depth": 2, "heads": 2, "ratio": 3.0}
SHAPE = (8, 12, 3)
TOKENS, PIXELS = 2 * 3, PATCH * PATCH * 3


def made(shape=SHAPE, **options):
    workload = Workload(dataset="digits", model="vit", model_options=OPTIONS | options, optimizer="adamw")
    return make_learner(workload, shaped(shape, CLASSES))


@pytest.mark.parametrize("depth", [1, 3])
def test_parameters_are_as_many_as_in_the_closed_form(depth):
    block = 4 * WIDTH**2 + 4 * WIDTH + 2 * WIDTH * HIDDEN + HIDDEN + WIDTH + 4 * WIDTH
    expected = (PIXELS + 1 + TOKENS) * WIDTH + depth * block + 2 * WIDTH + (WIDTH + 1) * CLASSES
    assert sum(leaf.size for leaf in jax.tree.leaves(made(depth=depth).abstract_params())) == expected


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("depth", [1, 3])
def test_flops_are_as_many_as_in_the_closed_form(depth, remat):
    """The embedding of patches needs no gradient of its inputs. Activations that are computed again count once."""
    block = 4 * WIDTH**2 + 2 * WIDTH * HIDDEN + 2 * TOKENS * WIDTH
    expected = 2 * 2 * TOKENS * PIXELS * WIDTH + 2 * 3 * (TOKENS * depth * block + WIDTH * CLASSES)
    example = shaped(SHAPE, CLASSES).train
    assert flop_count.flops_per_example(made(depth=depth, remat=remat), 4, example) == expected


@pytest.mark.parametrize(("width", "heads", "published"), [(192, 3, 5_717_416), (384, 6, 22_050_664)])
def test_tiny_and_small_have_their_published_parameters(width, heads, published):
    """Those of Touvron et al. 2021 (timm's deit_tiny and deit_small), but for the class token and its position."""
    options = {"patch": 16, "width": width, "depth": 12, "heads": heads}
    made = nnx.eval_shape(lambda: Model((224, 224, 3), 1000, rngs=nnx.Rngs(0), dtype=jnp.dtype("float32"), **options))
    found = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(made, nnx.Param)))
    assert found == published - 2 * width


def test_patches_are_cut_row_by_row():
    images = jnp.arange(2 * 8 * 12 * 3, dtype=jnp.float32).reshape(2, 8, 12, 3)
    found = _patches(images, PATCH)
    assert found.shape == (PIXELS, 2, TOKENS)
    for token in range(TOKENS):
        row, column = PATCH * (token // 3), PATCH * (token % 3)
        expected = images[:, row : row + PATCH, column : column + PATCH].reshape(2, -1)
        np.testing.assert_array_equal(found[:, :, token], expected.T)


@pytest.mark.slow
def test_every_patch_and_its_place_matter():
    one, images = learner("vit"), train_split().inputs[:1]
    logits, params = jax.jit(one.outputs), one.params(1)
    turned = jnp.roll(images, PATCH, axis=2)
    assert float(jnp.abs(logits(params, images) - logits(params, turned)).max()) > 1e-5
    slopes = jnp.abs(jax.jit(jax.grad(lambda x: (one.outputs(params, x) ** 2).sum()))(images)).sum((0, 3))
    assert (slopes > 0).all()


@pytest.mark.slow
def test_the_mapped_gradient_is_the_gradient():
    one, split = learner("vit"), train_split(6)
    of_seeds = [one.params(1), one.params(2)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *of_seeds)
    mapped = jax.jit(jax.vmap(one.gradient, in_axes=(0, None)))(stacked, split)
    alone = jax.jit(one.gradient)
    for lane, params in enumerate(of_seeds):
        found = jax.tree.map(lambda leaf, lane=lane: leaf[lane], mapped)
        assert_same(found, alone(params, split), 1e-5)


REFUSED = {
    r"patch = 5 does not divide inputs of shape \(8, 12, 3\)": {"patch": 5},
    r"patch = 0 does not divide inputs": {"patch": 0},
    "width = 8 is not divisible by heads = 3": {"heads": 3},
}


@pytest.mark.parametrize("message", REFUSED)
def test_wrong_options_are_refused_in_one_line(message):
    with pytest.raises(InputError, match=message) as refused:
        made(**REFUSED[message])
    assert "\n" not in str(refused.value)


def test_flat_inputs_are_refused():
    with pytest.raises(InputError, match=r"patch = 4 does not divide inputs of shape \(64,\), expected"):
        made(shape=(64,))
