"""Fit the curve that serves both halves, y(B) = y_0 (1 + B / knee), and straight lines.

Examples to target follow it with knee B_crit (McCandlish et al., 2018: E = E_min (1 + B / B_crit), which is S = S_min
(1 + B_crit / B) in steps), seconds per step with knee alpha / beta (alpha + beta B). Their product, the time to the
target, is least at the geometric mean of the two knees.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from batchscale.statistics.estimate import Interval
from batchscale.statistics.intervals import SEED, Array, interval

FEWEST_CELLS = 4
LARGEST_ERROR = 0.30
"""Root-mean-square relative residual above which a fit is refused. The worst published benchmarks come to 25%."""
REACH = 100.0
"""Knees are tried up to this factor beyond the sweep. A fit whose interval reaches that far is refused."""
GRID = 321
"""Knees that are tried, evenly spaced on a log scale; the best is then interpolated between them."""
TUKEY = 4.685
"""Tukey's constant: 95% efficiency when the residuals are normal, no influence beyond this many scales."""
UNHEARD = 0.1
"""Tukey weight below which a batch size is an outlier."""
SMALLEST_SCALE = 0.05
"""Smallest scale of the residuals of log y: a few percent are the error of the model, not of an outlier."""


class Refusal(Exception):  # noqa: N818 - it is an answer, not a failure
    """The data support no fit; the message is the reason that a reader is given."""


@dataclass(frozen=True)
class Knee:
    """A fitted curve y(B) = scale (1 + B / knee).

    Attributes:
        scale: y_0, in the unit of y.
        knee: the batch size at which y is twice y_0.
        knee_draws: bootstrap distribution of the knee (draws,).
        interval: 95% interval of the knee.
        fit_error: root mean square of the residuals of log y.
        batch_sizes: the batch sizes that were fitted.
        outliers: those of `batch_sizes` that have no influence on the fit.
    """

    scale: float
    knee: float
    knee_draws: Array
    interval: Interval
    fit_error: float
    batch_sizes: list[int]
    outliers: list[int]

    def __call__(self, batch_size: float | Array) -> float | Array:
        """Return y at a batch size."""
        return self.scale * (1 + batch_size / self.knee)


def fit_knee(batch_sizes: NDArray[np.int64], log_values: Array, errors: Array, stream: int = 0) -> Knee:
    """Fit the curve by weighted least squares on logarithms, with Tukey's weights against outliers.

    The interval is from a parametric bootstrap: each value is moved around the fit by its own errors and by the part of
    the residuals that these errors do not explain.

    Args:
        batch_sizes: (batch sizes,).
        log_values: (batch sizes,), not finite where there is no value.
        errors: (draws, batch sizes), errors of the log values.
        stream: which independent stream of random numbers to use.

    Raises:
        Refusal: fewer than four batch sizes, no bend within the sweep, or residuals too large.
    """
    kept = np.isfinite(log_values)
    if kept.sum() < FEWEST_CELLS:
        raise Refusal(f"a fit needs {FEWEST_CELLS} batch sizes with a value, and found {kept.sum()}")
    sizes, values = batch_sizes[kept].astype(np.float64), log_values[kept]
    noise = np.nan_to_num(errors[:, kept])
    grid = np.geomspace(sizes.min() / REACH, sizes.max() * REACH, GRID)
    shapes = np.log1p(sizes / grid[:, None])
    own = np.sqrt(np.mean(noise**2, axis=0))
    influence = _influence(values, shapes, own)
    unexplained, fit_error = _unexplained(values, shapes, influence, own)
    weights = influence / (own**2 + unexplained**2 + 1e-8)
    at, scale = _least_squares(values[None], shapes, weights)
    draws = _bootstrap(scale[0] + _shape(shapes, at[0]), noise, unexplained, shapes, weights, stream)
    knee, knee_draws = _between(grid, at)[0], _between(grid, draws)
    outliers = sizes[influence < UNHEARD].astype(int).tolist()
    _refuse(knee_draws, fit_error, outliers, sizes)
    return Knee(
        float(np.exp(scale[0])),
        float(knee),
        knee_draws,
        interval(knee_draws),
        fit_error,
        sizes.astype(int).tolist(),
        outliers,
    )


