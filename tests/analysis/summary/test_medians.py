"""Numbers of a summary that are those of rows equal them, to the last digit."""

from __future__ import annotations

import numpy as np
import pytest
import simulated_folder
from batchscale.decisions.crossings import locate
from batchscale.decisions.evaluations import first_at_target
from batchscale.records.row_types import Round, Stage, Trial
from sample_rows import accuracy_of
from simulated_answers import answered


@pytest.mark.parametrize("seeds", [1, 3, 4])
def test_needs_are_those_of_the_typical_run_and_first_evaluations_are_medians_of_the_rows(seeds):
    truth = simulated_folder.Truth(confirm_seeds=seeds)
    runs = [row for row in simulated_folder.rows(truth) if isinstance(row, Trial) and row.phase == "confirm"]
    smoothed = 0
    for one in answered(truth).cells:
        own = [row for row in runs if (row.batch_size, row.learning_rate) == (one.batch_size, one.best_learning_rate)]
        first = float(np.median([first_at_target(row.curve, accuracy_of(truth.target)).examples for row in own]))
        assert one.first_evaluation_epochs == pytest.approx(first / truth.train_examples, rel=1e-15)
        found = locate(own, accuracy_of(truth.target))
        assert one.typical_run == ("first" not in found.flags)
        if one.typical_run:
            smoothed += 1
            typical = np.exp(found.typical)
            assert one.epochs_to_target.median == pytest.approx(typical / truth.train_examples, rel=1e-9)
        assert one.steps_to_target.median * one.batch_size == pytest.approx(
            one.epochs_to_target.median * truth.train_examples, rel=1e-12
        )
        low, high = one.steps_to_target.interval
        assert (low or 0) <= one.steps_to_target.median <= (high or np.inf)
    assert smoothed


def test_step_times_are_medians_of_the_rounds():
    truth = simulated_folder.Truth(rounds=7)
    rounds = [row for row in simulated_folder.rows(truth) if isinstance(row, Round) and row.input == "device"]
    for one in answered(truth).cells:
        own = [row for row in rounds if (row.batch_size, row.loop) == (one.batch_size, one.loop)]
        assert one.seconds_per_step == float(np.median([row.seconds / row.steps for row in own]))


def test_the_cost_of_measuring_is_the_sum_of_the_stages():
    truth = simulated_folder.Truth()
    stages = [row for row in simulated_folder.rows(truth) if isinstance(row, Stage)]
    totals = answered(truth).totals
    assert totals.compilations == sum(row.compilations for row in stages)
    assert totals.trained_examples == sum(row.trained_examples for row in stages)
    assert totals.throughput_seconds + totals.convergence_seconds == sum(row.seconds for row in stages)
