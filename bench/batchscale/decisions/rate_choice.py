"""Choose the learning rate and options of each batch size, from rows.

Both halves make this choice: training confirms the chosen rates, and analysis reports them.

They are chosen on search trials alone. Claims rest on fresh seeds, so that they do not profit from the choice.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import compress
from statistics import mean
from typing import NamedTuple

import msgspec
import numpy as np

from batchscale.config.goal import Goal
from batchscale.config.vocabulary import Options, Point
from batchscale.decisions.crossings import typical_examples
from batchscale.decisions.evaluations import best_or_worst
from batchscale.records.row_types import Trial
from batchscale.statistics import rate_surface
from batchscale.statistics.curve_fit import Refusal
from batchscale.statistics.rate_surface import Surface


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """The points chosen for one batch size.

    Attributes:
        for_target: The point with the fewest examples to the target. Its rate may lie between two tried ones.
        for_score: The point with the best score within the budget.
        equally_fast: The neighbouring rates that need exactly as many examples as `for_target`, where each batch size
            is judged alone.
        tried: All points, sorted. A rate is at the edge if it is the lowest or highest tried with its options.
        regret: Expected cost of `for_target` not being the best, in log examples; None where no surface was fitted.
        neighbours: True if no trial of this batch size reached the target, so that its neighbours give the rate.
        ridge: The best rate on the surface, between the ends of its 95% band; None where no surface was fitted.
    """

    for_target: Point
    for_score: Point
    equally_fast: list[Point]
    tried: list[Point]
    regret: float | None = None
    neighbours: bool = False
    ridge: tuple[float, float, float] | None = None

    @property
    def points(self) -> list[Point]:
        """The points to confirm, each once."""
        return list(dict.fromkeys([self.for_target, self.for_score, *self.equally_fast]))

    @property
    def lower_edges(self) -> list[Options]:
        """The options whose best rate is the lowest one tried."""
        return self._edges(0)

    @property
    def upper_edges(self) -> list[Options]:
        """The options whose best rate is the highest one tried."""
        return self._edges(-1)

    def _edges(self, end: int) -> list[Options]:
        grids = {point: with_options(self.tried, point.options) for point in (self.for_target, self.for_score)}
        return list(dict.fromkeys(one.options for one, grid in grids.items() if len(grid) > 1 and one == grid[end]))

    def is_at_edge(self, point: Point) -> bool:
        """Return True if a point's rate is the lowest or the highest of several tried with its options."""
        grid = with_options(self.tried, point.options)
        return len(grid) > 1 and point in (grid[0], grid[-1])

    @property
    def is_inside(self) -> bool:
        """True if a lower and a higher rate than the one for the target were tried."""
        grid = with_options(self.tried, self.for_target.options)
        return grid[0] < self.for_target < grid[-1]


def with_options(points: Iterable[Point], options: Options) -> list[Point]:
    """Return the points with these options, sorted by learning rate."""
    return sorted(point for point in points if point.options == options)


class Located:
    """Where the typical run of some trials reaches a goal, each group of trials located once."""

    def __init__(self, goal: Goal) -> None:
        self.goal = goal
        self._known: dict[tuple[int, ...], tuple[list[Trial], float]] = {}

    def typical(self, trials: Sequence[Trial]) -> float:
        """Return the logarithm of the examples to the goal, or infinity."""
        # Trials are not hashable. The groups are kept with their locations, so that no identity is used again.
        key = tuple(map(id, trials))
        if key not in self._known:
            self._known[key] = list(trials), typical_examples(trials, self.goal)
        return self._known[key][1]


def choose(
    trials: Iterable[Trial], goal: Goal, budget_examples: float, located: Located | None = None
) -> Choice | None:
    """Choose among the points of one batch size, judged alone; None if none was evaluated.

    The point for the target is the one whose typical run crosses it first; ties go to the better score. The point for
    the best score has the best mean score within `budget_examples`; ties go to the faster point. A trial that was not
    evaluated within the budget counts as the worst score, so that no point gains by missing evaluations.

    Args:
        trials: Search trials of one batch size.
        goal: The target, and the score to compare.
        budget_examples: Examples within which scores are compared.
        located: Locations that are known already.
    """
    located = located or Located(goal)
    by_point: dict[Point, list[Trial]] = defaultdict(list)
    for trial in trials:
        by_point[trial.point].append(trial)
    if not any(one.curve.trained for group in by_point.values() for one in group):
        return None
    speed = {point: located.typical(group) for point, group in by_point.items()}
    quality = {
        point: goal.rising(mean(best_or_worst(one.curve, goal, budget_examples) for one in group))
        for point, group in by_point.items()
    }
    points = sorted(by_point)
    fastest = min(points, key=lambda point: (speed[point], -quality[point]))
    best = max(points, key=lambda point: (quality[point], -speed[point]))
    equally_fast = [
        one for one in _neighbours(points, fastest) if math.isfinite(speed[one]) and speed[one] <= speed[fastest]
    ]
    return Choice(for_target=fastest, for_score=best, equally_fast=equally_fast, tried=points)


