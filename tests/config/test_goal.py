"""A goal compares scores the same way in either direction, for single scores and for arrays of them."""

import math

import numpy as np
import pytest
from batchscale.config.goal import Goal
from hypothesis import given
from hypothesis import strategies as st

ACCURACY = Goal(metric="accuracy", threshold=0.9)
LOSS = Goal(metric="loss", threshold=1.6)
REWARD, ENERGY = Goal(metric="score", threshold=1.2), Goal(metric="cost", threshold=0.3)
scores = st.integers(0, 2000).map(lambda thousandths: thousandths / 1000)


def test_the_threshold_itself_is_reached_and_nan_is_not():
    for goal, short in ((ACCURACY, 0.89), (LOSS, 1.61), (REWARD, 1.1), (ENERGY, 0.4)):
        assert goal.reached(goal.threshold)
        assert not goal.reached(short)
        assert not goal.reached(math.nan)
    assert ACCURACY.at(0.5).reached(0.6)


@pytest.mark.parametrize("goal", [ACCURACY, LOSS, REWARD, ENERGY])
@given(st.lists(scores, min_size=1, max_size=8), scores)
def test_the_best_score_is_the_one_that_none_is_better_than(goal, values, other):
    best = goal.best(values)
    assert not any(goal.better(value, best) for value in values)
    assert goal.reached(best) == any(map(goal.reached, values))
    assert goal.better(other, best) == (goal.gap(other) < goal.gap(best))
    assert not goal.better(other, other)


@pytest.mark.parametrize("goal", [ACCURACY, LOSS, REWARD, ENERGY])
@given(st.lists(scores, min_size=1, max_size=8))
def test_arrays_are_compared_as_their_elements_are(goal, values):
    array = np.array(values)
    assert goal.reached(array).tolist() == [goal.reached(value) for value in values]
    assert goal.better(array, 1.0).tolist() == [goal.better(value, 1.0) for value in values]
    assert goal.gap(array).tolist() == [goal.gap(value) for value in values]
    assert goal.best(array) == goal.best(values)


def test_of_no_scores_none_is_the_best_and_the_ideal_has_no_gap():
    assert ACCURACY.best([]) is None
    assert ACCURACY.gap(0.75) == 0.25
    assert LOSS.gap(0.75) == 0.75
