"""Decide which arms can still be the best, and how much worse than the best each of them is at most.

An arm is out where it exceeds another by more than chance allows (Hsu, 1981, Annals of Statistics 9: one-sided
multiple comparisons with the best). The bound of an arm is the most by which it can exceed the best (Hsu, 1984, ibid.
12; Edwards & Hsu, 1983, JASA 78). One critical value serves both, the largest over the arms: the event that the errors
of the truly best arm against all others stay below it makes the set and all bounds true together. So the arm with the
least bound can be recommended without a further price for having chosen it. On that event the best arm is not out,
so a bound is taken over the arms that are not out.

Some arms are known by a lower limit alone. Such an arm is out where its limit exceeds another arm by more than chance
allows. It bounds the others as if it were at its limit. It calls no other arm out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy import special

from batchscale.statistics.effects import Effects, Source
from batchscale.statistics.intervals import DRAWS as FEWER_DRAWS
from batchscale.statistics.intervals import SEED, Locations

DRAWS = 10_000
"""Random draws of the errors; at a level of 0.4%, 40 of them lie beyond the critical value."""
MIDDLE = 0.5
"""Share of runs from which a miss is the typical run."""
LEAST_SPREAD = 1e-12
DEVIATES = np.linspace(-5, 5, 401)
"""Normal deviates at which quantiles of variances are computed; they are straight between them."""


@dataclass(frozen=True)
class Comparison:
    """Arms compared at one level, least first; all quantities are logarithms.

    Attributes:
        alpha: Chance that the truly best arm is called out, or that any bound is wrong.
        among: The arms that were compared.
        out: The compared arms that are not the best.
        centres: Estimates; NaN where an arm has none, or only a lower limit.
        bounds: How much each arm that is not out can exceed the best at most; infinite where nothing bounds it.
        critical: Critical value of the bounds, in standard deviations of a difference; NaN with one arm.
        variances: Variance of the difference of two arms by source, (arms, arms) each.
    """

    alpha: float
    among: Bool[np.ndarray, " arms"]
    out: Bool[np.ndarray, " arms"]
    centres: Float[np.ndarray, " arms"]
    bounds: Float[np.ndarray, " arms"]
    critical: float
    variances: dict[Source, Float[np.ndarray, "arms arms"]]

    @property
    def tied(self) -> Bool[np.ndarray, " arms"]:
        """True for the arms that can be the best."""
        return self.among & ~self.out

    @property
    def recommended(self) -> int | None:
        """The arm with the least bound; where nothing is bounded, the tied one with the least estimate, or None."""
        ranks = [self.bounds, self.centres]
        for rank in ranks:
            known = self.tied & np.isfinite(rank)
            if known.any():
                return int(np.argmin(np.where(known, rank, np.inf)))
        return None

    def among_others(self, arms: Int[np.ndarray, " arms"], count: int) -> Comparison:
        """Return this comparison as one of `count` arms, in which its own arms have the numbers `arms`."""

        def spread(values: np.ndarray, missing: object) -> np.ndarray:
            whole = np.full((count,) * values.ndim, missing)
            whole[np.ix_(*[arms] * values.ndim)] = values
            return whole

        return replace(
            self,
            among=spread(self.among, False),
            out=spread(self.out, False),
            centres=spread(self.centres, np.nan),
            bounds=spread(self.bounds, np.inf),
            variances={source: spread(part, np.nan) for source, part in self.variances.items()},
        )

    def bound_after(self, factors: dict[Source, float]) -> float:
        """Predict the least bound if the data of some sources were multiplied, such as seeds by 2.

        The estimates are taken to stay where they are.
        """
        variance = sum((part / factors.get(source, 1.0) for source, part in self.variances.items()), np.zeros(()))
        usable = self.tied & np.isfinite(self.centres)
        bounds = _bounds(self.centres[usable], variance[np.ix_(usable, usable)], self.critical)
        return float(np.min(bounds, initial=np.inf))

    def shares(self, arm: int) -> dict[Source, float]:
        """Return what share each source has of the variance of the difference that the bound of an arm rests on."""
        total = sum(self.variances.values(), np.zeros(()))
        usable = np.flatnonzero(self.tied & np.isfinite(self.centres))
        usable = usable[usable != arm]
        if not len(usable):
            return {}
        reach = self.centres[arm] - self.centres[usable] + self.critical * np.sqrt(total[arm, usable])
        rival = usable[np.argmax(reach)]
        return {source: float(part[arm, rival] / total[arm, rival]) for source, part in self.variances.items()}


def compare(
    effects: Effects, among: Bool[np.ndarray, " arms"], alpha: float, stream: int = 0, draws: int = DRAWS
) -> Comparison:
    """Compare arms, of which the least is best.

    Args:
        effects: Estimates of the logarithm of a quantity, with their errors.
        among: The arms to compare; the others serve for variances only.
        alpha: Chance of an error that is allowed.
        stream: Which independent stream of random numbers to use.
        draws: Random draws of the errors.
    """
    random = np.random.default_rng([SEED, 11, stream])
    never = _chance_of_missing(effects)
    later, later_draws = _lateness(effects, random, draws)
    centres = effects.centres + later
    variances: dict[Source, Float[np.ndarray, "arms arms"]] = {}
    variances |= {source: _of_differences(part.covariance) for source, part in effects.parts.items()}
    variances |= {"misses": _of_differences(np.diag(later_draws.var(axis=0)))} if effects.misses.any() else {}
    spread = np.maximum(np.sqrt(sum(variances.values(), np.zeros(()))), LEAST_SPREAD)
    errors = _errors(effects, random, draws) + (later - later_draws)
    out = among & (never > 1 - alpha)
    left = np.flatnonzero(among & ~out)
    bounds, critical = np.full(len(centres), np.inf), np.nan
    if len(left) == 1:
        bounds[left] = 0.0
    elif np.isfinite(spread[np.ix_(left, left)]).all():
        left = left[np.isfinite(centres[left])]
        serving = left[never[left] < alpha / 4]
        criticals = {arm: _critical(arm, left, errors, spread, alpha) for arm in left.tolist() if len(left) > 1}
        critical = max(criticals.values(), default=np.nan)
        for arm, own in criticals.items():
            excess = (centres[arm] - centres[serving]) / spread[arm, serving]
            out[arm] = np.max(excess[serving != arm], initial=-np.inf) > own
        kept = left[~out[left]]
        bounds[kept] = _bounds(centres[kept], spread[np.ix_(kept, kept)] ** 2, critical)
    # A value that is unknown can be the least, and then nothing bounds the others.
    unbounded = out | effects.is_limit | (never >= alpha / 4) | bool((among & ~out & np.isnan(centres)).any())
    known = np.where(effects.is_limit, np.nan, centres)
    return Comparison(alpha, among, out, known, np.where(unbounded, np.inf, bounds), critical, variances)


def locations_of(effects: Effects, stream: int = 0) -> Locations:
    """Return where each arm lies on its own, with errors that hold what its runs have in common as well.

    Errors of seeds alone are counted. The draws are infinite as often as half of all runs or more plausibly miss.
    """
    random = np.random.default_rng([SEED, 12, stream])
    never = _chance_of_missing(effects)
    later, later_draws = _lateness(effects, random, FEWER_DRAWS)
    found = np.maximum(effects.runs - effects.misses, 1)
    at = random.standard_normal(FEWER_DRAWS)
    scales = np.stack([_scales(max(float(one), 1e-3), at) for one in effects.parts["seeds"].freedom], axis=1)
    errors = random.standard_normal((FEWER_DRAWS, len(found))) * scales * effects.spreads / np.sqrt(found)
    errors = errors + later_draws - later
    typical = np.where(2 * effects.misses >= effects.runs, np.inf, effects.centres + later)
    centres = np.where(np.isfinite(effects.centres) & ~effects.is_limit, effects.centres + later, typical)
    draws = np.where(random.random(errors.shape) < never, np.inf, centres + errors)
    return Locations(typical, centres, errors, draws)


def _bounds(
    centres: Float[np.ndarray, " arms"], variance: Float[np.ndarray, "arms arms"], critical: float
) -> Float[np.ndarray, " arms"]:
    reach = centres[:, None] - centres + critical * np.sqrt(variance)
    np.fill_diagonal(reach, 0.0)
    return np.max(reach, axis=1, initial=0.0)


def _critical(
    arm: int,
    left: NDArray[np.intp],
    errors: Float[np.ndarray, "draws arms"],
    spread: Float[np.ndarray, "arms arms"],
    alpha: float,
) -> float:
    """Return the 1 - alpha quantile of the largest of an arm's errors against all others, each in its own unit."""
    others = left[left != arm]
    excess = (errors[:, [arm]] - errors[:, others]) / spread[arm, others]
    return float(np.quantile(excess.max(axis=1), 1 - alpha))


