"""Spend seeds where the answer is undecided: compare at a few looks, drop what is out, stop when the answer suffices.

Each look has a part of the error that is allowed in all. By Bonferroni's inequality the best batch size is ever called
out with no more than their sum, whatever the rule to stop, and whichever batch sizes are added on the way. A batch size
that is out stays out (Paulson, 1964, Annals of Mathematical Statistics 35). Where the budget or the schedule ends the
looks, the last comparison also gets most of what later looks would have had, as in error spending (Lan & DeMets, 1983,
Biometrika 70). The rest is kept for a study that goes on with a larger budget. A look is a pure function of the rows so
far, so a run that is resumed decides the same again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from batchscale.statistics import effects
from batchscale.statistics.comparison import DRAWS, Comparison, compare

SEEDS = (3, 6, 12, 24, 48, 96)
"""Seeds of every batch size that is left, at each look."""
ALLOWED = 0.05
"""Chance that the best batch size is ever called out, or that a bound is wrong."""
ALPHAS = (0.004, 0.008, 0.0095, 0.0095, 0.0095, 0.0095)
"""Chance of an error that is planned for each look; they sum to what is allowed."""
LAST_SHARE = 2 / 3
"""Share of what later looks would have had that the comparison after the last run gets as well."""
TOLERANCE = 0.05
"""How much slower than the best the recommended batch size may be for the search to stop."""
OCTAVE = 2.0
FEWEST_MORE = 2
LEAST_MORE = 0.25
"""A last look that the budget cuts short needs this many more seeds: in all, and as a share of those there are."""

Stop = Literal["none left", "one left", "within an octave", "within the tolerance", "budget", "last look"]
"""Why no further look follows."""


@dataclass(frozen=True)
class Rules:
    """When to look, when to stop, and how finely to refine.

    Attributes:
        seeds: Seeds of every arm that is left at each look.
        spent: Chance of an error that earlier looks had.
        tolerance: Bound at which to stop, as a fraction of the best.
        finest: Ratio of neighbouring batch sizes down to which batch sizes between them are added.
    """

    seeds: tuple[int, ...] = SEEDS
    spent: float = 0.0
    tolerance: float = TOLERANCE
    finest: float = OCTAVE

    def __post_init__(self) -> None:
        """Refuse a look without a chance of error of its own."""
        if len(self.seeds) > len(ALPHAS):
            raise ValueError(f"seeds: {len(self.seeds)} values, expected at most {len(ALPHAS)}, one for each look")


@dataclass(frozen=True)
class State:
    """All that a look decides from. An arm is a batch size at one learning rate.

    Attributes:
        look: Number of this look, from 0.
        sizes: Batch size of each arm.
        out: The arms that earlier looks called out.
        log_examples: One value per run, infinite where it missed, NaN where it was not trained.
        log_seconds: Of a step, in every timed round of each different batch size, rising; NaN where it was not timed.
        cost: What one more seed of each arm costs, in any unit.
        left: How much may still be spent, in the same unit.
        unresolved: Variance of each arm's log examples that no further seed lowers; 0 when None.
        later_than: What the log examples of all runs of an arm exceed, if all missed; NaN where unknown.
    """

    look: int
    sizes: tuple[int, ...]
    out: Bool[np.ndarray, " arms"]
    log_examples: Float[np.ndarray, "seeds arms"]
    log_seconds: Float[np.ndarray, "blocks rounds sizes"]
    cost: Float[np.ndarray, " arms"]
    left: float
    unresolved: Float[np.ndarray, " arms"] | None = None
    later_than: Float[np.ndarray, " arms"] | None = None

    @property
    def seeds(self) -> int:
        """Seeds that were trained so far."""
        return len(self.log_examples)


@dataclass(frozen=True)
class Decision:
    """What a look found, and what follows.

    Attributes:
        comparison: Of the arms that earlier looks left.
        out: The arms that are out, at this look or before.
        stop: Why no look follows; None where one does.
        seeds: Seeds of every arm that is left at the next look; those there are where none follows.
        added: Batch sizes to add before the next look, with as many seeds.
    """

    comparison: Comparison
    out: Bool[np.ndarray, " arms"]
    stop: Stop | None
    seeds: int
    added: tuple[int, ...]


def decide(
    state: State, rules: Rules | None = None, multiple: Callable[[float], int] = lambda _: 1, draws: int = DRAWS
) -> Decision:
    """Compare the arms that are left, and decide whether to go on, with how many seeds and which batch sizes.

    Args:
        state: The rows so far.
        rules: When to look and to stop; the rules of this module when None.
        multiple: What a batch size near a given one must be a multiple of.
        draws: Random draws of the errors.
    """
    rules = rules or Rules()
    alpha = planned_alpha(state.look, rules.spent)
    found = of_times(state, alpha, draws)
    out = state.out | found.out
    is_last = state.look + 1 >= len(rules.seeds)
    wanted = state.seeds if is_last else rules.seeds[state.look + 1]
    untried = middle_sizes(state.sizes, ~out, rules.finest, multiple)
    if untried and (more := _affordable(state, out, untried, wanted)):
        return Decision(found, out, None, state.seeds + more, untried)
    if stop := _reached(state, found, rules):
        return Decision(found, out, stop, state.seeds, ())
    if not is_last and (more := _affordable(state, out, (), wanted)):
        return Decision(found, out, None, state.seeds + more, ())
    last = of_times(state, alpha + LAST_SHARE * (ALLOWED - rules.spent - alpha), draws)
    stop = _reached(state, last, rules) or ("last look" if is_last else "budget")
    return Decision(last, state.out | last.out, stop, state.seeds, ())


def planned_alpha(look: int, spent: float) -> float:
    """Return the chance of an error of a look, counted from 0, where earlier looks had `spent`."""
    return (ALLOWED - spent) * ALPHAS[look] / sum(ALPHAS[look:])


def of_times(state: State, alpha: float, draws: int = DRAWS) -> Comparison:
    """Compare the times to the target, examples / batch size x seconds per step, of the arms that are not yet out."""
    sizes, which = np.unique(np.array(state.sizes), return_inverse=True)
    a_step = effects.of_blocks(state.log_seconds).shifted(-np.log(sizes.astype(np.float64)))
    needs = effects.of_seeds(state.log_examples, state.unresolved, state.later_than)
    times = needs.with_timing(a_step.spread_over(which))
    return compare(times, ~state.out, alpha, state.look, draws)


def _reached(state: State, found: Comparison, rules: Rules) -> Stop | None:
    """Return why the answer suffices: one batch size, a bound within the tolerance, or neighbours an octave apart.

    Where every batch size surely misses the target, none is left.
    """
    sizes = np.array(state.sizes)[found.tied]
    if len(set(sizes.tolist())) <= 1:
        return "one left" if len(sizes) else "none left"
    least = float(np.min(found.bounds))
    if least <= np.log1p(rules.tolerance):
        return "within the tolerance"
    return "within an octave" if np.isfinite(least) and sizes.max() <= OCTAVE * sizes.min() else None


def _affordable(state: State, out: Bool[np.ndarray, " arms"], added: tuple[int, ...], wanted: int) -> int:
    """Return how many more seeds fit into what is left, up to those `wanted` in all; 0 if too few for a look.

    A batch size that is added first needs the seeds that the others have. Its cost is that of its neighbours.
    """
    order = np.argsort(state.sizes, kind="stable")
    known = np.log(np.array(state.sizes, float))[order]
    extra = np.interp(np.log(np.array(added, float)), known, state.cost[order]).sum() if added else 0.0
    left = state.left - extra * state.seeds
    a_seed = state.cost[~out].sum() + extra
    more = wanted - state.seeds
    fitting = more if a_seed <= 0 else min(more, int(np.floor(left / a_seed + 1e-9)))
    enough = fitting == more or fitting >= max(FEWEST_MORE, LEAST_MORE * state.seeds)
    return fitting if enough and fitting > 0 else 0


def middle_sizes(
    sizes: Iterable[int], left: Bool[np.ndarray, " arms"], finest: float, multiple: Callable[[float], int]
) -> tuple[int, ...]:
    """Return the batch sizes between one that is left and its tried neighbours, where these are too far apart.

    Neighbours more than `finest` apart get the power of two, or 1.5 times one, that is nearest to their geometric mean.
    """
    arms = list(sizes)
    survivors = {size for size, kept in zip(arms, left.tolist(), strict=True) if kept}
    tried = sorted(set(arms))
    found: set[int] = set()
    for lower, upper in pairwise(tried):
        if upper / lower > finest * (1 + 1e-9) and survivors & {lower, upper}:
            found |= {size for size in [_middle(lower, upper, multiple)] if size is not None}
    return tuple(sorted(found))


def _middle(lower: int, upper: int, multiple: Callable[[float], int]) -> int | None:
    centre = np.sqrt(lower * upper)
    step = multiple(float(centre))
    octaves = 2.0 ** np.arange(np.floor(np.log2(centre)), np.log2(centre) + 1)
    rounded = [step * round(size / step) for size in np.concatenate([octaves, 1.5 * octaves]).tolist()]
    inside = [size for size in rounded if lower < size < upper]
    return min(inside, key=lambda size: abs(np.log(size / centre)), default=None)
