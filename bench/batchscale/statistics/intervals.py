"""Intervals from few repetitions: draws of the median at every batch size, which every claim takes its spread from.

A cell is one batch size here. Its repetitions (seeds or rounds) are few, so its own scatter is a poor guide: variances
are moderated across cells (Smyth, 2004, Statistical Applications in Genetics 3:3). This gives more degrees of freedom,
and intervals that keep their level with two or three seeds, where resampling the seeds would not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from batchscale.statistics.estimate import Estimate, Interval

Array = NDArray[np.float64]

DRAWS = 4000
"""Random draws of every distribution."""
LEVEL = 0.95
"""Confidence of every interval and test."""
SEED = 20_150_709
"""Seed of all draws, so that the same rows always give the same intervals."""
MANY = 25
"""Repetitions from which the distribution of the median is taken from its large-sample limit."""


@dataclass(frozen=True)
class Repetitions:
    """The observations of one cell, each an interval that holds the true value.

    The true value is assumed uniform over its interval on the original scale, not on the log scale: on a log scale, a
    target crossed before the first evaluation would pile up near the first example.

    Attributes:
        low: lower ends, exclusive (observations,).
        high: upper ends, inclusive (observations,).
        misses: further repetitions that never reached a value.
        limit: the largest value that could have been observed, where there are misses.
        logarithmic: True if the ends are logarithms. The median is then the logarithm of the median on the original
            scale, which differs for an even number of observations.
        least_spread: the least standard deviation of the values, even if a few happen to be equal.
    """

    low: Array
    high: Array
    misses: int = 0
    limit: float = np.inf
    logarithmic: bool = False
    least_spread: float = 0.0

    @classmethod
    def exact(cls, values: Sequence[float] | Array, *, logarithmic: bool = False) -> Repetitions:
        """Return repetitions whose values were observed without rounding."""
        known = np.asarray(values, dtype=np.float64)
        return cls(known, known, logarithmic=logarithmic)

    @property
    def count(self) -> int:
        """Number of repetitions, misses included."""
        return len(self.high) + self.misses

    @property
    def median(self) -> float:
        """Median of the upper ends; infinite where half or more are misses, NaN without repetitions."""
        if not self.count:
            return np.nan
        values = np.concatenate([self.ends[1], np.full(self.misses, np.inf)])
        return float(self.rescaled(np.median(values)))

    @property
    def ends(self) -> tuple[Array, Array]:
        """`low` and `high` on the original scale."""
        return (np.exp(self.low), np.exp(self.high)) if self.logarithmic else (self.low, self.high)

    @property
    def middles(self) -> Array:
        """Middle of each interval on the original scale, rescaled."""
        low, high = self.ends
        return self.rescaled((low + high) / 2)

    def rescaled(self, observed: Array) -> Array:
        """Convert from the original scale to that of `low` and `high`."""
        return np.log(observed) if self.logarithmic else observed


@dataclass(frozen=True)
class Locations:
    """Medians of cells with their uncertainty.

    Attributes:
        medians: as observed (cells,).
        centres: middle of the range that the observations allow (cells,); finite wherever a finite median is possible.
        errors: distribution of estimate minus truth (draws, cells).
        draws: plausible true medians (draws, cells), infinite as often as a median is plausibly never reached.
    """

    medians: Array
    centres: Array
    errors: Array
    draws: Array

    def __add__(self, other: Locations) -> Locations:
        """Return the locations of the sum of two independent quantities; for logarithms, of their product."""
        return Locations(
            self.medians + other.medians,
            self.centres + other.centres,
            self.errors + other.errors,
            self.draws + other.draws,
        )

    def shifted(self, by: Array) -> Locations:
        """Return the locations of the quantity plus a known constant per cell (cells,)."""
        return Locations(self.medians + by, self.centres + by, self.errors, self.draws + by)


def locate(
    cells: Sequence[Repetitions],
    order: Array | None = None,
    stream: int = 0,
    noise: tuple[float, float] | None = None,
) -> Locations:
    """Locate the median of every cell.

    Args:
        cells: the repetitions; a cell without any gets NaN.
        order: a position for each cell (log batch size), used to learn the spread where no cell was repeated.
        stream: which independent stream of random numbers to use, so that errors of two quantities are independent.
        noise: standard deviation of one repetition and its degrees of freedom, used where no cell was repeated; None to
            learn it from neighbours.
    """
    random = np.random.default_rng([SEED, stream])
    variances, freedom = _moderated(cells, order, noise)
    errors = _median_errors(cells, variances, freedom, random)
    within = random.random((DRAWS, len(cells)))
    miss_rate = _miss_rates(cells, random)
    medians = np.array([cell.median for cell in cells])
    centres, draws = np.full(len(cells), np.nan), np.full((DRAWS, len(cells)), np.nan)
    for at, cell in enumerate(cells):
        if len(cell.high):
            centres[at], draws[:, at] = _place(cell, within[:, at], miss_rate[:, at])
        elif cell.misses:
            centres[at], draws[:, at] = np.inf, np.inf
    rounding = np.where(np.isfinite(draws), draws - np.where(np.isfinite(centres), centres, 0), 0)
    draws = draws + errors
    limits = np.array([cell.limit if cell.misses else np.inf for cell in cells])
    return Locations(medians, centres, errors + rounding, np.where(draws > limits, np.inf, draws))


def _place(cell: Repetitions, within: Array, miss_rate: Array) -> tuple[float, Array]:
    """Return the centre of a cell, and draws (draws,) of its place given rounding (`within`, 0 to 1) and misses.

    One `within` moves all repetitions of a cell together, because it is unknown where between two evaluations they
    crossed.
    """
    lows, highs = cell.ends
    if not cell.misses:
        low, high = np.median(lows), np.median(highs)
        return float(cell.rescaled(np.asarray((low + high) / 2))), cell.rescaled(low + within * (high - low))
    share = 0.5 / np.maximum(1 - miss_rate, 0.5)
    low, high = _quantile(lows, share), _quantile(highs, share)
    drawn = cell.rescaled(low + within * (high - low))
    whole = min(0.5 * cell.count / len(cell.high), 1.0)
    centre = cell.rescaled((_quantile(lows, whole) + _quantile(highs, whole)) / 2)
    return float(centre), np.where(miss_rate < 0.5, drawn, np.inf)


def _quantile(values: Array, share: float | Array) -> Array:
    """Return Hazen's quantile of `values`, the repetitions without misses.

    The caller chooses `share` so that the result is the median of all repetitions.
    """
    return np.quantile(values, share, method="hazen")


def _miss_rates(cells: Sequence[Repetitions], random: np.random.Generator) -> Array:
    """Draw the probability (draws, cells) that a run misses: Jeffreys' posterior where one did, else 0."""
    misses = np.array([cell.misses for cell in cells])
    found = np.array([len(cell.high) for cell in cells])
    rates = np.zeros((DRAWS, len(cells)))
    missed = misses > 0
    rates[:, missed] = random.beta(misses[missed] + 0.5, found[missed] + 0.5, (DRAWS, int(missed.sum())))
    return rates