def _of_differences(covariance: Float[np.ndarray, "arms arms"]) -> Float[np.ndarray, "arms arms"]:
    own = np.diag(covariance)
    return np.maximum(own[:, None] + own - 2 * covariance, 0.0)


def _errors(effects: Effects, random: np.random.Generator, draws: int) -> Float[np.ndarray, "draws arms"]:
    """Draw errors, Student-like because variances are estimated; the arms of a draw share one quantile of them."""
    total = np.zeros((draws, len(effects.centres)))
    for source in effects.parts:
        covariance, freedom = effects.parts[source]
        values, vectors = np.linalg.eigh(np.nan_to_num(covariance))
        # The symmetric root does not depend on signs and order of the eigenvectors, which differ between machines.
        root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
        at = random.standard_normal(draws)
        different, which = np.unique(np.maximum(freedom, 1e-3), return_inverse=True)
        scale = np.stack([_scales(one, at) for one in different.tolist()], axis=1)[:, which]
        total += random.standard_normal((draws, len(values))) @ root * scale
    return total


def _scales(freedom: float, at: Float[np.ndarray, " draws"]) -> Float[np.ndarray, " draws"]:
    """Return standard deviations over their estimates, at the normal deviates `at`, from a table of quantiles."""
    table = 2 * special.gammaincinv(freedom / 2, special.ndtr(DEVIATES)) / freedom
    return np.interp(at, DEVIATES, 1 / np.sqrt(np.maximum(table, 1e-300)))


