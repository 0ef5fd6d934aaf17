"""Dropout: what an example is masked with follows from the run's seed and the example's number alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batchscale.config.experiment import Workload
from batchscale.measure.training import flop_count, random_streams
from batchscale.measure.training.learner import make_learner
from flax import nnx
from long_proofs import long_unless
from tiny_workload import MODEL_OPTIONS, assert_same, digits, learner, take, train_split

DROPPING = "tiny_workload:Dropping"
STACKED = """
import jax.numpy as jnp
from flax import nnx
class Model(nnx.Module):
    def __init__(self, input_shape, classes, *, rngs, dtype=jnp.float32):
        layer = nnx.split_rngs(splits=3)(nnx.vmap(lambda rngs: nnx.Dropout(0.5, rngs=rngs)))
        self.layers, self.last = layer(rngs), nnx.Linear(64, classes, use_bias=False, rngs=rngs)
    def __call__(self, inputs):
        masks = nnx.vmap(lambda layer, ones: layer(ones), in_axes=(0, None))(self.layers, jnp.ones(64))
        return self.last(inputs.reshape(len(inputs), -1) * masks.prod(0))
"""


def trained_outputs(one, seed, numbers, examples=None):
    """The outputs of the same parameters, with the masks of a run's examples."""
    inputs = train_split().inputs[np.asarray(numbers if examples is None else examples)]
    return np.asarray(jax.jit(one.training_outputs)(one.params(0), inputs, one.keys(seed, np.uint32(numbers))))


def test_masks_are_a_function_of_seed_and_number():
    one = learner(DROPPING)
    whole = trained_outputs(one, 7, [4, 5, 6, 7, 8])
    np.testing.assert_allclose(trained_outputs(one, 7, [8, 5]), whole[[4, 1]], rtol=1e-5, atol=1e-6)
    same_examples = [0] * 50
    drawn = np.concatenate([trained_outputs(one, seed, np.arange(50), same_examples) for seed in (7, 8)])
    assert len(np.unique(drawn.round(5), axis=0)) == 100, "each example of each run has its own masks"


def test_every_layer_draws_its_own_mask_and_keeps_the_share_that_it_should():
    """The outputs of ones through Dropout are the mask itself: kept numbers are 1 / (1 - rate)."""
    one = learner(DROPPING, model_options=(("width", 64), ("rate", 0.5)))
    keys = random_streams.example_keys(3, np.arange(400, dtype=np.uint32))

    def masks(key):
        made = nnx.merge(one.train_graph, one.params(0), random_streams.at_example(one.streams, key))
        return made.of_inputs(jnp.ones(64)), made.of_features(jnp.ones(64))

    inputs, features = jax.jit(jax.vmap(masks))(keys)
    for mask, rate in ((inputs, 0.25), (features, 0.5)):
        np.testing.assert_allclose(np.unique(mask), [0, 1 / (1 - rate)], rtol=1e-6)
        # Five standard deviations of a mean of 25,600 draws.
        assert float((mask > 0).mean()) == pytest.approx(1 - rate, abs=5 * (rate * (1 - rate) / mask.size) ** 0.5)
    agree = float(((inputs > 0) == (features > 0)).mean())
    assert agree == pytest.approx(0.75 * 0.5 + 0.25 * 0.5, abs=0.016), "independent of each other"


def test_an_evaluation_draws_nothing():
    one, without = learner(DROPPING), learner(DROPPING, model_options=(("rate", None),))
    inputs, params = train_split().inputs[:5], one.params(1)
    assert "random_bits" not in str(jax.make_jaxpr(one.outputs)(params, inputs))
    np.testing.assert_array_equal(one.outputs(params, inputs), without.outputs(params, inputs))


def test_rate_zero_is_the_model_without_dropout():
    none, without = (learner(DROPPING, model_options=(("rate", rate),)) for rate in (0.0, None))
    assert none.draws
    assert not without.draws
    batch, keys = take(train_split(), np.arange(6)), none.keys(1, np.arange(6, dtype=np.uint32))
    assert_same(none.params(1), without.params(1))
    found, expected = (jax.jit(one.gradient) for one in (none, without))
    assert_same(found(none.params(1), batch, keys), expected(none.params(1), batch), 1e-6)


def test_layers_that_are_stacked_draw_one_by_one(tmp_path):
    (tmp_path / "mine.py").write_text(STACKED)
    workload = Workload(dataset="digits", model="mine.py:Model", optimizer="sgd")
    one = make_learner(workload, digits(), folder=tmp_path)
    outputs = trained_outputs(one, 1, np.arange(40), [0] * 40)
    # Of 64 inputs, each of three masks keeps half, so about 8 are kept: no two examples keep the same.
    assert len(np.unique(outputs.round(4), axis=0)) == 40
    whole = np.asarray(one.outputs(one.params(0), train_split().inputs[:1]))
    np.testing.assert_array_equal(whole, np.asarray(one.outputs(one.params(0), train_split().inputs[:1])))


def test_drawing_adds_no_arithmetic_to_the_count():
    counts = [
        flop_count.flops_per_example(learner(DROPPING, model_options=(("rate", rate),)), 4, train_split())
        for rate in (0.5, None)
    ]
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("model", long_unless(["mlp"], [name for name in MODEL_OPTIONS if ":" not in name]))
def test_models_that_come_with_the_package_train_by_the_graph_that_is_evaluated(model):
    one = learner(model)
    assert not one.draws
    assert one.graph == one.train_graph
