"""What is tied with the best, by closed forms: each comparison in units of its own noise, misses left out."""

from __future__ import annotations

import numpy as np
import pytest
from batchscale.config.goal import Goal
from batchscale.statistics.intervals import LEVEL, Locations
from batchscale.statistics.ties import above_a_later_one, scores_of, tied_with_least
from scipy import stats

NORMAL = stats.norm.ppf((np.arange(2000) + 0.5) / 2000)
RANDOM = np.random.default_rng(0)


def located(centres, *errors, draws=None):
    """Locations with these centres and one column of errors for each."""
    centres, columns = np.asarray(centres, dtype=np.float64), np.stack(errors, axis=1)
    return Locations(centres, centres, columns, centres + columns if draws is None else draws)


def noise(spread):
    """Normal errors in an order of their own."""
    return spread * RANDOM.permutation(NORMAL)


def none():
    return np.zeros(len(NORMAL))


def test_without_noise_only_equals_are_tied():
    assert tied_with_least(located([1.0, 1.0, 1.0 + 1e-9], none(), none(), none())).tolist() == [True, True, False]


@pytest.mark.parametrize(("behind", "tied"), [(1.5, True), (1.8, False), (3.0, False)])
def test_two_cells_are_told_apart_at_the_one_sided_95_percent_point(behind, tied):
    found = tied_with_least(located([0.0, behind], noise(1.0), none()))
    assert found.tolist() == [True, tied]
    assert stats.norm.ppf(LEVEL) == pytest.approx(1.645, abs=1e-3)


def test_errors_in_common_cancel():
    shared = noise(1.0)
    assert tied_with_least(located([0.0, 0.01], shared, shared)).tolist() == [True, False]
    assert tied_with_least(located([0.0, 0.01], shared, -shared)).tolist() == [True, True]


def test_each_comparison_is_in_units_of_its_own_noise():
    """A noisy neighbour does not hide that a cell lies ten standard errors above a quiet one."""
    assert tied_with_least(located([0.5, 0.0, 0.6], noise(0.01), none(), noise(0.5))).tolist() == [False, True, True]
    assert tied_with_least(located([0.1, 0.0, 0.0], noise(0.01), none(), noise(0.5))).tolist() == [False, True, True]


def test_many_comparisons_make_each_more_careful():
    behind = 2.0
    assert not tied_with_least(located([behind, 0.0], noise(1.0), none()))[0]
    others = [noise(1.0) for _ in range(20)]
    assert tied_with_least(located([behind, *np.zeros(20)], noise(1.0), *others))[0]


def test_a_cell_that_is_almost_never_reached_is_tied_with_nothing():
    shared = none()
    draws = np.zeros((len(shared), 3))
    draws[:, 1] = np.where(np.arange(len(shared)) < 0.04 * len(shared), 0.0, np.inf)
    draws[:, 2] = np.where(np.arange(len(shared)) < 0.06 * len(shared), 0.0, np.inf)
    assert tied_with_least(located([0.0] * 3, shared, shared, shared, draws=draws)).tolist() == [True, False, True]
    assert tied_with_least(located([0.0, np.inf], none(), none())).tolist() == [True, False]
    assert tied_with_least(located([0.0, np.nan], none(), none())).tolist() == [True, False]


@pytest.mark.parametrize(
    ("centres", "least", "above"),
    [
        ([3.0, 1.0, 2.0], 0.5, [True, False, False]),
        ([3.0, 1.0, 2.0], 1.5, [True, False, False]),
        ([3.0, 1.0, 2.0], 2.0, [False, False, False]),
        ([1.0, 2.0, 3.0], 0.5, [False, False, False]),
        ([3.0, 2.0, 1.0], 0.5, [True, True, False]),
        ([3.0, np.inf, 1.0], 0.5, [True, False, False]),
        ([np.inf, 2.0, 1.0], 0.5, [False, True, False]),
        ([1.0, 1.0, 1.0], -1.0, [False, False, False]),
    ],
)
def test_only_what_comes_later_counts_and_only_by_more_than_the_least(centres, least, above):
    found = above_a_later_one(located(centres, none(), none(), none()), least)
    assert found.dtype == bool
    assert found.tolist() == above


def test_lying_above_by_what_noise_explains_does_not_count():
    assert above_a_later_one(located([1.0, 0.0], noise(1.0), none()), 0.5).tolist() == [False, False]
    assert above_a_later_one(located([3.0, 0.0], noise(1.0), none()), 0.5).tolist() == [True, False]
    shared = noise(1.0)
    assert above_a_later_one(located([1.0, 0.0], shared, shared), 0.5).tolist() == [True, False]


def test_a_median_that_was_not_reached_is_compared_with_nothing():
    found = located([3.0, 1.0], none(), none())
    missed = Locations(np.array([3.0, np.inf]), found.centres, found.errors, found.draws)
    assert above_a_later_one(missed, 0.5).tolist() == [False, False]


def test_errors_stay_within_the_range_of_the_metric_unless_the_score_itself_does_not():
    drawn, loss = np.array([-1.2, -0.4, 0.3]), Goal(metric="loss", threshold=0.1)
    assert scores_of(Goal(metric="accuracy", threshold=0.9), drawn, -0.4).tolist() == [1.0, 0.4, 0.0]
    assert scores_of(loss, drawn, 0.3).tolist() == [0.0, 0.0, 0.3]
    assert scores_of(loss, drawn, -0.4).tolist() == drawn.tolist()