def _refuse(knee_draws: Array, fit_error: float, outliers: list[int], sizes: Array) -> None:
    low, high = np.quantile(knee_draws, [0.025, 0.975])
    largest, smallest = sizes.max(), sizes.min()
    if len(outliers) > len(sizes) // 4:
        raise Refusal(f"{len(outliers)} of {len(sizes)} batch sizes are far from every such curve")
    if fit_error > LARGEST_ERROR:
        raise Refusal(f"the fit error of {fit_error:.0%} is above the {LARGEST_ERROR:.0%} at which a fit is refused")
    if high > largest * REACH * 0.9:
        raise Refusal(f"the data do not bend within the sweep: the knee is above {low:.3g} with no upper bound")
    if low < smallest / REACH * 1.1:
        raise Refusal(f"the data do not bend within the sweep: the knee is below {high:.3g} with no lower bound")


def _influence(values: Array, shapes: Array, own: Array) -> Array:
    """Return Tukey's weights (batch sizes,) about the curve with the least absolute residuals."""
    residuals = values - shapes
    residuals = residuals - np.median(residuals, axis=1, keepdims=True)
    best = residuals[np.argmin(np.abs(residuals).sum(axis=1))]
    scale = max(1.4826 * float(np.median(np.abs(best))), float(np.median(own)), SMALLEST_SCALE)
    weights = np.ones_like(values)
    for _ in range(20):
        ratio = np.minimum(np.abs(best) / (TUKEY * scale), 1.0)
        weights = (1 - ratio**2) ** 2
        at, level = _least_squares(values[None], shapes, np.maximum(weights, 1e-6))
        best = values - level[0] - _shape(shapes, at[0])
    return weights


def _unexplained(values: Array, shapes: Array, influence: Array, own: Array) -> tuple[float, float]:
    """Return the spread of the residuals beyond the `own` errors, and the root mean square of the residuals."""
    at, level = _least_squares(values[None], shapes, influence)
    # Without Tukey's weights, which would shrink large residuals and with them the spread.
    heard = influence >= UNHEARD
    residuals = (values - level[0] - _shape(shapes, at[0]))[heard]
    mean_square = float(np.mean(residuals**2))
    unbiased = mean_square * len(residuals) / max(len(residuals) - 2, 1)
    return float(np.sqrt(max(unbiased - np.mean(own[heard] ** 2), 0.0))), float(np.sqrt(mean_square))


def _least_squares(values: Array, shapes: Array, weights: Array) -> tuple[Array, Array]:
    """Return the best position on the grid (draws,), interpolated, and the level (draws,) of each of `values`."""
    share = weights / weights.sum()
    centred_values = values - (values @ share)[:, None]
    centred_shapes = shapes - (shapes @ share)[:, None]
    # The sum of squares of (values - shapes), without the part that is the same for all shapes.
    cost = (centred_shapes**2 @ share)[None] - 2 * (centred_values * share) @ centred_shapes.T
    at = np.argmin(cost, axis=1)
    inner = np.clip(at, 1, len(shapes) - 2)
    rows = np.arange(len(values))
    before, here, after = cost[rows, inner - 1], cost[rows, inner], cost[rows, inner + 1]
    bend = before - 2 * here + after
    moved = inner + np.clip(0.5 * (before - after) / np.maximum(bend, 1e-300), -1, 1)
    position = np.where(at == inner, moved, at)
    return position, values @ share - np.interp(position, np.arange(len(shapes)), shapes @ share)


def _between(grid: Array, position: Array) -> Array:
    return np.exp(np.interp(position, np.arange(len(grid)), np.log(grid)))


def _shape(shapes: Array, position: float) -> Array:
    """Interpolate the shape (batch sizes,) at a position between two positions of the grid."""
    before = min(int(position), len(shapes) - 2)
    return shapes[before] + (position - before) * (shapes[before + 1] - shapes[before])


