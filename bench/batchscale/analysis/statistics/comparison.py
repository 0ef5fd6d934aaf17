"""NEW MODULE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from batchscale.analysis.statistics.intervals import LEVEL, Array, Locations, estimate, exp
from batchscale.analysis.statistics.ties import tied_with_least
from batchscale.analysis.summary_types import (
    Interval,
)

TEST = (
    "multiple comparisons with the best (Hsu) on medians, variances moderated across batch sizes (Smyth), "
    "evaluation rounding and misses counted"
)


UNREPEATED = "measured once each, so the spread is that about neighbouring batch sizes"


Edge = Literal["smallest", "largest", "memory", "only"]


class Found(TypedDict):
    """The fields that every optimum has."""

    batch_size: int
    interval: Interval
    batch_size_interval: tuple[int, int]
    tied: list[int]
    at_edge: bool
    edge: Edge | None
    margin: float | None
    next_best: int | None
    metric: str
    test: str
    level: float


@dataclass(frozen=True)
class Contest:
    """Cells compared by one metric: `locations` least is best; `tried` (cells,) were measured for it, reached or not.

    `out_of_memory` (cells,) did not fit. `logarithmic` says that locations are of the logarithm, `repeated` that some
    cell was measured more than once.
    """

    sizes: NDArray[np.int64]
    locations: Locations
    tried: NDArray[np.bool_]
    out_of_memory: NDArray[np.bool_]
    metric: str
    logarithmic: bool = True
    repeated: bool = True

    @property
    def best(self) -> int | None:
        """Which cell is best by its observed median; None where there is none."""
        medians = self.locations.medians
        finite = np.where(np.isfinite(medians), medians, np.inf)
        return int(np.argmin(finite)) if np.isfinite(medians).any() else None

    def found(self, best: int) -> Found:
        """What there is to say of the best cell under any metric."""
        tied = tied_with_least(self.locations)
        tied[best] = True
        edge = self._edge(best)
        margin, next_best = self._margin(best)
        sizes = [int(size) for size in self.sizes[tied]]
        return {
            "batch_size": int(self.sizes[best]),
            "interval": self._interval(best),
            "batch_size_interval": (sizes[0], sizes[-1]),
            "tied": sizes,
            "at_edge": edge not in (None, "memory"),
            "edge": edge,
            "margin": margin,
            "next_best": next_best,
            "metric": self.metric,
            "test": TEST if self.repeated else f"{TEST}; {UNREPEATED}",
            "level": LEVEL,
        }

    def _interval(self, best: int) -> Interval:
        """Of the quantity at the best cell, as logarithms or negated accuracies were made from it."""
        quantity = exp if self.logarithmic else _accuracies
        return estimate(self.locations.medians[best], self.locations.draws[:, best], quantity).interval

    def _edge(self, best: int) -> Edge | None:
        others = self.sizes[self.tried]
        size = self.sizes[best]
        if size == others.max():
            if self.out_of_memory[self.sizes > size].any():
                return "memory"
            return "only" if size == others.min() else "largest"
        return "smallest" if size == others.min() else None

    def _margin(self, best: int) -> tuple[float | None, int | None]:
        medians = np.where(np.isfinite(self.locations.medians), self.locations.medians, np.inf)
        rest = np.delete(np.arange(len(medians)), best)
        if not len(rest) or not np.isfinite(medians[rest]).any():
            return None, None
        second = rest[np.argmin(medians[rest])]
        behind = float(medians[second] - medians[best])
        return (float(np.expm1(behind)) if self.logarithmic else behind), int(self.sizes[second])


def _accuracies(negated: Array) -> Array:
    return np.clip(-negated, 0, 1)
