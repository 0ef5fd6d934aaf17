"""Choose the learning rate of every batch size on a surface that is fitted to all search trials together.

With u octaves between a rate and the best one of its batch size, a trial crosses the target after

    log n = g_B + c_- u^2 below the best rate, g_B + c_+ u^2 above it.

The best rate of batch size B is a parabola in log B, off which each batch size may lie. One search seed tells little of
a single batch size, but its neighbours err independently. The fit is the maximum of the posterior under weak priors.
Stopped trials and those that missed are censored: they say that the crossing comes later than their last evaluation.

Rates that are too high cost several times more than rates that are as much too low, so a doubtful best rate asks for a
lower one: the choice is the rate with the least expected regret, not the maximum of the fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy import optimize, special

from batchscale.statistics.curve_fit import Refusal

FEWEST_SIZES = 3
"""Batch sizes with at least `FEWEST_RATES` rates, one of which reached the target, that a surface needs."""
FEWEST_RATES = 3
NEARBY = 1.3
"""Log examples above the best trial of a batch size from which a trial is censored: the parabola holds nearby only."""
OFF_CURVE = 0.2
"""Prior standard deviation of the best rate about the curve, in octaves. Of the 14 pairs of rates that four published
studies confirmed, the choices are wrong once where it is 0.15 or 0.2, and three times where it is 0.35."""
DOUBT = 0.3
"""Standard deviation of a fitted best rate that the choice reckons with, in octaves."""
MOST_REGRET = 1.5
"""Regret in log examples at which the costs of a wrong rate are cut off."""
FREEDOM = 5.0
"""Degrees of freedom of the Student-t errors of a trial, which bound what one lucky or unlucky run can do."""
CURVATURE_BELOW = (np.log(0.10), 0.8)
"""Prior mean and standard deviation of log c_-."""
CURVATURE_ABOVE = (np.log(0.20), 0.8)
"""Prior mean and standard deviation of log c_+."""
BEND = 0.7
"""Prior standard deviation of the bend of the curve of best rates, in octaves over half of the range of log B."""
NOISE = (np.log(0.15), 0.4)
"""Prior mean and standard deviation of the logarithm of a trial's error."""
LEVEL = 3.0
"""Prior standard deviation of g_B about the median trial: so weak that it only keeps unreached batch sizes finite."""
PARTS = 4
"""Candidates per gap between two tried rates."""
WORTHWHILE = 0.005
"""Regret in log examples that a rate between tried ones must save to be chosen instead of a tried one."""
QUADRATURE = 41
"""Nodes of the expectation over a doubtful best rate."""


@dataclass(frozen=True)
class Trials:
    """The search trials of all batch sizes with the same options.

    Attributes:
        batch_sizes: Batch size of each trial.
        rates: Learning rate of each trial.
        log_examples: Where each crossed the target; its last evaluation where it did not.
        reached: True for trials that crossed the target.
    """

    batch_sizes: Float[np.ndarray, " trials"]
    rates: Float[np.ndarray, " trials"]
    log_examples: Float[np.ndarray, " trials"]
    reached: Bool[np.ndarray, " trials"]


class Choice(NamedTuple):
    """The rate chosen for one batch size.

    Attributes:
        batch_size: The batch size.
        rate: The chosen rate, within the range of those tried.
        regret: Expected cost of it not being the best, in log examples.
        tried: True if a search trial has this rate.
        by_neighbours: True if no trial of this batch size reached the target.
    """

    batch_size: float
    rate: float
    regret: float
    tried: bool
    by_neighbours: bool


@dataclass(frozen=True)
class Surface:
    """A fitted surface.

    Attributes:
        batch_sizes: The batch sizes, rising.
        ridge: Log2 of the best rate of each.
        ridge_errors: Standard deviations of `ridge`, from the curvature of the posterior.
        levels: Log examples to the target at the best rate.
        curvature_below, curvature_above: c_- and c_+, in log examples per squared octave.
        noise: Scale of a trial's error.
        choices: The chosen rate of each batch size.
    """

    batch_sizes: Float[np.ndarray, " sizes"]
    ridge: Float[np.ndarray, " sizes"]
    ridge_errors: Float[np.ndarray, " sizes"]
    levels: Float[np.ndarray, " sizes"]
    curvature_below: float
    curvature_above: float
    noise: float
    choices: tuple[Choice, ...]

    @property
    def best_rates(self) -> Float[np.ndarray, " sizes"]:
        """The rates on the ridge."""
        return 2**self.ridge

    @property
    def band(self) -> tuple[Float[np.ndarray, " sizes"], Float[np.ndarray, " sizes"]]:
        """The rates between which the best ones lie with 95% confidence."""
        reach = special.ndtri(0.975) * self.ridge_errors
        return 2 ** (self.ridge - reach), 2 ** (self.ridge + reach)

    def expected_regret(self, ridge: float, log2_rates: Float[np.ndarray, " rates"]) -> Float[np.ndarray, " rates"]:
        """Return the expected regret of rates where the best one is at `ridge`, give or take `DOUBT`."""
        nodes = special.ndtri((np.arange(QUADRATURE) + 0.5) / QUADRATURE)
        off = log2_rates[:, None] - (ridge + DOUBT * nodes)
        costs = np.where(off < 0, self.curvature_below, self.curvature_above) * off**2
        return np.minimum(costs, MOST_REGRET).mean(axis=1)

    def rate_at(self, batch_size: float | int) -> float:
        """Return the rate for an untried batch size between tried ones: that of least regret about the ridge there."""
        ridge = float(np.interp(np.log(batch_size), np.log(self.batch_sizes), self.ridge))
        candidates = ridge + np.linspace(-2, 2, 161)
        return float(2 ** candidates[np.argmin(self.expected_regret(ridge, candidates))])