def _median_errors(
    cells: Sequence[Repetitions], variances: Array, freedom: Array, random: np.random.Generator
) -> Array:
    """Draw errors (draws, cells) of the median of each cell, Student-like because the variance is estimated.

    All cells of a draw share one quantile of chi-square, since their variances are estimated from the same residuals.
    """
    at = np.clip(random.random((DRAWS, 1)), 1e-6, 1 - 1e-6)
    different, which = np.unique(np.maximum(freedom, 1e-3), return_inverse=True)
    chi_square = (2 * special.gammaincinv(different / 2, at) / different)[:, which]
    medians = np.empty((DRAWS, len(cells)))
    for column, cell in enumerate(cells):
        count = max(len(cell.high), 1)
        if count < MANY:
            medians[:, column] = np.median(random.standard_normal((DRAWS, count)), axis=1)
        else:
            medians[:, column] = random.standard_normal(DRAWS) * np.sqrt(np.pi / 2 / count)
    return medians * np.sqrt(variances / chi_square)


def _moderated(
    cells: Sequence[Repetitions], order: Array | None, noise: tuple[float, float] | None = None
) -> tuple[Array, Array]:
    """Return a variance and its degrees of freedom for each cell (cells,), shrunk towards the common variance."""
    # The values of a cell with misses are cut off above, which would make the spread look smaller than it is.
    whole = [cell.misses == 0 for cell in cells] if any(not c.misses and len(c.high) > 1 for c in cells) else True
    freedom = np.where(whole, [max(len(cell.high) - 1.0, 0.0) for cell in cells], 0.0)
    own = np.array([_variance(cell) for cell in cells])
    repeated = freedom > 0
    if not repeated.any() and noise is not None:
        return np.full(len(cells), max(noise[0] ** 2, 1e-14)), np.full(len(cells), noise[1])
    if not repeated.any():
        return _from_neighbours(cells, order)
    return moderated(own, freedom)


