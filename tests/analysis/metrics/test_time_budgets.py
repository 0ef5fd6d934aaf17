"""The best score within a time: what the true curves and speeds give, with ties, and refused where nothing is known."""

from __future__ import annotations

import math

import pytest
import simulated_folder
from batchscale.analysis.frames import frames
from batchscale.analysis.metrics import time_budgets
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.summary.build import summarize
from batchscale.analysis.summary_parts import TimeBudget
from batchscale.analysis.text import answer
from batchscale.errors import InputError

TRUTH = simulated_folder.Truth(batch_sizes=(16, 64, 256, 1024), confirm_seeds=4, ceiling_noise=1e-4, seed_noise=0.05)


@pytest.fixture(scope="module")
def sweep():
    rows = simulated_folder.rows(TRUTH, 3)
    return Sweep.of(frames.from_rows(simulated_folder.experiment(TRUTH), simulated_folder.machine_file(), rows))


def true_scores(seconds):
    """The score of every batch size within a time, where no run has ended."""
    found = {}
    for size in TRUTH.batch_sizes:
        scale = TRUTH.examples_to_target(size) / -math.log(1 - TRUTH.target / TRUTH.ceiling)
        trained = seconds / TRUTH.seconds_per_step(size) * size
        found[size] = TRUTH.ceiling * (1 - math.exp(-trained / scale))
    return found


def test_the_grid_begins_at_the_fastest_crossing_and_ends_with_the_longest_run(sweep):
    grid = time_budgets.grid(sweep)
    fastest = min(map(TRUTH.time_to_target, TRUTH.batch_sizes))
    size = min(TRUTH.batch_sizes)
    longest = TRUTH.epochs * TRUTH.train_examples / size * TRUTH.seconds_per_step(size)
    assert grid == sorted(grid)
    assert grid[0] == pytest.approx(fastest, rel=0.15)
    assert grid[-1] == pytest.approx(longest, rel=0.1)


def test_scores_are_those_of_the_true_curves_at_the_true_speeds_and_the_best_is_tied(sweep):
    for found in time_budgets.within(sweep, [0.5, 1.0, 2.0]):
        true = true_scores(found.seconds)
        assert not found.ended
        assert set(found.scores) == set(TRUTH.batch_sizes)
        for size, score in found.scores.items():
            assert 1 - score == pytest.approx(1 - true[size], rel=0.2)
        assert max(true, key=true.__getitem__) in found.tied
        assert min(true, key=true.__getitem__) not in found.tied


def test_a_batch_size_keeps_its_best_score_after_its_runs_ended_and_is_named(sweep):
    late, later = time_budgets.within(sweep, [10.0, 1000.0])
    assert late.ended == [64, 256, 1024]
    assert later.ended == list(TRUTH.batch_sizes)
    assert late.scores[1024] == later.scores[1024]


def test_a_time_before_the_first_evaluation_is_refused(sweep):
    earliest = time_budgets.earliest(sweep)
    size = max(TRUTH.batch_sizes)
    assert earliest == pytest.approx(3 * size * TRUTH.seconds_per_step(size) / size, rel=0.05)
    assert time_budgets.within(sweep, [earliest / 2]) == []
    assert summarize(sweep, 2 * earliest).within.seconds == 2 * earliest
    with pytest.raises(InputError, match=r"^within: .*, expected at least .*, when the first batch size was evaluated"):
        summarize(sweep, earliest / 2)


def budget(seconds, batch_size, *tied):
    return TimeBudget(seconds=seconds, batch_size=batch_size, score=0.9, tied=sorted({batch_size, *tied}))


def test_few_batch_sizes_are_named_each_for_as_long_as_it_is_tied():
    found = [budget(1.0, 64, 256), budget(2.0, 256, 64), budget(4.0, 256), budget(8.0, 16), budget(16.0, 16, 256)]
    assert list(answer._stretches(found)) == [(256, 1.0, 4.0), (16, 8.0, 16.0)]
    assert list(answer._stretches([])) == []
