"""The best batch size and learning rate of every group against a column that groups runs."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from batchscale.analysis.figures import drawing, style
from batchscale.analysis.figures.drawing import NothingToDrawError
from batchscale.analysis.summary.groups import Groups, Movement, number_in
from batchscale.printable import bare


def against(groups: Groups, column: str) -> Figure:
    """Draw both optima of every group, with the intervals of surfaces, over a column of numbers."""
    figure, panels = drawing.sheet(2)
    for axes, movement in zip(panels, groups.movements, strict=True):
        where, found, ends = _points(groups, column, movement)
        if not len(where):
            raise NothingToDrawError("no group has an answer")
        axes.vlines(where, ends[:, 0], ends[:, 1], color=style.BLUE, linewidth=1, alpha=0.6)
        axes.plot(where, found, "o", color=style.BLUE, alpha=0.8)
        axes.set_xscale("log")
        axes.set_xlabel(bare(column))
        drawing.log_axis(axes, f"best {movement.quantity.replace('_', ' ')}")
    return drawing.finished(figure, f"{len(groups.answers)} groups of runs; lines are 95% intervals of fitted surfaces")


def _points(groups: Groups, column: str, movement: Movement) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    where, found, ends = [], [], []
    for one in groups.answers:
        value = one.optimum(movement.quantity, movement.rests_on)
        if value is None:
            continue
        surface = getattr(one.score_surface, movement.quantity) if movement.rests_on == "surface" else None
        interval = surface.interval if surface else (value, value)
        where.append(number_in(one.group[column]))
        found.append(value)
        ends.append([np.nan if end is None else end for end in interval])
    return np.array(where), np.array(found), np.array(ends, dtype=np.float64).reshape(-1, 2)
