"""Optimizers, schedules and averages of the parameters: closed forms, traced values, and clear refusals."""

import inspect

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import optax
import pytest
from batchscale.config.experiment import OPTION_RANGES
from batchscale.errors import InputError
from batchscale.measure.control.signals import Stopped
from batchscale.measure.training import optimizers
from batchscale.measure.training.optimizers import (
    OPTIMIZERS,
    Schedule,
    optimizer_named,
    refuse_contradictions,
    searchable,
)
from hypothesis import given
from hypothesis import strategies as st
from long_proofs import long_unless
from tiny_workload import (
    SEEDS,
    Bench,
    assert_same,
    experiment,
    grid_of,
    held_out_split,
    lane,
    learner,
    programs,
    settings,
    train,
    train_alone,
)


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
    with pytest.raises(InputError, match=r"workload\.optimizer: 'sdg', expected one of sgd, momentum"):
        optimizer_named("sdg", {})
    with pytest.raises(
        InputError,
        match=r"workload\.optimizer_options\.beta: not an option of momentum, expected one of momentum, nesterov",
    ):
        optimizer_named("momentum", {"beta": 0.9})
    with pytest.raises(InputError, match="learning_rate: not an option of sgd, expected one of"):
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
    said = r"optimizer_options\.b2_batch_size: 1e\+06 rounds b2 = 0.999 to 1 at batch size 1; expected a smaller one"
    for b2 in ({"search": {"b2": [0.5, 0.999]}}, {"options": {"b2": 0.999}}):
        options = {"b2_batch_size": 10**6, **b2.pop("options", {})}
        with pytest.raises(InputError, match=said):
            refuse_contradictions(asking("adam", options, **b2), 1)
    with pytest.raises(InputError, match=r"decay_batch_size: 1e\+09 rounds decay = 0.9 to 1"):
        refuse_contradictions(asking("rmsprop", {"decay_batch_size": 10**9}), 16)


@pytest.mark.parametrize(
    ("options", "search", "said"),
    [
        (
            {"min_step_size": 60.0},
            {},
            r"workload\.optimizer_options\.min_step_size: 60.0, expected at most max_step_size = 50.0",
        ),
        ({}, {"min_step_size": [1e-6, 100.0]}, r"search\.min_step_size: 100.0, expected at most max_step_size = 50.0"),
        (
            {"min_step_size": 1.0},
            {"max_step_size": [0.5, 2.0]},
            r"min_step_size: 1.0, expected at most max_step_size = 0.5",
        ),
    ],
)
def test_a_least_step_above_the_largest_is_refused_wherever_they_are_given(options, search, said):
    refuse_contradictions(asking("rprop", {"min_step_size": 0.1}, search={"max_step_size": [0.5, 2.0]}), 16)
    with pytest.raises(InputError, match=said):
        refuse_contradictions(asking("rprop", options, search=search), 16)


def test_a_schedule_that_the_optimizer_ignores_is_refused():
    warmed = {"anchor": 0.01, "schedule": "warmup", "warmup_epochs": 1.0}
    refuse_contradictions(asking("rprop"), 16)
    refuse_contradictions(asking("sgd", learning_rate=warmed), 16)
    with pytest.raises(InputError, match=r"learning_rate\.schedule: 'warmup' has no effect on rprop, which takes"):
        refuse_contradictions(asking("rprop", learning_rate=warmed), 16)


@pytest.mark.parametrize("value", [0, -16, 1.5, float("inf"), float("nan")])
def test_a_reference_that_is_not_a_batch_size_is_refused(value):
    with pytest.raises(
        InputError, match=r"workload\.optimizer_options\.b2_batch_size: .*, expected a batch size from 1 to"
    ):
        optimizer_named("adam", {"b2_batch_size": value})
    with pytest.raises(InputError, match=r"b2_batch_size: False, expected a number"):
        optimizer_named("adam", {"b2_batch_size": False})
    with pytest.raises(InputError, match="b2_batch_size: not an option of sgd"):
        optimizer_named("sgd", {"b2_batch_size": 16})


SCHEDULES = ["constant", "warmup", "warmup_cosine", "linear_decay"]


def factors(schedule, examples):
    return np.asarray(schedule.factor(jnp.asarray(examples, jnp.float32)))


@pytest.mark.parametrize("name", SCHEDULES)
@given(warmup=st.floats(0, 1e4), total=st.floats(1, 1e5))
def test_a_factor_is_a_share_from_the_first_example_past_the_last(name, warmup, total):
    found = factors(Schedule(name, warmup, total), np.linspace(0, 2 * total, 9))
    assert np.all((found >= 0) & (found <= 1 + 1e-6))


