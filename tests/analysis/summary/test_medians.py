"""Numbers of a summary that are those of rows equal them, to the last digit."""

from __future__ import annotations

import numpy as np
import pytest
import simulated_folder
from batchscale.decisions.evaluations import crossing
from batchscale.records.row_types import Round, Stage, Trial
from sample_rows import accuracy_of
from simulated_answers import answered


@pytest.mark.parametrize("seeds", [1, 3, 4])
def test_needs_are_medians_of_the_rows(seeds):
    truth = simulated_folder.Truth(confirm_seeds=seeds)
    runs = [row for row in simulated_folder.rows(truth) if isinstance(row, Trial) and row.phase == "confirm"]
    for one in answered(truth).cells:
        own = [row for row in runs if (row.batch_size, row.learning_rate) == (one.batch_size, one.best_learning_rate)]
        steps = float(np.median([crossing(row.curve, accuracy_of(truth.target)).steps for row in own]))
        assert one.steps_to_target.median == steps
        assert one.epochs_to_target.median == pytest.approx(steps * one.batch_size / truth.train_examples, rel=1e-15)
        low, high = one.steps_to_target.interval
        assert (low or steps) <= steps <= (high or steps)


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
