"""Dropout in lanes: the masks of a lane are those of the run alone, and no cut of the work changes them."""

import jax
import numpy as np
import pytest
from batchscale.measure.control.signals import Stopped
from long_proofs import long_unless
from tiny_workload import (
    TRAIN_EXAMPLES,
    Bench,
    assert_same,
    grid_of,
    lane,
    learner,
    programs,
    settings,
    train,
    train_alone,
)

SUMMATION = 1e-5
"""Float32 sums in another order, as in `test_lanes`."""
COMPACTED = ((2, 6), (2, 3), (1, 3))
AWKWARD = (5, 10, 20, 50, TRAIN_EXAMPLES)


def dropping(**options):
    return learner("tiny_workload:Dropping", "momentum", model_options=tuple(options.items()))


def test_a_lane_is_the_run_alone_with_the_same_masks():
    one = dropping()
    lanes = train(programs(one, 5), [1, 2], settings(AWKWARD, [0.02] * len(AWKWARD)), 500)
    for row, column in ((0, 1), (1, 3)):
        alone = train_alone(one, row + 1, AWKWARD[column], 0.02, 500)
        assert_same(lane(lanes.state, row, column), alone, SUMMATION)


@pytest.mark.slow
def test_microbatches_of_two_sizes_train_the_same_lanes():
    one, values = dropping(), settings([20, 40], [0.05] * 2)
    small, whole = (train(programs(one, width), [3], values, 400) for width in (4, 20))
    assert_same(small.state, whole.state, SUMMATION)


@pytest.mark.slow
def test_a_tier_that_does_not_accumulate_draws_the_same():
    one, values = dropping(), settings([20, 20], [0.05, 0.1])
    summed = train(programs(one, 20), [3], values, 400)
    at_once = train(programs(one, 20, accumulates=False), [3], values, 400)
    assert_same(at_once.state, summed.state, SUMMATION)


def curves(records):
    return {(one.setting, one.seed): (one.curve.examples, one.curve.scores) for one in records}


@pytest.mark.parametrize(
    ("shapes", "rates"), long_unless([(((2, 2),), (0.05,))], [(((2, 2),), (0.05,)), (COMPACTED, (0.0005, 0.05, 0.2))])
)
def test_killed_and_resumed_is_uninterrupted_bit_for_bit(tmp_path, shapes, rates):
    """There are 20 ticks between evaluations; stops are between them."""
    lanes = {"model": "tiny_workload:Dropping", "shapes": shapes, "settings": grid_of(rates=rates)}
    whole = Bench(tmp_path / "whole", **lanes).run().records
    bench = Bench(tmp_path / "parts", **lanes, check_seconds=0.0)
    for stop in (30, 4):
        with pytest.raises(Stopped):
            bench.run(stop_after=stop)
        halfway = bench.fresh()
        assert bench.checkpoint.restore(halfway, set())
        assert halfway.tick % 20 != 0
        assert all(shard.lanes.seeds[:, 0].tolist() == shard.layout.seeds for shard in halfway.shards)
    assert curves(bench.run().records) == curves(whole)


@pytest.mark.slow
def test_evaluating_twice_gives_the_same_scores():
    of = programs(dropping(), 5)
    lanes = train(of, [1], settings([5, 20], [0.1, 0.1]), 100)
    first, again = (of.evaluate(lanes.state.params, of.validation_split) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, again)
