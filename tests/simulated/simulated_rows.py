"""Rows of a small simulated study, and changed rows, for the tests of the analysis."""

import msgspec
import simulated_folder
from batchscale.analysis.frames import frames
from batchscale.records.row_types import Curve, Round, Trial

TRUTH = simulated_folder.Truth(batch_sizes=(16, 64), rounds=3, watts=40.0, confirm_seeds=2, epochs=4.0, max_epochs=6.0)
ROWS = simulated_folder.rows(TRUTH)
TARGET = TRUTH.target
change = msgspec.structs.replace


def of(kind, **fields):
    """Return the simulated rows of a kind that have these values."""
    return [row for row in ROWS if isinstance(row, kind) and all(getattr(row, k) == v for k, v in fields.items())]


def made(rows):
    return frames.from_rows(simulated_folder.experiment(TRUTH), simulated_folder.machine_file(), rows)


def timed(seconds, steps=10, **fields):
    """Return one round of batch size 16 for each of `seconds`."""
    (first, *_) = of(Round, batch_size=16, loop="scan")
    return [change(first, round=at, steps=steps, seconds=one, joules=None, **fields) for at, one in enumerate(seconds)]


def trained(accuracies=(), **fields):
    """Return a trial of batch size 16, evaluated every 16 examples."""
    steps = list(range(1, len(accuracies) + 1))
    curve = Curve(examples=[16 * s for s in steps], steps=steps, accuracy=list(accuracies), loss=[None] * len(steps))
    return change(of(Trial, batch_size=16)[0], curve=curve, noise=None, test_accuracy=None, **fields)