def _neighbours(points: Iterable[Point], point: Point) -> list[Point]:
    """Return the next lower and the next higher rate with the same options."""
    alike = with_options(points, point.options)
    at = alike.index(point)
    return [*alike[max(0, at - 1) : at], *alike[at + 1 : at + 2]]


def choose_rates(trials: Mapping[int, Iterable[Trial]], goal: Goal, budget_examples: float) -> dict[int, Choice]:
    """Choose the points of all batch sizes together; a batch size that was never evaluated has none.

    The point for the target has the least expected cost on the surfaces of its options. Where no surface is supported,
    each batch size is judged alone. The point for the best score is always chosen for each batch size alone.

    Args:
        trials: Search trials by batch size.
        goal: The target, and the score to compare.
        budget_examples: Examples within which scores are compared.
    """
    by_size = {size: list(found) for size, found in trials.items()}
    located = Located(goal)
    alone = {size: choose(found, goal, budget_examples, located) for size, found in by_size.items()}
    surfaces = fit_surfaces(by_size, goal, located)
    made: dict[int, Choice] = {}
    for size, choice in alone.items():
        if choice is not None:
            made[size] = _on_surfaces(choice, size, surfaces, by_size[size], located)
    return made


def fit_surfaces(
    trials: Mapping[int, Iterable[Trial]], goal: Goal, located: Located | None = None
) -> dict[Options, Surface]:
    """Fit one surface of rates for each combination of searched options that supports one."""
    located = located or Located(goal)
    by_options: dict[Options, list[Trial]] = defaultdict(list)
    for found in trials.values():
        for trial in found:
            if trial.curve.trained:
                by_options[trial.point.options].append(trial)
    surfaces: dict[Options, Surface] = {}
    for options, found in sorted(by_options.items()):
        try:
            surfaces[options] = rate_surface.fit_surface(_by_trial(found, located))
        except Refusal:
            continue
    return surfaces


def _by_trial(trials: list[Trial], located: Located) -> rate_surface.Trials:
    """Locate each trial on its curve alone; one that did not cross is censored at its last evaluation.

    A trial that was stopped early, or diverged, did worse than the best of the same batch size and seed, so it would
    not have crossed before that one did, or ended. Without this, rates that fail at once would count as hardly worse.
    """
    at = np.array([located.typical([trial]) for trial in trials])
    sound = np.array([trial.status == "ok" for trial in trials])
    reached = np.isfinite(at) & sound
    seen = np.where(reached, at, [math.log(trial.curve.trained[-1]) for trial in trials])
    rivals = [(trial.batch_size, trial.seed) for trial in trials]
    least: dict[tuple[int, int], float] = {}
    for those, one in zip(compress(rivals, sound), seen[sound].tolist(), strict=True):
        least[those] = min(one, least.get(those, math.inf))
    not_before = np.where(sound, -math.inf, [least.get(those, -math.inf) for those in rivals])
    return rate_surface.Trials(
        np.array([float(trial.batch_size) for trial in trials]),
        np.array([trial.point.learning_rate for trial in trials]),
        np.maximum(seen, not_before),
        reached,
    )


class _Candidate(NamedTuple):
    """A point at which its options do best; `cost` is in log examples."""

    cost: float
    point: Point
    regret: float | None = None
    neighbours: bool = False
    ridge: tuple[float, float, float] | None = None


def _on_surfaces(
    alone: Choice, size: int, surfaces: Mapping[Options, Surface], trials: list[Trial], located: Located
) -> Choice:
    """Return the choice with the point for the target taken from the surfaces of all options that have one."""
    candidates = []
    for options in sorted({point.options for point in alone.tried}):
        own = [trial for trial in trials if trial.point.options == options]
        surface = surfaces.get(options)
        at = surface.batch_sizes.tolist().index(size) if surface and size in surface.batch_sizes else None
        if surface is None or at is None:
            costs = {point: _cost(own, point, located) for point in with_options(alone.tried, options)}
            point = alone.for_target if alone.for_target in costs else min(costs, key=costs.__getitem__)
            candidates.append(_Candidate(costs[point], point))
            continue
        found = surface.choices[at]
        point = Point(_six_digits(found.rate) if not found.tried else found.rate, options)
        # A level without a trial that reached the target is a guess, which must not beat what was measured.
        cost = math.inf if found.by_neighbours else float(surface.levels[at]) + found.regret
        low, high = surface.band
        ridge = float(low[at]), float(surface.best_rates[at]), float(high[at])
        candidates.append(_Candidate(cost, point, found.regret, found.by_neighbours, ridge))
    best = min(candidates, key=lambda one: (one.cost, one.regret is None))
    if best.regret is None:
        return alone
    return msgspec.structs.replace(
        alone,
        for_target=best.point,
        equally_fast=[],
        regret=best.regret,
        neighbours=best.neighbours,
        ridge=best.ridge,
    )


def _cost(trials: list[Trial], point: Point, located: Located) -> float:
    return located.typical([trial for trial in trials if trial.point == point])


def _six_digits(rate: float) -> float:
    """Round a rate as the grid does, so that reading a file gives exactly the same rate."""
    return float(f"{rate:.6g}")
