"""Searches for a learning rate whose best rates are known: five rates for each of nine batch sizes, one seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from batchscale.statistics.rate_surface import Trials

SIZES = 16.0 * 2 ** np.arange(9)
TRIED = np.arange(-2, 3)
"""Octaves from the middle of a grid to its rates."""
NOISE = 0.143
"""Standard deviation of a run's smoothed crossing, as on the published rows."""


@dataclass(frozen=True)
class RateTruth:
    """How the best rate depends on the batch size, and what another rate costs.

    Attributes:
        scatter: Octaves by which the best rates scatter about a line in log B.
        power: Cost is the octaves off to this power, times 0.15 below the best rate and 0.4 above it.
        constant_above: Batch size above which the best rate does not grow.
        diverges_above: Octaves above the best rate from which no run reaches the target.
    """

    scatter: float = 0.0
    power: float = 2.0
    constant_above: float = np.inf
    diverges_above: float = np.inf

    def cost(self, off):
        return np.where(off < 0, 0.15, 0.4) * np.abs(off) ** self.power

    def draw(self, random, noise=NOISE):
        """Search trials, and the log2 of the best rates (sizes,)."""
        line = np.log2(0.04) + random.uniform(-0.7, 0.7) + random.uniform(0.3, 0.8) * (np.log2(SIZES) - 6)
        best = np.minimum(line, line[min(np.searchsorted(SIZES, self.constant_above), len(SIZES) - 1)])
        best = best + self.scatter * random.standard_normal(len(SIZES))
        rates = (np.log2(0.04) + 0.5 * (np.log2(SIZES) - 6))[:, None] + TRIED
        off = rates - best[:, None]
        level = 0.1 * random.standard_normal((len(SIZES), 1))
        crossing = self.cost(off) + level + noise * random.standard_normal(off.shape)
        budget = crossing.min(axis=1, keepdims=True) + 1.5
        reached = (crossing < budget) & (off < self.diverges_above)
        seen = np.where(reached, crossing, np.minimum(crossing, budget - 0.5))
        sizes = np.repeat(SIZES, len(TRIED))
        return Trials(sizes, 2 ** rates.ravel(), seen.ravel(), reached.ravel()), best


TRUTHS = {
    "as fitted": RateTruth(),
    "scattered": RateTruth(scatter=0.5),
    "power 1.3": RateTruth(power=1.3),
    "constant above 256": RateTruth(constant_above=256.0),
    "diverges": RateTruth(diverges_above=0.8),
}


def regrets(truth, random, choose):
    """What the rates that `choose` makes of the trials cost (sizes,)."""
    trials, best = truth.draw(random)
    return truth.cost(np.log2(choose(trials)) - best)


def best_trial_of_each(trials):
    """The rate of the fastest trial of each batch size, which needs no surface."""
    seen = np.where(trials.reached, trials.log_examples, np.inf).reshape(len(SIZES), -1)
    return trials.rates.reshape(seen.shape)[np.arange(len(SIZES)), seen.argmin(axis=1)]