class _Problem(NamedTuple):
    """Arrays of the posterior. Parameters: ridge and level of each size, then a, b, c, log c_-, log c_+, log sigma.

    `freedom` is the number of trials that tell the noise: those that reached the target, less one for each
    level and for each of a, b, c, c_- and c_+.
    """

    size: NDArray[np.intp]
    rate: Float[np.ndarray, " trials"]
    seen: Float[np.ndarray, " trials"]
    reached: Bool[np.ndarray, " trials"]
    basis: Float[np.ndarray, "sizes 3"]
    middle: float
    freedom: int


def fit_surface(trials: Trials, *, between: bool = True) -> Surface:
    """Fit the surface and choose a rate for every batch size.

    Args:
        trials: The search trials.
        between: Whether a rate between two tried ones may be chosen.

    Raises:
        Refusal: fewer than three batch sizes with three rates and a trial that reached the target.
    """
    sizes, which = np.unique(trials.batch_sizes, return_inverse=True)
    _refuse(trials)
    problem = _problem(sizes, which, trials)
    best = _maximum(problem)
    count = len(sizes)
    ridge, levels = best[:count], best[count : 2 * count]
    below, above, noise = np.exp(best[2 * count + 3 :]).tolist()
    fitted = Surface(sizes, ridge, _ridge_errors(problem, best), levels, below, above, noise, ())
    choices = tuple(_choice(fitted, at, trials, which == at, between) for at in range(count))
    return Surface(sizes, ridge, fitted.ridge_errors, levels, below, above, noise, choices)


def _refuse(trials: Trials) -> None:
    supported = sizes_with_rates(trials.batch_sizes, trials.rates, trials.reached)
    if supported < FEWEST_SIZES:
        raise Refusal(
            f"{supported} batch sizes have {FEWEST_RATES} rates and reached the target, "
            f"and a surface of rates needs {FEWEST_SIZES}"
        )


def sizes_with_rates(
    batch_sizes: Float[np.ndarray, " trials"],
    rates: Float[np.ndarray, " trials"],
    usable: Bool[np.ndarray, " trials"],
) -> int:
    """Return how many batch sizes support a surface: by `FEWEST_RATES` rates and a trial that is usable."""
    own = [batch_sizes == size for size in np.unique(batch_sizes)]
    return sum(bool(usable[one].any()) and len(np.unique(rates[one])) >= FEWEST_RATES for one in own)


def _problem(sizes: Float[np.ndarray, " sizes"], which: NDArray[np.intp], trials: Trials) -> _Problem:
    least = np.full(len(sizes), np.inf)
    np.minimum.at(least, which[trials.reached], trials.log_examples[trials.reached])
    farthest = least[which] + NEARBY
    logs = np.log2(sizes)
    scaled = (2 * logs - logs[0] - logs[-1]) / max(logs[-1] - logs[0], 1e-9)
    reached = trials.reached & (trials.log_examples <= farthest)
    return _Problem(
        which,
        np.log2(trials.rates),
        np.minimum(trials.log_examples, farthest),
        reached,
        np.stack([np.ones_like(scaled), scaled, scaled**2], axis=1),
        float(np.median(trials.log_examples[trials.reached])),
        max(int(reached.sum()) - len(np.unique(which[reached])) - 5, 1),
    )


def _maximum(problem: _Problem) -> Float[np.ndarray, " parameters"]:
    """Return the parameters of the largest posterior, from the ridge through the best trial of each size."""
    count = len(problem.basis)
    at_best, levels = np.full(count, np.nan), np.full(count, problem.middle)
    for size in range(count):
        own = (problem.size == size) & problem.reached
        if own.any():
            at_best[size] = problem.rate[own][np.argmin(problem.seen[own])]
            levels[size] = problem.seen[own].min()
    known = np.isfinite(at_best)
    line = np.linalg.lstsq(problem.basis[known, :2], at_best[known], rcond=None)[0]
    ridge = problem.basis[:, :2] @ line
    levels[~known] = problem.middle + 1
    start = np.concatenate([ridge, levels, line, [0.0, CURVATURE_BELOW[0], CURVATURE_ABOVE[0], NOISE[0]]])
    found = optimize.minimize(_loss, start, args=(problem,), jac=True, method="L-BFGS-B", options={"maxiter": 500})
    return np.asarray(found.x, dtype=np.float64)


