"""A number with its interval, as summaries hold it."""

from __future__ import annotations

import msgspec

Interval = tuple[float | None, float | None]
"""The ends of a 95% interval. An end that is infinite or unknown is null."""


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """A median over seeds with its 95% interval; null where half of the seeds or more did not reach the target."""

    median: float | None
    interval: Interval
