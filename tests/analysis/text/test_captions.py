"""The remarks of figures: batch sizes without an estimate of gradient noise are named, with the reason."""

from __future__ import annotations

from dataclasses import replace

import simulated_folder
from batchscale.analysis.frames import frames
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.summary.build import summarize
from batchscale.analysis.text import captions
from batchscale.records.row_types import Trial
from simulated_answers import TRUTH, answered
from simulated_rows import change


def without_noise_at(sizes, truth):
    return [
        change(row, noise=None) if isinstance(row, Trial) and row.batch_size in sizes else row
        for row in simulated_folder.rows(truth)
    ]


def test_a_rate_by_the_neighbours_is_named_where_no_search_trial_reached_the_target(summarized):
    assert captions.rates_by_neighbours(summarized) == ""
    rows = [
        change(row, curve=change(row.curve, scores={"accuracy": [0.9 * one for one in row.curve.scores["accuracy"]]}))
        if isinstance(row, Trial) and (row.phase, row.batch_size) == ("search", 256)
        else row
        for row in simulated_folder.rows(TRUTH)
    ]
    found = answered(rows=rows)
    words = "Rate by the neighbours at batch size 256, where no search trial reached the target."
    assert captions.rates_by_neighbours(found) == words
    assert captions.best_learning_rate(None, found).endswith(words)


def test_the_batch_sizes_without_gradient_noise_are_named_with_the_reason(summarized):
    assert captions.without_gradient_noise(summarized) == ""
    few = replace(TRUTH, batch_sizes=(16, 32, 128, 1024))
    some = answered(few, without_noise_at((16, 32), few))
    assert some.gradient_noise.batch_sizes == [128, 1024]
    assert captions.without_gradient_noise(some).startswith(
        "Not known at batch sizes 16 and 32, because it can only be measured in batches of several microbatches"
    )
    none = answered(few, without_noise_at(few.batch_sizes, few))
    assert none.gradient_noise_reason.endswith("which take batches of several microbatches")
    assert captions.without_gradient_noise(none) == ""
    experiment = simulated_folder.experiment(few)
    unasked = change(experiment, evaluation=change(experiment.evaluation, noise=False))
    rows = without_noise_at(few.batch_sizes, few)
    summary = summarize(Sweep.of(frames.from_rows(unasked, simulated_folder.machine_file(), rows)))
    assert summary.gradient_noise_reason == "it was not measured"
