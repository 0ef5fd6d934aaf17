"""Optimizers by name: a traced rate is a rate, options arrive, and what does not exist is named."""

import inspect

import jax
import jax.numpy as jnp
import optax
import pytest
from batchscale.config.experiment import OPTION_RANGES
from batchscale.errors import InputError
from batchscale.measure.training.optimizers import OPTIMIZERS, optimizer_named, refuse_contradictions, searchable
from tiny_workload import assert_same, experiment


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_traced_rate_is_the_same_as_a_number(name):
    params, gradient = {"w": jnp.array([[1.0, -2.0]])}, {"w": jnp.array([[0.3, 0.1]])}

    def first_update(rate):
        made = optimizer_named(name, {})(rate, 16, {})
        return made.update(gradient, made.init(params), params)[0]

    assert_same(jax.jit(first_update)(jnp.float32(0.01)), first_update(0.01), 1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_number_of_an_optimizer_has_a_range(name):
    assert searchable(name) <= OPTION_RANGES.keys()


def test_options_reach_the_optimizer():
    gradient = {"w": jnp.ones(3)}
    params = {"w": jnp.zeros(3)}
    made, expected = optimizer_named("momentum", {"momentum": 0.5})(0.1, 16, {}), optax.sgd(0.1, momentum=0.5)
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


@pytest.mark.parametrize(("name", "decay"), [("adam", "b2"), ("adamw", "b2"), ("lamb", "b2"), ("rmsprop", "decay")])
def test_a_decay_held_at_a_reference_batch_size_is_its_power_elsewhere(name, decay):
    """At four times the reference a step forgets what four steps forget there."""
    params, gradient = {"w": jnp.array([[1.0, -2.0]])}, {"w": jnp.array([[0.3, 0.1]])}

    def second_update(options, batch_size):
        made = optimizer_named(name, options)(1.0, batch_size, {})
        _, state = made.update(gradient, made.init(params), params)
        return made.update({"w": jnp.array([[-0.6, 0.1]])}, state, params)[0]

    ruled = {decay: 0.9, f"{decay}_batch_size": 16}
    assert_same(second_update(ruled, 64), second_update({decay: 0.9**4}, 64), 1e-6)
    assert_same(second_update(ruled, 16), second_update({decay: 0.9}, 16), 1e-6)
    assert_same(second_update(ruled, jnp.int32(4)), second_update({decay: 0.9**0.25}, 4), 1e-6)
    with pytest.raises(AssertionError):
        assert_same(second_update(ruled, 64), second_update({decay: 0.9}, 64), 1e-2)


def asking(name, options=None, **tables):
    workload = {"optimizer": name, "optimizer_options": options or {}}
    return experiment(workload=workload, **tables)


def test_a_decay_that_its_reference_brings_to_1_is_refused():
    refuse_contradictions(asking("adam", {"b2_batch_size": 1000}), 1)
    refuse_contradictions(asking("adam", {"b2_batch_size": 10**6}, search={"b2": [0.25, 0.5]}), 1)
    said = r"optimizer_options\.b2_batch_size: 1e\+06 brings b2 = 0.999 to 1 at batch size 1; a smaller one is right"
    for b2 in ({"search": {"b2": [0.5, 0.999]}}, {"options": {"b2": 0.999}}):
        options = {"b2_batch_size": 10**6, **b2.pop("options", {})}
        with pytest.raises(InputError, match=said):
            refuse_contradictions(asking("adam", options, **b2), 1)
    with pytest.raises(InputError, match=r"decay_batch_size: 1e\+09 brings decay = 0.9 to 1"):
        refuse_contradictions(asking("rmsprop", {"decay_batch_size": 10**9}), 16)


@pytest.mark.parametrize(
    ("options", "search", "said"),
    [
        (
            {"min_step_size": 60.0},
            {},
            r"workload\.optimizer_options\.min_step_size: 60.0 is above max_step_size = 50.0",
        ),
        ({}, {"min_step_size": [1e-6, 100.0]}, r"search\.min_step_size: 100.0 is above max_step_size = 50.0"),
        ({"min_step_size": 1.0}, {"max_step_size": [0.5, 2.0]}, r"min_step_size: 1.0 is above max_step_size = 0.5"),
    ],
)
def test_a_least_step_above_the_largest_is_refused_wherever_they_are_given(options, search, said):
    refuse_contradictions(asking("rprop", {"min_step_size": 0.1}, search={"max_step_size": [0.5, 2.0]}), 16)
    with pytest.raises(InputError, match=said):
        refuse_contradictions(asking("rprop", options, search=search), 16)


def test_a_schedule_that_the_optimizer_does_not_hear_is_refused():
    warmed = {"anchor": 0.01, "schedule": "warmup", "warmup_epochs": 1.0}
    refuse_contradictions(asking("rprop"), 16)
    refuse_contradictions(asking("sgd", learning_rate=warmed), 16)
    with pytest.raises(InputError, match=r"learning_rate\.schedule: 'warmup' moves nothing, as rprop takes"):
        refuse_contradictions(asking("rprop", learning_rate=warmed), 16)


@pytest.mark.parametrize("value", [0, -16, 1.5, float("inf"), float("nan")])
def test_a_reference_that_is_no_batch_size_is_refused(value):
    with pytest.raises(InputError, match=r"workload\.optimizer_options\.b2_batch_size: .* is no batch size; 1 to"):
        optimizer_named("adam", {"b2_batch_size": value})
    with pytest.raises(InputError, match=r"b2_batch_size: False is not a number"):
        optimizer_named("adam", {"b2_batch_size": False})
    with pytest.raises(InputError, match="b2_batch_size: sgd has only"):
        optimizer_named("sgd", {"b2_batch_size": 16})
