"""The training step: mean gradients, and whole-split evaluation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batchscale.measure.training.learner import take
from tiny_workload import assert_same, held_out_split, learner, train_split


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
