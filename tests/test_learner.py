"""The training step: mean gradients, whole-split evaluation, and updates that optax defines."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from workbench import assert_same, held_out_split, learner, train_split

from bench.errors import InputError
from bench.measure.optimizers import OPTIMIZERS, optimizer_named


def test_the_gradient_of_a_batch_is_the_mean_of_its_examples():
    one, split = learner("mlp"), train_split()
    params = one.params(1)
    loss, whole = one.gradient(params, split.inputs[:8], split.labels[:8])
    alone = jax.jit(one.gradient)
    singles = [alone(params, split.inputs[i : i + 1], split.labels[i : i + 1]) for i in range(8)]
    assert_same(whole, jax.tree.map(lambda *leaves: sum(leaves) / 8, *[gradient for _, gradient in singles]), 1e-6)
    assert float(loss) == pytest.approx(sum(float(value) for value, _ in singles) / 8, rel=1e-6)


def test_evaluation_counts_what_is_right_and_sums_cross_entropies():
    one, split = learner("linear"), held_out_split()
    params = one.params(1)
    correct, loss = one.evaluate(params, *split)
    logits = np.asarray(one.logits(params, split.inputs), np.float64)
    labels = np.asarray(split.labels)
    assert int(correct) == int((logits.argmax(1) == labels).sum())
    expected = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels]
    assert float(loss) == pytest.approx(expected.sum(), rel=1e-5)


def test_what_is_not_finite_is_never_right():
    one, split = learner("linear"), held_out_split()
    broken = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), one.params(1))
    correct, loss = one.evaluate(broken, *split)
    assert int(correct) == 0
    assert not np.isfinite(float(loss))


def test_a_step_of_sgd_is_minus_rate_times_gradient():
    one, split = learner("linear", "sgd"), train_split()
    state = one.first_state(one.params(1), 0.5)
    _, gradient = one.gradient(state.params, split.inputs[:8], split.labels[:8])
    stepped, loss = one.train_step(state, split.inputs[:8], split.labels[:8], 0.5)
    assert_same(stepped.params, jax.tree.map(lambda p, g: p - 0.5 * g, state.params, gradient), 1e-6)
    assert np.isfinite(float(loss))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_traced_rate_is_the_same_as_a_number(name):
    params, gradient = {"w": jnp.array([[1.0, -2.0]])}, {"w": jnp.array([[0.3, 0.1]])}

    def first_update(rate):
        made = optimizer_named(name, {})(rate)
        return made.update(gradient, made.init(params), params)[0]

    assert_same(jax.jit(first_update)(jnp.float32(0.01)), first_update(0.01), 1e-6)


def test_options_reach_the_optimizer():
    gradient = {"w": jnp.ones(3)}
    params = {"w": jnp.zeros(3)}
    made, expected = optimizer_named("momentum", {"momentum": 0.5})(0.1), optax.sgd(0.1, momentum=0.5)
    states = [one.init(params) for one in (made, expected)]
    for _ in range(3):
        (update, states[0]), (other, states[1]) = made.update(gradient, states[0]), expected.update(gradient, states[1])
    assert_same(update, other)


def test_unknown_optimizers_and_options_are_named():
    with pytest.raises(InputError, match=r"workload\.optimizer: 'sdg' is not one of sgd, momentum"):
        optimizer_named("sdg", {})
    with pytest.raises(InputError, match=r"workload\.optimizer_options\.beta: momentum has only .*momentum"):
        optimizer_named("momentum", {"beta": 0.9})
    with pytest.raises(InputError, match="learning_rate: sgd has only"):
        optimizer_named("sgd", {"learning_rate": 1.0})
    assert all("learning_rate" in inspect.signature(make).parameters for make in OPTIMIZERS.values())
