"""Curves that level off within a budget and curves that do not, told apart in spite of noise."""

from __future__ import annotations

import numpy as np
import pytest
from batchscale.statistics.crossing import FLAT
from batchscale.statistics.levelling import has_levelled_off

EXAMPLES = np.arange(1, 37) * 2500.0
BUDGET = EXAMPLES[-1]


def curves(random, slope, falls_until=np.inf, runs=3, noise=0.05):
    """Return log gaps that fall with a slope on log examples up to a point, and stay there."""
    where = np.log(np.minimum(EXAMPLES, falls_until) / EXAMPLES[0])
    return slope * where + noise * random.standard_normal((runs, len(EXAMPLES))) + 0.1 * np.arange(runs)[:, None]


@pytest.fixture
def random():
    return np.random.default_rng(17)


def share(random, slope, repeats=200, **how):
    return np.mean([has_levelled_off(EXAMPLES, curves(random, slope, **how), FLAT) is True for _ in range(repeats)])


def test_a_level_curve_is_seen_to_be_level_and_a_falling_one_is_not(random):
    assert share(random, -0.3, falls_until=BUDGET / 3) > 0.9
    assert share(random, -0.3) == 0


def test_a_curve_at_the_limit_is_called_level_as_rarely_as_the_interval_promises(random):
    assert share(random, FLAT, repeats=400) < 0.05


def test_noise_hides_a_levelling_and_never_makes_one(random):
    assert share(random, 0.0, noise=0.2, runs=1) < 0.3
    assert share(random, -0.3, noise=0.2, runs=1) < 0.05


def test_the_budget_ends_the_curve(random):
    late = curves(random, -0.3, falls_until=BUDGET / 3)
    assert has_levelled_off(EXAMPLES, late, FLAT)
    assert not has_levelled_off(EXAMPLES, late, FLAT, budget=BUDGET / 3)


def test_a_run_that_collapses_levels_nothing(random):
    falling = curves(random, -0.3, runs=2)
    falling[1, -4:] += 1.5
    assert not has_levelled_off(EXAMPLES, falling, FLAT)


def test_too_few_evaluations_show_nothing():
    assert has_levelled_off(EXAMPLES[:8], np.zeros((1, 8)), FLAT) is True
    assert has_levelled_off(EXAMPLES[:7], np.zeros((1, 7)), FLAT) is None
    assert has_levelled_off(EXAMPLES, np.full((2, 36), np.nan), FLAT) is None
    assert has_levelled_off(EXAMPLES, np.zeros((2, 36)), FLAT, budget=EXAMPLES[0] / 2) is None
