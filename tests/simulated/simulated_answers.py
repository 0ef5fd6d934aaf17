"""Summarize simulated rows with the analysis."""

from __future__ import annotations

from dataclasses import replace

import simulated_folder
from batchscale.analysis.frames import frames
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.summary.build import summarize

TRUTH = simulated_folder.Truth(rate_penalty=1.0, watts=50.0, gradient_noise_scale=300.0)


def swept(truth, rows=None, seed=0):
    """Return the quantities of `rows`; without them, draw rows from `truth`."""
    rows = simulated_folder.rows(truth, seed) if rows is None else rows
    return Sweep.of(frames.from_rows(simulated_folder.experiment(truth), simulated_folder.machine_file(), rows))


def answered(truth=TRUTH, rows=None, seed=0, **changes):
    """Return the summary of `rows`; without them, draw rows from `truth` with `changes`."""
    return summarize(swept(replace(truth, **changes), rows, seed))


def cell(found, batch_size):
    return next(one for one in found.cells if one.batch_size == batch_size)


def verdict(found, claim):
    return found.verdicts[claim - 1].verdict
