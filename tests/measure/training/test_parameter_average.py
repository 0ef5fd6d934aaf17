"""Averages of the parameters: a weighted mean of what training passed through, which training does not notice."""

import jax
import msgspec
import numpy as np
import pytest
from batchscale.measure.control.signals import Stopped
from batchscale.measure.training import parameter_average
from tiny_workload import (
    SEEDS,
    Bench,
    assert_same,
    grid_of,
    held_out_split,
    lane,
    learner,
    programs,
    settings,
    train,
    train_alone,
)

HORIZON = 150.0
ROUNDING = 1e-5


def weighted_mean(trees, weights):
    return jax.tree.map(lambda *leaves: np.average(leaves, axis=0, weights=weights), *trees)


def expected(one, batch_size, rate, examples, stride):
    """The samples of a run alone, each forgotten exponentially over the examples since."""
    ends = range(stride, examples + 1, stride)
    states = [train_alone(one, SEEDS[1], batch_size, rate, end).params for end in ends]
    return weighted_mean(states, [np.exp((end - examples) / HORIZON) for end in ends])


@pytest.mark.parametrize("accumulates", [True, False])
def test_a_lane_is_the_weighted_mean_of_the_parameters_of_the_run_alone(accumulates):
    one, sizes = learner("linear", "momentum"), [20, 100] if accumulates else [20, 20]
    of = programs(one, 20, accumulates=accumulates, averaging_examples=HORIZON)
    lanes = train(of, SEEDS, settings(sizes, [0.05, 0.02]), 200)
    for column, (size, rate) in enumerate(zip(sizes, [0.05, 0.02], strict=True)):
        assert_same(lane(lanes.average, 1, column), expected(one, size, rate, 200, size), ROUNDING)


def test_samples_are_no_denser_than_worth_it_and_fall_on_whole_batches(monkeypatch):
    monkeypatch.setattr(parameter_average, "SAMPLES", 3)
    one = learner("linear", "momentum")
    lanes = train(
        programs(one, 5, averaging_examples=HORIZON, longest_segment=40), SEEDS, settings([20, 5], [0.05] * 2), 200
    )
    assert_same(lane(lanes.average, 1, 0), expected(one, 20, 0.05, 200, 40), ROUNDING)
    assert_same(lane(lanes.average, 1, 1), expected(one, 5, 0.05, 200, 50), ROUNDING)


def test_averaging_changes_no_bit_of_training_and_no_chunk_a_bit_of_averages():
    one, values = learner("mlp", "adam"), settings([5, 10, 40], [0.01, 0.02, 0.03])
    without = train(programs(one, 5), SEEDS, values, 300)
    averaged = train(programs(one, 5, averaging_examples=HORIZON), SEEDS, values, 300)
    assert_same(averaged.state, without.state)
    assert_same(train(programs(one, 5, longest_segment=7, averaging_examples=HORIZON), SEEDS, values, 300), averaged)


def test_a_horizon_of_next_to_nothing_is_the_parameters_themselves():
    of = programs(learner("linear", "momentum"), 5, averaging_examples=1e-3)
    lanes = train(of, SEEDS, settings([5, 20], [0.05, 0.02]), 200)
    assert_same(lanes.average, lanes.state.params, ROUNDING)


def test_curves_hold_the_accuracy_of_the_average_through_compaction_and_interruption(tmp_path):
    made = {"settings": grid_of("confirm"), "shapes": ((2, 6), (2, 3)), "averaging_examples": HORIZON}
    whole = Bench(tmp_path / "whole", **made).run().records
    bench = Bench(tmp_path / "parts", **made)
    with pytest.raises(Stopped):
        bench.run(stop_after=3)
    assert msgspec.to_builtins(bench.run().records) == msgspec.to_builtins(whole)
    assert all(len(record.curve.ema_accuracy) == len(record.curve.accuracy) for record in whole)
    (record,) = [
        one for one in whole if (one.setting.batch_size, one.setting.point.learning_rate, one.seed) == (50, 0.05, 2)
    ]
    params = expected(learner("linear", "momentum"), 50, 0.05, 200, 50)
    correct, _ = learner("linear", "momentum").evaluate(params, *held_out_split())
    assert record.curve.ema_accuracy[1] == pytest.approx(int(correct) / 60, abs=1.01 / 60)
    assert [one.curve.accuracy for one in whole] == [
        one.curve.accuracy for one in Bench(tmp_path, settings=grid_of("confirm"), shapes=made["shapes"]).run().records
    ]
