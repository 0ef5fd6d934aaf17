"""The speed of a tier's programs, as a trial measures it."""

import pytest
from batchscale.measure.convergence import tiers
from tiny_workload import grid_of, learner, programs


@pytest.mark.parametrize("workers", [1, 2])
def test_lane_examples_and_evaluations_are_counted_over_seeds_settings_and_workers(monkeypatch, workers):
    monkeypatch.setattr(tiers, "steps_to_fill", lambda _, work: work(1) or 10)
    monkeypatch.setattr(tiers, "timed", lambda work, ticks: work(ticks) and 2.0)
    trial = tiers.SpeedTrial(programs(learner("linear", "momentum"), 5), [1, 2], grid_of(), workers)
    assert trial.examples_per_second() == workers * 2 * 6 * 10 * 5 / 2.0
    assert trial.seconds_per_evaluation() == 2.0 / (workers * 2 * 6)