def test_closed_forms():
    at = [0.0, 99.0, 100.0, 350.0, 600.0, 900.0]
    np.testing.assert_allclose(factors(Schedule("constant", 100.0, 600.0), at), 1)
    warm = [1 / 101, 100 / 101]
    np.testing.assert_allclose(factors(Schedule("warmup", 100.0, 600.0), at), [*warm, 1, 1, 1, 1], rtol=1e-6)
    cosine = factors(Schedule("warmup_cosine", 100.0, 600.0), at)
    np.testing.assert_allclose(cosine, [*warm, 1, 0.5, 0, 0], atol=1e-6)
    np.testing.assert_allclose(
        factors(Schedule("linear_decay", 0.0, 600.0), at), [1, 501 / 600, 5 / 6, 250 / 600, 0, 0], atol=1e-6
    )


def test_no_warm_up_starts_at_the_full_rate():
    assert factors(Schedule("warmup", 0.0, 600.0), 0.0) == 1
    assert not Schedule("linear_decay", 100.0, 600.0).warms_up


HORIZON = 150.0
ROUNDING = 1e-5


def weighted_mean(trees, weights):
    return jax.tree.map(lambda *leaves: np.average(leaves, axis=0, weights=weights), *trees)


def average_alone(one, batch_size, rate, examples, stride):
    """The samples of a run alone, each forgotten exponentially over the examples since."""
    ends = range(stride, examples + 1, stride)
    states = [train_alone(one, SEEDS[1], batch_size, rate, end).params for end in ends]
    return weighted_mean(states, [np.exp((end - examples) / HORIZON) for end in ends])


@pytest.mark.parametrize("accumulates", long_unless([True], [True, False]))
def test_a_lane_is_the_weighted_mean_of_the_parameters_of_the_run_alone(accumulates):
    one, sizes = learner("linear", "momentum"), [20, 100] if accumulates else [20, 20]
    of = programs(one, 20, accumulates=accumulates, averaging_examples=HORIZON)
    lanes = train(of, SEEDS, settings(sizes, [0.05, 0.02]), 200)
    for column, (size, rate) in enumerate(zip(sizes, [0.05, 0.02], strict=True)):
        assert_same(lane(lanes.average, 1, column), average_alone(one, size, rate, 200, size), ROUNDING)


def test_samples_are_no_denser_than_worth_it_and_fall_on_whole_batches(monkeypatch):
    monkeypatch.setattr(optimizers, "MOST_AVERAGED_SAMPLES", 3)
    one = learner("linear", "momentum")
    lanes = train(
        programs(one, 5, averaging_examples=HORIZON, ticks_per_call=40), SEEDS, settings([20, 5], [0.05] * 2), 200
    )
    assert_same(lane(lanes.average, 1, 0), average_alone(one, 20, 0.05, 200, 40), ROUNDING)
    assert_same(lane(lanes.average, 1, 1), average_alone(one, 5, 0.05, 200, 50), ROUNDING)


@pytest.mark.slow
def test_averaging_changes_no_bit_of_training_and_no_chunk_a_bit_of_averages():
    one, values = learner("mlp", "adam"), settings([5, 10, 40], [0.01, 0.02, 0.03])
    without = train(programs(one, 5), SEEDS, values, 300)
    averaged = train(programs(one, 5, averaging_examples=HORIZON), SEEDS, values, 300)
    assert_same(averaged.state, without.state)
    assert_same(train(programs(one, 5, ticks_per_call=7, averaging_examples=HORIZON), SEEDS, values, 300), averaged)


def test_a_horizon_of_next_to_nothing_is_the_parameters_themselves():
    of = programs(learner("linear", "momentum"), 5, averaging_examples=1e-3)
    lanes = train(of, SEEDS, settings([5, 20], [0.05, 0.02]), 200)
    assert_same(lanes.average, lanes.state.params, ROUNDING)


@pytest.mark.slow
def test_curves_hold_the_accuracy_of_the_average_through_compaction_and_interruption(tmp_path):
    made = {"settings": grid_of("confirm"), "shapes": ((2, 6), (2, 3)), "averaging_examples": HORIZON}
    whole = Bench(tmp_path / "whole", **made).run().records
    bench = Bench(tmp_path / "parts", **made)
    with pytest.raises(Stopped):
        bench.run(stop_after=3)
    assert msgspec.to_builtins(bench.run().records) == msgspec.to_builtins(whole)
    assert all(
        len(record.curve.averaged_scores["accuracy"]) == len(record.curve.scores["accuracy"]) for record in whole
    )
    (record,) = [
        one for one in whole if (one.setting.batch_size, one.setting.point.learning_rate, one.seed) == (50, 0.05, 2)
    ]
    params = average_alone(learner("linear", "momentum"), 50, 0.05, 200, 50)
    alone = learner("linear", "momentum").scores(params, held_out_split())
    assert record.curve.averaged_scores["accuracy"][1] == pytest.approx(
        float(np.mean(alone["accuracy"])), abs=1.01 / 60
    )
    assert [one.curve.scores["accuracy"] for one in whole] == [
        one.curve.scores["accuracy"]
        for one in Bench(tmp_path, settings=grid_of("confirm"), shapes=made["shapes"]).run().records
    ]
