"""Where the numbers of a figure come from, in one line, and which trials its claims rest on."""

from __future__ import annotations

import pandas as pd

from bench.analysis import words
from bench.analysis.frames import Frames
from bench.analysis.summary import Summary


def claim_trials(frames: Frames, summary: Summary) -> pd.DataFrame:
    """The trials at each batch size's chosen rate, of the seeds that its claims rest on."""
    cells = {cell.batch_size: cell for cell in summary.cells}
    sizes = frames.trials["batch_size"]
    phases = sizes.map({size: cell.claims_on for size, cell in cells.items()})
    rates = sizes.map({size: cell.best_learning_rate for size, cell in cells.items()}).astype("float64")
    at_rate = rates.isna() | (frames.trials["learning_rate"] == rates)
    return frames.trials[(frames.trials["phase"] == phases) & at_rate]


def origin(frames: Frames, summary: Summary) -> str:
    """Machine, workload, number of seeds, and whether convergence was measured here or joined."""
    kind = summary.workload
    trained = f"{kind.model} on {kind.dataset}, {kind.optimizer}, {frames.experiment.workload.precision}"
    return " · ".join([summary.machine, trained, seeds(summary), convergence_source(summary)])


def seeds(summary: Summary) -> str:
    """How many seeds the claims about a batch size rest on."""
    counts = [cell.seeds for cell in summary.cells if cell.seeds]
    return words.seeds(min(counts), max(counts)) if counts else "no training runs"


def convergence_source(summary: Summary) -> str:
    """Whether the training runs were made on this machine."""
    if not any(cell.seeds for cell in summary.cells):
        return "convergence not measured"
    if summary.convergence_from:
        return f"convergence joined from {summary.convergence_from}"
    return "convergence measured here"


def target_words(summary: Summary) -> str:
    """The target as the end of "epochs to ..."."""
    reached = summary.target_accuracy
    return "the target" if reached is None else f"{words.accuracy(reached)} accuracy"
