"""What the reading half answers to simulated rows."""

from __future__ import annotations

from dataclasses import replace

import simulate

from bench.analysis import frames
from bench.analysis.summarize import summarize

TRUTH = simulate.Truth(rate_penalty=1.0, watts=50.0, gradient_noise_scale=300.0)


def answered(truth=TRUTH, rows=None, seed=0, **changes):
    """The summary of `rows`, or of those drawn from `truth` with `changes` made to it."""
    truth = replace(truth, **changes)
    rows = simulate.rows(truth, seed) if rows is None else rows
    return summarize(frames.from_rows(simulate.experiment(truth), simulate.machine_file(), rows))


def cell(found, batch_size):
    return next(one for one in found.cells if one.batch_size == batch_size)


def verdict(found, claim):
    return found.verdicts[claim - 1].verdict