def _bootstrap(fitted: Array, noise: Array, unexplained: float, shapes: Array, weights: Array, stream: int) -> Array:
    """Return positions on the grid (draws,) of fits to the fitted curve plus drawn errors."""
    random = np.random.default_rng([SEED, 7, stream])
    freedom = max(float((weights > weights.max() * 1e-3).sum()) - 2, 1.0)
    student = random.standard_normal(noise.shape) / np.sqrt(random.chisquare(freedom, (len(noise), 1)) / freedom)
    position, _ = _least_squares(fitted + noise + unexplained * student, shapes, weights)
    return position


def best_between_knees(one: Knee, other: Knee) -> tuple[float, Interval]:
    """Return B* = sqrt(knee x knee), where the product of the two curves divided by B is least, with its interval."""
    draws = np.sqrt(one.knee_draws * other.knee_draws)
    return float(np.sqrt(one.knee * other.knee)), interval(draws)


def fit_slopes_of_parabola(
    where: Array, values: Array, least_variance: float = 0.0
) -> tuple[tuple[float, Interval], tuple[float, Interval], float]:
    """Return the slopes of a fitted parabola at the least and at the greatest position, and its turning point.

    The intervals are 95% t intervals. The turning point is infinite for a straight line.

    Args:
        where: positions (n,), at least four of them different.
        values: (n,).
        least_variance: the least variance of the residuals, such as that of rounding.
    """
    terms = np.stack([np.ones_like(where), where, where**2], axis=1)
    inverse = np.linalg.pinv(terms)
    level = inverse @ values
    freedom = len(where) - 3
    variance = max(float(np.sum((values - terms @ level) ** 2)) / freedom, least_variance)
    covariance = variance * inverse @ inverse.T
    reach = float(stats.t.ppf(0.975, freedom))
    slopes: list[tuple[float, Interval]] = []
    for end in (where.min(), where.max()):
        direction = np.array([0.0, 1.0, 2 * end])
        slope, off = float(direction @ level), reach * float(np.sqrt(direction @ covariance @ direction))
        slopes.append((slope, (slope - off, slope + off)))
    turn = float(-level[1] / (2 * level[2])) if level[2] else np.inf
    return slopes[0], slopes[1], turn


def fit_powers(where: Array, values: Array) -> list[tuple[float, Interval]]:
    """Return the least-squares coefficient of each column of `where`, with its 95% t interval.

    Args:
        where: positions (n, columns).
        values: (n,).

    Raises:
        Refusal: fewer than two more values than parameters, or columns that move together.
    """
    count, columns = where.shape
    freedom = count - columns - 1
    if freedom < 2:
        exponents = "an exponent needs" if columns == 1 else f"{columns} exponents need"
        raise Refusal(f"{count} groups have an answer, and {exponents} {columns + 3}")
    terms = np.concatenate([np.ones((count, 1)), where - where.mean(axis=0)], axis=1)
    if np.linalg.matrix_rank(terms) <= columns:
        raise Refusal("the columns move together in these groups, so that their exponents cannot be separated")
    inverse = np.linalg.pinv(terms)
    level = inverse @ values
    variance = float(np.sum((values - terms @ level) ** 2)) / freedom
    reach = stats.t.ppf(0.975, freedom) * np.sqrt(variance * np.diag(inverse @ inverse.T))
    return [(float(one), (float(one - off), float(one + off))) for one, off in zip(level[1:], reach[1:], strict=True)]


def fit_slope(where: Array, values: Array, freedom: int, least_variance: float = 0.0) -> tuple[float, Interval]:
    """Return the least-squares slope of `values` on `where` with its 95% t interval.

    Args:
        where: positions (n,), centred on 0.
        values: (n,).
        freedom: degrees of freedom of the residuals.
        least_variance: the least variance of the residuals, such as that of rounding.
    """
    slope = float(where @ values / (where @ where))
    residuals = values - values.mean() - slope * where
    variance = max(float(residuals @ residuals) / freedom, least_variance)
    reach = float(stats.t.ppf(0.975, freedom) * np.sqrt(variance / (where @ where)))
    return slope, (slope - reach, slope + reach)
