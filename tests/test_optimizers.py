"""Optimizers by name: a traced rate is a rate, options arrive, and what does not exist is named."""

import inspect

import jax
import jax.numpy as jnp
import optax
import pytest
from workbench import assert_same

from bench.errors import InputError
from bench.measure.optimizers import OPTIMIZERS, optimizer_named


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