def moderated(own: Array, freedom: Array) -> tuple[Array, Array]:
    """Return variances and their degrees of freedom (cells,), shrunk towards the common variance (Smyth, 2004).

    Args:
        own: variance of each cell (cells,), of any value where there is no freedom.
        freedom: degrees of freedom of each (cells,), above 0 for at least one.
    """
    repeated = freedom > 0
    prior, prior_freedom = _prior(own[repeated], freedom[repeated])
    total = freedom[repeated].sum()
    if np.isinf(prior_freedom):
        return np.full(len(own), prior), np.full(len(own), total)
    weight = np.where(repeated, freedom, 0.0)
    variances = (prior_freedom * prior + weight * np.where(repeated, own, 0.0)) / (prior_freedom + weight)
    return variances, np.minimum(prior_freedom + weight, total)


def _variance(cell: Repetitions) -> float:
    """Return the variance of the middles, at least the least spread and the one that rounding alone causes."""
    if len(cell.high) < 2:
        return np.nan
    width = np.minimum(cell.high - cell.low, np.log(4))
    return max(float(np.var(cell.middles, ddof=1)), float(np.mean(width**2)) / 12, cell.least_spread**2, 1e-14)


def _prior(variances: Array, freedom: Array) -> tuple[float, float]:
    """Return the common variance and its degrees of freedom by Smyth's moments; infinite if cells do not differ."""
    pooled = float(np.average(variances, weights=freedom))
    if len(variances) < 3:
        return pooled, np.inf
    scores = np.log(variances) - special.digamma(freedom / 2) + np.log(freedom / 2)
    excess = float(np.var(scores, ddof=1) - np.mean(special.polygamma(1, freedom / 2)))
    if excess <= 1e-3:
        return pooled, np.inf
    prior_freedom = 2 * _trigamma_inverse(excess)
    centre = np.mean(scores) + special.digamma(prior_freedom / 2) - np.log(prior_freedom / 2)
    return float(np.exp(centre)), prior_freedom


def _trigamma_inverse(value: float) -> float:
    """Solve trigamma(x) = `value` by Newton's method on its reciprocal, which is almost straight (Smyth, 2004)."""
    at = 0.5 + 1 / value
    for _ in range(50):
        trigamma = special.polygamma(1, at)
        at += trigamma * (1 - trigamma / value) / special.polygamma(2, at)
    return float(at)


def _from_neighbours(cells: Sequence[Repetitions], order: Array | None) -> tuple[Array, Array]:
    """Return the variance of cells about lines between their neighbours (Gasser et al., 1986), if none was repeated."""
    unknown = np.full(len(cells), np.nan), np.zeros(len(cells))
    found = np.array([at for at, cell in enumerate(cells) if len(cell.high)])
    if order is None or len(found) < 4:
        return unknown
    middle = np.array([cells[at].middles[0] for at in found])
    where = order[found]
    left = (where[2:] - where[1:-1]) / (where[2:] - where[:-2])
    residual = middle[1:-1] - left * middle[:-2] - (1 - left) * middle[2:]
    variance = float(np.mean(residual**2 / (1 + left**2 + (1 - left) ** 2)))
    least = max(cell.least_spread**2 for cell in cells)
    return np.full(len(cells), max(variance, least, 1e-14)), np.full(len(cells), float(len(found) - 2))


def interval(draws: Array) -> Interval:
    """Return the central 95% of draws (draws,); an infinite or unknown end is None."""
    if np.isnan(draws).any():
        return None, None
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(draws, [tail, 1 - tail], method="inverted_cdf")
    return finite(low), finite(high)


def finite(value: float) -> float | None:
    """Return the value, or None where it is infinite or unknown."""
    return float(value) if np.isfinite(value) else None


def exp(logarithms: Array) -> Array:
    """Return exponentials; overflow gives infinity, as draws around two very different seeds can cause."""
    with np.errstate(over="ignore"):
        return np.exp(logarithms)


def estimate(median: float, draws: Array, transform: Callable[[Array], Array] | None = None) -> Estimate:
    """Return an observed median with its interval, both transformed; the interval always includes the median."""
    values = transform(np.append(draws, median)) if transform else np.append(draws, median)
    low, high = interval(values[:-1])
    middle = finite(values[-1])
    if middle is not None and low is not None:
        low = min(low, middle)
    if middle is None or (high is not None and high < middle):
        high = middle
    return Estimate(median=middle, interval=(low, high))
