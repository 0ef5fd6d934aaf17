"""The reference experiment's table beside rows measured here."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
import simulated_folder
from batchscale.analysis.frames import frames
from batchscale.analysis.summary.build import summarize
from batchscale.analysis.summary.reference_experiment import TABLE
from simulated_answers import TRUTH


def test_the_reference_table_stands_beside_ours():
    truth = replace(TRUTH, batch_sizes=(10, 50, 256, 1000), also=())
    experiment = simulated_folder.experiment(truth, "lenet_mnist_reference")
    rows = [msgspec.structs.replace(row, experiment="lenet_mnist_reference") for row in simulated_folder.rows(truth)]
    found = summarize(frames.from_rows(experiment, simulated_folder.machine_file(), rows)).reference
    assert [row.batch_size for row in found] == [row.batch_size for row in TABLE]
    ours = {row.batch_size: row for row in found}
    assert ours[1000].epoch_seconds_ratio == pytest.approx(1.0)
    assert ours[5000].epochs_to_target is None
    assert ours[256].reference_epochs_to_target == 41
    reached = [row.time_to_target_ratio for row in found if row.time_to_target_ratio]
    assert not reached or min(reached) == pytest.approx(1.0)
