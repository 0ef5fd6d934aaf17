"""The training step: mean gradients, and whole-split evaluation."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batchscale.errors import InputError
from batchscale.measure.data.arrays import SPLITS
from batchscale.measure.data.datasets import Examples
from batchscale.measure.training.learner import take
from batchscale.measure.training.tasks import language_model
from tiny_workload import assert_same, held_out_split, learner, text, train_split


def test_the_gradient_of_a_batch_is_the_mean_of_its_examples():
    one, split = learner("mlp"), train_split()
    params = one.params(1)
    loss, whole = one.gradient(params, take(split, np.arange(8)))
    alone = jax.jit(one.gradient)
    singles = [alone(params, take(split, np.array([i]))) for i in range(8)]
    assert_same(whole, jax.tree.map(lambda *leaves: sum(leaves) / 8, *[gradient for _, gradient in singles]), 1e-6)
    assert float(loss) == pytest.approx(sum(float(value) for value, _ in singles) / 8, rel=1e-6)


def test_scores_are_correct_examples_and_cross_entropies():
    one, split = learner("linear"), held_out_split()
    params = one.params(1)
    scores = one.scores(params, split)
    logits = np.asarray(one.outputs(params, split.inputs), np.float64)
    labels = np.asarray(split.labels)
    np.testing.assert_array_equal(scores["accuracy"], logits.argmax(1) == labels)
    expected = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels]
    assert np.asarray(scores["loss"]) == pytest.approx(expected, rel=1e-4)


def test_logits_that_are_not_finite_are_never_correct():
    one, split = learner("linear"), held_out_split()
    broken = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), one.params(1))
    scores = one.scores(broken, split)
    assert not np.any(scores["accuracy"])
    assert not np.isfinite(np.asarray(scores["loss"])).any()


def test_a_step_of_sgd_is_minus_rate_times_gradient():
    one, split = learner("linear", "sgd"), train_split()
    state = one.first_state(one.params(1), 0.5)
    _, gradient = one.gradient(state.params, take(split, np.arange(8)))
    stepped, loss = one.train_step(state, take(split, np.arange(8)), 0.5)
    assert_same(stepped.params, jax.tree.map(lambda p, g: p - 0.5 * g, state.params, gradient), 1e-6)
    assert np.isfinite(float(loss))


@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.int64, np.uint16])
def test_a_language_model_takes_tokens_of_every_integer_type(kind):
    of = text()
    splits = {name: Examples(*(part.astype(kind) for part in getattr(of, name))) for name in SPLITS}
    language_model.Task().check(replace(of, **splits))


@pytest.mark.parametrize(("token", "kind"), [(256, np.int32), (-1, np.int32), (300, np.int64)])
@pytest.mark.parametrize("split", SPLITS)
def test_a_language_model_refuses_tokens_that_its_outputs_have_no_place_for(split, token, kind):
    of = text()
    inputs, labels = getattr(of, split)
    broken = labels.astype(kind)
    broken[-1, -1] = token
    with pytest.raises(InputError, match=f"language_model of markov: token {token}, expected 0 to 255"):
        language_model.Task().check(replace(of, **{split: Examples(inputs, broken)}))


def test_a_language_model_refuses_what_are_no_tokens():
    of = text()
    real = replace(of, train=Examples(of.train.inputs.astype(np.float32), of.train.labels))
    with pytest.raises(
        InputError, match=r"type float32, labels .* type uint8, expected whole numbers \[example, token"
    ):
        language_model.Task().check(real)
