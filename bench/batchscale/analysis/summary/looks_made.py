"""The looks of a study, as `summary.json` holds them."""

from __future__ import annotations

from collections.abc import Sequence

from batchscale.analysis.frames.frames import Frames
from batchscale.analysis.summary_parts import LookMade, Looks
from batchscale.config.experiment import Confirm
from batchscale.records.row_types import Arm


def looks_made(frames: Frames) -> Looks | None:
    """Return how the seeds of a study were spent; None where no look compared anything."""
    made = [row for row in frames.looks if row.alpha]
    if not made:
        return None
    last, asked = frames.looks[-1], frames.experiment.confirm or Confirm()
    return Looks(
        made=[
            LookMade(
                number=row.number,
                seeds=row.seeds,
                alpha=row.alpha,
                compared=_sizes(row.compared),
                out=_sizes(row.out),
                added=_sizes(row.added),
            )
            for row in made
        ],
        stop=last.stop,
        tolerance=asked.tolerance,
        spent=last.spent / max(last.spent + last.left, 1),
    )


def _sizes(arms: Sequence[Arm]) -> list[int]:
    return sorted({arm.batch_size for arm in arms})
