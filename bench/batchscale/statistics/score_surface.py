"""Fit final scores by a smooth surface over the logarithms of batch size and learning rate; its residual is the noise.

With x and z the base-2 logarithms of batch size and rate, the score near the best is

    y = b_0 + b_1 x + b_2 z + b_3 x^2 + b_4 x z + b_5 z^2,

the response surface of Box and Wilson (1951). On it the best rate is a power of the batch size, with exponent
-b_4 / (2 b_5). `rate_surface` fits another surface, to the examples until a target is reached.

A parabola holds only near the best. While cubic terms explain significantly more, the quarter of the runs with the
worst fitted scores is left out. Runs are left out by their fitted scores, since their own scores hold the noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from batchscale.statistics.curve_fit import Refusal
from batchscale.statistics.estimate import Interval
from batchscale.statistics.intervals import LEVEL, SEED
from batchscale.statistics.rate_surface import FEWEST_RATES, FEWEST_SIZES, sizes_with_rates

FEWEST_RUNS = 12
"""Runs that a fit needs: ten parameters with the cubic terms, and two more for the noise."""
KEPT = 0.75
"""The share of the runs that is kept where a parabola does not hold for all."""
SIGNIFICANT = 0.05
DRAWS = 4000
SMALLEST_NOISE = 1e-6
"""Least noise, as a share of the spread of the scores: rounding of printed scores."""
STREAM = 17


@dataclass(frozen=True)
class Finals:
    """One final score of each run.

    Attributes:
        batch_sizes: Batch size of each run.
        rates: Learning rate of each run.
        scores: Oriented so that the least is best; not finite for runs that diverged.
    """

    batch_sizes: Float[np.ndarray, " runs"]
    rates: Float[np.ndarray, " runs"]
    scores: Float[np.ndarray, " runs"]


class Ranged(NamedTuple):
    """A value with its 95% interval."""

    value: float
    interval: Interval


@dataclass(frozen=True)
class ScoreSurface:
    """The fitted surface.

    Attributes:
        batch_size, rate: Where the surface has its best score. An end of an interval outside of the grid is None.
        score: The score there, oriented as in `Finals`.
        exponent: Power of the batch size that the best rate is proportional to.
        noise: Standard deviation of a run about the surface.
        runs: How many runs were fitted.
        left_out: How many were too far from the best or diverged.
    """

    batch_size: Ranged
    rate: Ranged
    score: Ranged
    exponent: Ranged
    noise: float
    runs: int
    left_out: int


class _Fit(NamedTuple):
    """Least squares: coefficients, the root of their covariance, and the residuals."""

    coefficients: Float[np.ndarray, " terms"]
    fitted: Float[np.ndarray, " runs"]
    squares: float
    root: Float[np.ndarray, "terms terms"]


def fit_score_surface(finals: Finals) -> ScoreSurface:
    """Fit the surface and find its best point.

    Raises:
        Refusal: when the grid is too small, no neighbourhood of the best is a parabola, the surface has no least score,
            or its least score is outside the grid.
    """
    kept = np.isfinite(finals.scores)
    x, z = np.log2(finals.batch_sizes), np.log2(finals.rates)
    while True:
        _refuse_small(finals, kept)
        centre = np.array([x[kept].mean(), z[kept].mean()])
        at = np.stack([x[kept] - centre[0], z[kept] - centre[1]], axis=1)
        found = _least_squares(_quadratic(at), finals.scores[kept])
        cubic = _least_squares(_cubic(at), finals.scores[kept])
        if not _bends_otherwise(found, cubic, finals.scores[kept]):
            break
        worst = np.argsort(cubic.fitted, kind="stable")[int(KEPT * kept.sum()) :]
        kept[np.flatnonzero(kept)[worst]] = False
    return _optimum(found, at, centre, len(x) - len(at))


def _refuse_small(finals: Finals, kept: Bool[np.ndarray, " runs"]) -> None:
    sizes = sizes_with_rates(finals.batch_sizes[kept], finals.rates[kept], kept[kept])
    if sizes < FEWEST_SIZES or kept.sum() < FEWEST_RUNS:
        near = "" if kept.all() else " near the best"
        raise Refusal(
            f"{kept.sum()} runs{near}, with {FEWEST_RATES} rates at {sizes} batch sizes, and a surface of scores needs "
            f"{FEWEST_RUNS} runs with {FEWEST_RATES} rates at {FEWEST_SIZES} batch sizes"
        )


def _quadratic(at: Float[np.ndarray, "runs 2"]) -> Float[np.ndarray, "runs 6"]:
    x, z = at.T
    return np.stack([np.ones_like(x), x, z, x**2, x * z, z**2], axis=1)


def _cubic(at: Float[np.ndarray, "runs 2"]) -> Float[np.ndarray, "runs 10"]:
    x, z = at.T
    return np.concatenate([_quadratic(at), np.stack([x**3, x**2 * z, x * z**2, z**3], axis=1)], axis=1)


def _least_squares(terms: Float[np.ndarray, "runs terms"], scores: Float[np.ndarray, " runs"]) -> _Fit:
    inverse = np.linalg.pinv(terms)
    coefficients = inverse @ scores
    fitted = terms @ coefficients
    left, spread, _ = np.linalg.svd(inverse, full_matrices=False)
    # The symmetric root does not depend on the signs of the singular vectors, which differ between machines.
    root = (left * spread) @ left.T
    return _Fit(coefficients, fitted, float(np.sum((scores - fitted) ** 2)), root)


def _bends_otherwise(found: _Fit, cubic: _Fit, scores: Float[np.ndarray, " runs"]) -> bool:
    """Return True if cubic terms explain significantly more than the parabola, by the F test."""
    more = np.linalg.matrix_rank(cubic.root) - np.linalg.matrix_rank(found.root)
    freedom = len(scores) - np.linalg.matrix_rank(cubic.root)
    if more < 1 or freedom < 1:
        return False
    noise = max(cubic.squares / freedom, _least_variance(scores))
    return bool(stats.f.sf((found.squares - cubic.squares) / more / noise, more, freedom) < SIGNIFICANT)


def _least_variance(scores: Float[np.ndarray, " runs"]) -> float:
    return (SMALLEST_NOISE * max(float(np.ptp(scores)), 1e-300)) ** 2


def _optimum(
    found: _Fit, at: Float[np.ndarray, "runs 2"], centre: Float[np.ndarray, " 2"], left_out: int
) -> ScoreSurface:
    freedom = len(at) - len(found.coefficients)
    variance = found.squares / freedom
    best, value, exponent = (one[0] for one in _stationary(found.coefficients[None]))
    if not np.isfinite(best).all():
        raise Refusal("the scores have no best point within the grid: the surface does not bend upward on all sides")
    low, high = at.min(axis=0), at.max(axis=0)
    names = ("batch size", "learning rate")
    if outside := [
        name for name, here, first, last in zip(names, best, low, high, strict=True) if not first <= here <= last
    ]:
        raise Refusal(f"the best {outside[0]} of the surface is outside of the grid; a wider grid would show it")
    random = np.random.default_rng([SEED, STREAM])
    student = random.standard_normal((DRAWS, found.root.shape[1]))
    student /= np.sqrt(random.chisquare(freedom, (DRAWS, 1)) / freedom)
    places, values, exponents = _stationary(found.coefficients + np.sqrt(variance) * student @ found.root.T)
    if np.mean(~np.isfinite(places[:, 0])) > 1 - LEVEL:
        raise Refusal("the scores vary too much to show that they have a best point within the grid")
    size, rate = (
        Ranged(float(2 ** (best[axis] + centre[axis])), _within(places[:, axis], low[axis], high[axis], centre[axis]))
        for axis in (0, 1)
    )
    return ScoreSurface(
        size,
        rate,
        Ranged(float(value), _interval(values)),
        Ranged(float(exponent), _interval(exponents)),
        float(np.sqrt(variance)),
        len(at),
        left_out,
    )


def _stationary(
    coefficients: Float[np.ndarray, "draws 6"],
) -> tuple[Float[np.ndarray, "draws 2"], Float[np.ndarray, " draws"], Float[np.ndarray, " draws"]]:
    """Return the place and the value of the least score and the exponent of the best rate; NaN where there is none."""
    level, by_x, by_z, xx, xz, zz = coefficients.T
    discriminant = 4 * xx * zz - xz**2
    least = (discriminant > 0) & (zz > 0)
    safe = np.where(least, discriminant, 1.0)
    x = np.where(least, (xz * by_z - 2 * zz * by_x) / safe, np.nan)
    z = np.where(least, (xz * by_x - 2 * xx * by_z) / safe, np.nan)
    exponents = np.where(zz > 0, -xz / (2 * np.where(zz > 0, zz, 1.0)), np.nan)
    return np.stack([x, z], axis=1), level + (by_x * x + by_z * z) / 2, exponents


def _interval(draws: Float[np.ndarray, " draws"]) -> tuple[float, float]:
    low, high = np.nanquantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return low, high


def _within(draws: Float[np.ndarray, " draws"], low: float, high: float, centre: float) -> Interval:
    """Return the interval of a logarithm in its own unit; None for an end that no run of the grid supports."""
    first, last = _interval(draws)
    return (
        float(2 ** (first + centre)) if first >= low else None,
        float(2 ** (last + centre)) if last <= high else None,
    )
