"""How much faster several devices are than one, and what is left of it once epochs are counted."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from batchscale.analysis.figures import drawing
from batchscale.analysis.figures.drawing import NothingToDrawError
from batchscale.analysis.frames.frames import Frames
from batchscale.analysis.summary_types import ParallelPoint, Summary
from batchscale.analysis.text.provenance import VIRTUAL, origin

Key = Callable[[ParallelPoint], int]
Value = Callable[[ParallelPoint], float | None]


def data_parallel(frames: Frames, summary: Summary) -> Figure:
    """Speed over one device: of the same batch shared out, and of one batch for each device."""
    points = summary.data_parallel
    if not any(one.strong_efficiency or one.weak_efficiency for one in points):
        raise NothingToDrawError("only one device was used, or none of several was used alone")
    figure, panels = drawing.sheet(2)
    sizes = sorted(
        {one.batch_size for one in points if one.strong_efficiency}
        | {one.batch_size // one.devices for one in points if one.weak_efficiency}
    )
    _speed_up(panels[0], points, sizes, lambda one: one.batch_size, lambda one: one.strong_efficiency)
    _speed_up(panels[1], points, sizes, lambda one: one.batch_size // one.devices, lambda one: one.weak_efficiency)
    panels[0].set_title("the same batch, shared out")
    panels[1].set_title("a batch for each device")
    drawing.batch_size_bar(figure, panels, sizes)
    shared = f" · {VIRTUAL}" if frames.machine.machine.virtual_devices else ""
    return drawing.finished(figure, origin(frames, summary) + shared)


def _speed_up(axes: Axes, points: list[ParallelPoint], sizes: list[int], key: Key, efficiency: Value) -> None:
    """One line for each batch size that one device trains."""
    counts = [1, *sorted({one.devices for one in points})]
    for size, color in drawing.batch_size_colors(sizes).items():
        found = {one.devices: one.devices * value for one in points if key(one) == size and (value := efficiency(one))}
        if found:
            axes.plot([1, *found], [1.0, *found.values()], "o-", color=color)
    axes.plot(counts, counts, **drawing.GUIDE, label="perfect scaling")
    drawing.log2_axis(axes, counts, "devices", room=1 if drawing.is_narrow() else 0.5)
    drawing.log_axis(axes, "speed-up over one device", base=2)
