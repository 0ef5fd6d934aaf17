"""Estimate what belongs to each arm of a table whose rows share an error: seeds of training, blocks of timing.

An arm is a batch size at one learning rate. What a row has in common (an easy seed, a warm machine) is a level that is
fitted with the arms by least squares, so that it cancels in their differences. Rows may be incomplete.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from batchscale.statistics.intervals import moderated

Source = Literal["seeds", "rounds", "blocks", "misses"]
"""Where an error comes from: training seeds, timed rounds, blocks of rounds, or the share of runs that miss."""

BLOCK_SPREAD = 0.04
"""Standard deviation of the log seconds of one batch size between blocks of rounds, expected before any is seen."""
BLOCK_FREEDOM = 4.0
"""Degrees of freedom that this expectation is worth."""
PSEUDO_MEDIAN = np.pi / 3
"""Variance of the pseudo-median of many normal values, over that of their mean (Hodges & Lehmann, 1963)."""
LEAST_FREEDOM = 1e-6


class Part(NamedTuple):
    """The errors of one source.

    Attributes:
        covariance: Of the arms, up to an error that they all share; NaN where it is unknown.
        freedom: Degrees of freedom of the variance of each arm.
    """

    covariance: Float[np.ndarray, "arms arms"]
    freedom: Float[np.ndarray, " arms"]


@dataclass(frozen=True)
class Effects:
    """Estimates of all arms, on a logarithmic scale, with their errors by source.

    Attributes:
        centres: Estimates; NaN where an arm has no value.
        parts: Errors of each source.
        misses: Runs of each arm that missed the target.
        runs: Runs of each arm, misses included.
        spreads: Standard deviation over runs, which tells how much later the median comes where some runs miss.
        limited: True for arms whose centre is a lower limit, because no run has reached the target yet; none when None.
    """

    centres: Float[np.ndarray, " arms"]
    parts: dict[Source, Part]
    misses: Float[np.ndarray, " arms"]
    runs: Float[np.ndarray, " arms"]
    spreads: Float[np.ndarray, " arms"]
    limited: Bool[np.ndarray, " arms"] | None = None

    @property
    def is_limit(self) -> Bool[np.ndarray, " arms"]:
        """True for arms whose centre is a lower limit."""
        return np.zeros(len(self.centres), dtype=bool) if self.limited is None else self.limited

    def with_timing(self, timing: Effects) -> Effects:
        """Return the effects of the product with a quantity that no run misses, such as seconds per step."""
        return replace(self, centres=self.centres + timing.centres, parts=self.parts | timing.parts)

    def spread_over(self, which: Int[np.ndarray, " more"]) -> Effects:
        """Return the effects of arms that share these: the one at `which[i]` becomes that of arm i."""
        grid = np.ix_(which, which)
        parts: dict[Source, Part] = {}
        parts |= {source: Part(part.covariance[grid], part.freedom[which]) for source, part in self.parts.items()}
        misses, runs, spreads = self.misses[which], self.runs[which], self.spreads[which]
        return Effects(self.centres[which], parts, misses, runs, spreads, self.is_limit[which])

    def shifted(self, by: Float[np.ndarray, " arms"]) -> Effects:
        """Return the effects of the quantity times a known factor, given as its logarithm."""
        return replace(self, centres=self.centres + by)


class _Fit(NamedTuple):
    """A fit of arms and rows. `to_arms` @ scores is an estimate of the arms; `leverage` is that of each entry."""

    centres: Float[np.ndarray, " arms"]
    residuals: Float[np.ndarray, "rows arms"]
    leverage: Float[np.ndarray, "rows arms"]
    inverse: Float[np.ndarray, "arms arms"]
    paired: bool


def of_seeds(
    log_examples: Float[np.ndarray, "seeds arms"],
    unresolved: Float[np.ndarray, " arms"] | None = None,
    later_than: Float[np.ndarray, " arms"] | None = None,
) -> Effects:
    """Return the effects of arms whose runs share their seeds.

    The variances of the arms are moderated (Smyth, 2004). A run that missed gives no value, and its arm is an
    estimate of the runs that did not; `misses` tells how many there are.

    Where all runs of an arm missed and are known to be later than some value, that value stands for each of them. Their
    mean is larger, so whatever calls this limit later than another arm would call the arm itself later. The value hides
    how they spread: their variance is that of the other arms.

    Args:
        log_examples: One value per run, infinite where it missed, NaN where it was not trained.
        unresolved: Variance of each arm that no further seed lowers; 0 when None.
        later_than: What all runs of an arm exceed, if none reached the target; NaN where unknown, for all when None.
    """
    known = np.isfinite(log_examples)
    fit = _fit(np.where(known, log_examples, np.nan))
    freedom = np.where(known, 1 - fit.leverage, 0.0).sum(axis=0)
    variances, moderate = _variances(np.where(known, fit.residuals, 0.0), freedom)
    beyond = np.zeros(known.shape[1]) if unresolved is None else unresolved
    missed = np.isinf(log_examples)
    misses = missed.sum(axis=0).astype(np.float64)
    limits = np.full(known.shape[1], np.nan) if later_than is None else later_than
    limited = np.isfinite(limits) & missed.any(axis=0) & ~known.any(axis=0)
    entered = known | (missed & limited)
    # What covers what does not depend on the values, so a zero can stand for those that are limits.
    cover = _fit(np.where(known, log_examples, np.where(entered, 0.0, np.nan))) if limited.any() else fit
    part = Part(_covariance(cover, entered, np.broadcast_to(variances, known.shape)) + np.diag(beyond), moderate)
    runs = (~np.isnan(log_examples)).sum(axis=0).astype(np.float64)
    # The median over runs also spreads by what runs of one seed have in common, which pairing removes.
    whole = variances + _row_variance(log_examples, known, variances) + beyond * np.maximum(runs - misses, 1)
    centres = np.where(limited, limits, fit.centres)
    return Effects(centres, {"seeds": part}, misses, runs, np.sqrt(whole), limited)


def of_blocks(log_seconds: Float[np.ndarray, "blocks rounds arms"]) -> Effects:
    """Return the effects of arms that were timed in several blocks of rounds.

    Each block counts by the pseudo-median of its rounds, which a few slow rounds hardly move. Rounds err independently;
    an arm also errs by its block, with a variance that is drawn towards `BLOCK_SPREAD` squared.

    Args:
        log_seconds: Of every round, NaN where an arm was not timed. A block may hold fewer rounds than others.
    """
    known = np.isfinite(log_seconds)
    counts = known.sum(axis=1).astype(np.float64)
    table = pseudo_medians(log_seconds)
    timed = counts > 0
    within = np.where(known, log_seconds - _means(log_seconds, known)[:, None], 0.0)
    freedom = np.maximum(counts - 1, 0).sum(axis=0)
    variances, round_freedom = _variances(within.reshape(-1, within.shape[2]), freedom)
    of_rounds = np.where(timed, PSEUDO_MEDIAN * variances / np.maximum(counts, 1), 0.0)
    fit = _fit(table)
    free = np.where(timed, 1 - fit.leverage, 0.0)
    excess = np.nansum(fit.residuals**2) - (free * of_rounds).sum()
    block_freedom = BLOCK_FREEDOM + free.sum()
    block = max((BLOCK_FREEDOM * BLOCK_SPREAD**2 + excess) / block_freedom, 0.0)
    parts: dict[Source, Part] = {
        "rounds": Part(_covariance(fit, timed, of_rounds), round_freedom),
        "blocks": Part(_covariance(fit, timed, np.full(timed.shape, block)), np.full(timed.shape[1], block_freedom)),
    }
    nothing = np.zeros(timed.shape[1])
    return Effects(fit.centres, parts, nothing, nothing, nothing)


def pseudo_medians(values: Float[np.ndarray, "blocks rounds arms"]) -> Float[np.ndarray, "blocks arms"]:
    """Return the median over the means of all pairs of rounds, each with itself included (Hodges & Lehmann, 1963).

    It is as exact as the mean to within 5% where values are normal, and bounded where up to 29% of them are wild.
    Rounds that are NaN are left out; without any others, it is NaN.
    """
    one, other = np.triu_indices(values.shape[1])
    pairs = np.sort((values[:, one] + values[:, other]) / 2, axis=1)
    known = np.isfinite(pairs).sum(axis=1)[:, None]
    middles = [np.take_along_axis(pairs, np.maximum(at, 0), axis=1)[:, 0] for at in ((known - 1) // 2, known // 2)]
    return np.where(known[:, 0] > 0, (middles[0] + np.where(known[:, 0] % 2, middles[0], middles[1])) / 2, np.nan)


def _means(
    scores: Float[np.ndarray, "blocks rounds arms"], known: Bool[np.ndarray, "blocks rounds arms"]
) -> Float[np.ndarray, "blocks arms"]:
    return np.where(known, scores, 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)


def _variances(
    residuals: Float[np.ndarray, "rows arms"], freedom: Float[np.ndarray, " arms"]
) -> tuple[Float[np.ndarray, " arms"], Float[np.ndarray, " arms"]]:
    """Return moderated variances of the arms with their degrees of freedom; NaN and 0 where nothing was repeated."""
    freedom = np.where(freedom > LEAST_FREEDOM, freedom, 0.0)
    if not freedom.any():
        return np.full(len(freedom), np.nan), freedom
    own = np.maximum((residuals**2).sum(axis=0) / np.maximum(freedom, LEAST_FREEDOM), 1e-14)
    return moderated(own, freedom)


def _fit(table: Float[np.ndarray, "rows arms"]) -> _Fit:
    """Fit arms and rows by least squares over what is known; arms alone where rows do not connect the arms.

    The levels of the rows sum to 0. Rows are eliminated first, so that only a matrix of arms is inverted.
    """
    known = np.isfinite(table)
    there, filled = known.astype(np.float64), np.where(known, table, 0.0)
    per_arm, per_row = there.sum(axis=0), there.sum(axis=1)
    used = per_arm > 0
    share = there / np.maximum(per_row, 1)[:, None]
    information = np.diag(per_arm) - there.T @ share
    inverse = np.linalg.pinv(information, rcond=1e-9, hermitian=True)
    if np.linalg.matrix_rank(information, tol=1e-6, hermitian=True) < used.sum() - 1:
        return _unpaired(filled, there)
    row_means = filled.sum(axis=1) / np.maximum(per_row, 1)
    centres = inverse @ (there * (filled - row_means[:, None])).sum(axis=0)
    filled_rows = per_row > 0
    centres = centres + (row_means - share @ centres)[filled_rows].mean() if filled_rows.any() else centres
    levels = row_means - share @ centres
    off = there[:, :, None] * (np.eye(len(per_arm)) - share[:, None])
    leverage = np.einsum("rai,ij,raj->ra", off, inverse, off) + share
    residuals = np.where(known, table - centres - levels[:, None], 0.0)
    return _Fit(np.where(used, centres, np.nan), residuals, leverage, inverse, paired=True)


def _unpaired(filled: Float[np.ndarray, "rows arms"], there: Float[np.ndarray, "rows arms"]) -> _Fit:
    counts = there.sum(axis=0)
    inverse = 1 / np.maximum(counts, 1)
    centres = np.where(counts > 0, filled.sum(axis=0) * inverse, np.nan)
    residuals = np.where(there > 0, filled - np.nan_to_num(centres), 0.0)
    return _Fit(centres, residuals, there * inverse, np.diag(inverse), paired=False)


def _covariance(
    fit: _Fit, known: Bool[np.ndarray, "rows arms"], variances: Float[np.ndarray, "rows arms"]
) -> Float[np.ndarray, "arms arms"]:
    """Return the covariance of the arms, given the variance of each entry of the table."""
    there = known.astype(np.float64)
    entries = np.where(known, variances, 0.0)
    if not fit.paired:
        return fit.inverse @ np.diag(entries.sum(axis=0)) @ fit.inverse
    share = there / np.maximum(there.sum(axis=1), 1)[:, None]
    off = there[:, :, None] * (np.eye(there.shape[1]) - share[:, None])
    return fit.inverse @ np.einsum("rai,ra,raj->ij", off, entries, off) @ fit.inverse


def _row_variance(
    values: Float[np.ndarray, "rows arms"],
    known: Bool[np.ndarray, "rows arms"],
    variances: Float[np.ndarray, " arms"],
) -> float:
    """Return the variance that the runs of an arm have beyond their own, which is that of the levels of rows."""
    counts = known.sum(axis=0)
    repeated = counts > 1
    if not repeated.any():
        return 0.0
    whole = np.array([np.var(values[known[:, arm], arm], ddof=1) for arm in np.flatnonzero(repeated)])
    return max(float(np.average(whole - variances[repeated], weights=counts[repeated] - 1)), 0.0)