def _chance_of_missing(effects: Effects) -> Float[np.ndarray, " arms"]:
    """Return the chance that half of all runs or more miss: Jeffreys' posterior where one did, else 0."""
    missed, found = effects.misses + 0.5, effects.runs - effects.misses + 0.5
    return np.where(effects.misses > 0, 1 - special.betainc(missed, found, MIDDLE), 0.0)


def _lateness(
    effects: Effects, random: np.random.Generator, draws: int
) -> tuple[Float[np.ndarray, " arms"], Float[np.ndarray, "draws arms"]]:
    """Return how much later than the mean of the runs that crossed the median of all runs comes, and draws of it.

    Both suppose that fewer than half of the runs miss; the chance that more do is weighed apart. A lower limit stays.
    """
    middle, drawn = np.zeros(len(effects.centres)), np.zeros((draws, len(effects.centres)))
    for arm in np.flatnonzero((effects.misses > 0) & ~effects.is_limit):
        missed, found = effects.misses[arm] + 0.5, effects.runs[arm] - effects.misses[arm] + 0.5
        within = special.betainc(missed, found, MIDDLE) * special.ndtr(DEVIATES)
        shares = special.betaincinv(missed, found, within)
        late = effects.spreads[arm] * special.ndtri(np.minimum(0.5 / (1 - shares), 1 - 1e-9))
        middle[arm] = np.interp(0.0, DEVIATES, late)
        drawn[:, arm] = np.interp(random.standard_normal(draws), DEVIATES, late)
    return middle, drawn
