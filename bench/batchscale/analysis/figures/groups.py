"""The best batch size and learning rate of every group against a column that groups runs."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from batchscale.analysis.figures import drawing, style
from batchscale.analysis.figures.drawing import NothingToDrawError
from batchscale.analysis.summary.groups import Groups, Moved, Movement, number_in
from batchscale.printable import bare

NAMES: dict[Moved, str] = {
    "batch_size": "best batch size",
    "learning_rate": "best learning rate",
    "critical_batch_size": "critical batch size",
    "time_optimal": "fastest batch size",
}


def against(groups: Groups, column: str) -> Figure:
    """Draw the optima of every group, with the intervals of fits, over a column of numbers."""
    drawn = [(one, *_points(groups, column, one)) for one in groups.movements]
    drawn = [one for one in drawn if len(one[1])]
    if not drawn:
        raise NothingToDrawError("no group has an answer")
    figure, panels = drawing.sheet(len(drawn))
    for axes, (movement, where, found, ends) in zip(panels, drawn, strict=True):
        axes.vlines(where, ends[:, 0], ends[:, 1], color=style.BLUE, linewidth=1, alpha=0.6)
        axes.plot(where, found, "o", color=style.BLUE, alpha=0.8)
        axes.set_xscale("log")
        axes.set_xlabel(bare(column))
        drawing.log_axis(axes, NAMES[movement.quantity])
    return drawing.finished(figure, f"{len(groups.answers)} groups of runs; lines are 95% intervals of fits")


def _points(groups: Groups, column: str, movement: Movement) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    where, found, ends = [], [], []
    for one in groups.answers:
        value = one.optimum(movement.quantity, movement.rests_on)
        if value is None:
            continue
        interval = one.interval(movement.quantity, movement.rests_on) or (value, value)
        where.append(number_in(one.group[column]))
        found.append(value)
        ends.append([np.nan if end is None else end for end in interval])
    return np.array(where), np.array(found), np.array(ends, dtype=np.float64).reshape(-1, 2)