def _loss(
    parameters: Float[np.ndarray, " parameters"], problem: _Problem
) -> tuple[float, Float[np.ndarray, " parameters"]]:
    """Return the negative logarithm of the posterior, up to a constant, and its gradient."""
    count = len(problem.basis)
    ridge, levels, curve = parameters[:count], parameters[count : 2 * count], parameters[2 * count : 2 * count + 3]
    log_below, log_above, log_noise = parameters[2 * count + 3 :]
    off = problem.rate - ridge[problem.size]
    curvature = np.where(off < 0, np.exp(log_below), np.exp(log_above))
    cost = curvature * off**2
    noise = np.exp(log_noise)
    error = (levels[problem.size] + cost - problem.seen) / noise
    each, by_error = _of_trials(error, problem.reached)
    gradient = np.zeros_like(parameters)
    by_mean = by_error / noise
    gradient[:count] = -np.bincount(problem.size, 2 * by_mean * curvature * off, count)
    gradient[count : 2 * count] = np.bincount(problem.size, by_mean, count)
    gradient[-3] = (by_mean * cost)[off < 0].sum()
    gradient[-2] = (by_mean * cost)[off >= 0].sum()
    gradient[-1] = problem.freedom - (by_error * error).sum()
    apart = (ridge - problem.basis @ curve) / OFF_CURVE
    gradient[:count] += apart / OFF_CURVE
    gradient[2 * count : 2 * count + 3] -= problem.basis.T @ apart / OFF_CURVE
    total = each.sum() + problem.freedom * log_noise + 0.5 * apart @ apart
    priors = (
        (slice(count, 2 * count), problem.middle, LEVEL),
        (2 * count + 2, 0.0, BEND),
        (-3, *CURVATURE_BELOW),
        (-2, *CURVATURE_ABOVE),
        (-1, *NOISE),
    )
    for where, mean, spread in priors:
        deviation = (parameters[where] - mean) / spread
        total += 0.5 * np.sum(deviation**2)
        gradient[where] += deviation / spread
    return float(total), gradient


def _of_trials(
    error: Float[np.ndarray, " trials"], reached: Bool[np.ndarray, " trials"]
) -> tuple[Float[np.ndarray, " trials"], Float[np.ndarray, " trials"]]:
    """Return each trial's part of the loss and its derivative by the error, in units of the noise."""
    student = 0.5 * (FREEDOM + 1) * np.log1p(error**2 / FREEDOM)
    by_student = (FREEDOM + 1) * error / (FREEDOM + error**2)
    log_chance = special.log_ndtr(error)
    by_censored = -np.exp(-0.5 * error**2 - 0.5 * np.log(2 * np.pi) - log_chance)
    return np.where(reached, student, -log_chance), np.where(reached, by_student, by_censored)


def _ridge_errors(problem: _Problem, best: Float[np.ndarray, " parameters"]) -> Float[np.ndarray, " sizes"]:
    """Return standard deviations of the ridge from the curvature of the loss at its minimum (Laplace)."""
    step = 1e-4
    rows = [
        (_loss(best + shift, problem)[1] - _loss(best - shift, problem)[1]) / (2 * step)
        for shift in step * np.eye(len(best))
    ]
    curvature = (np.array(rows) + np.array(rows).T) / 2
    values, vectors = np.linalg.eigh(curvature)
    covariance = (vectors / np.maximum(values, 1e-3)) @ vectors.T
    return np.sqrt(np.diag(covariance)[: len(problem.basis)])


def _choice(surface: Surface, at: int, trials: Trials, own: Bool[np.ndarray, " trials"], between: bool) -> Choice:
    tried = np.unique(np.log2(trials.rates[own]))
    positions = np.arange(0, len(tried) - 1 + 1e-9, 1 / PARTS)
    finer = np.interp(positions, np.arange(len(tried)), tried) if between else tried
    ridge = float(surface.ridge[at])
    regrets, fine_regrets = surface.expected_regret(ridge, tried), surface.expected_regret(ridge, finer)
    best, best_fine = int(np.argmin(regrets)), int(np.argmin(fine_regrets))
    by_neighbours = not trials.reached[own].any()
    size = float(surface.batch_sizes[at])
    if fine_regrets[best_fine] < regrets[best] - WORTHWHILE:
        return Choice(size, float(2 ** finer[best_fine]), float(fine_regrets[best_fine]), False, by_neighbours)
    rates = trials.rates[own]
    rate = rates[np.argmin(np.abs(np.log2(rates) - tried[best]))]
    return Choice(size, float(rate), float(regrets[best]), True, by_neighbours)
