"""Where the numbers of a figure come from, in one line."""

from __future__ import annotations

from batchscale.analysis import number_format
from batchscale.analysis.frames.frames import Frames
from batchscale.analysis.summary_types import Summary


def origin(frames: Frames, summary: Summary, runs: str | None = None) -> str:
    """Machine, workload, the seeds drawn, and whether convergence was measured here or joined.

    `runs` names seeds that are not those which claims rest on. Tables from elsewhere tell neither workload nor where
    they were measured: the title names them.
    """
    drawn = runs or seeds(summary)
    if frames.imported:
        return " · ".join([summary.machine, summary.title, drawn])
    kind = summary.workload
    trained = f"{kind.model} on {kind.dataset}, {kind.optimizer}, {frames.experiment.workload.precision}"
    return " · ".join([summary.machine, trained, drawn, convergence_source(summary)])


def seeds(summary: Summary) -> str:
    """How many seeds the claims about a batch size rest on."""
    counts = [cell.seeds for cell in summary.cells if cell.seeds]
    return number_format.seeds(min(counts), max(counts)) if counts else "no training runs"


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
    return "the target" if reached is None else f"{number_format.target(reached)} accuracy"


VIRTUAL = "virtual devices share the cores of one processor: no speed result"
