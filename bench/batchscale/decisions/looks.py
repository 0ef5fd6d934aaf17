"""Look at the rows of a study: which batch sizes are out, how many more seeds the others get, and which ones join.

Rows alone decide, so a run that is resumed repeats its decisions. Decisions that were made are rows too, and are
replayed rather than made again: a later version of a library may round another way.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from statistics import median
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from batchscale.config import plan
from batchscale.config.experiment import Experiment
from batchscale.config.vocabulary import CellKey, Loop, Options, Point
from batchscale.decisions import rate_choice
from batchscale.decisions.crossings import Compared, compared_by, locate
from batchscale.decisions.evaluations import first_at_target
from batchscale.records.row_types import Arm, Look, Round, Trial
from batchscale.statistics import looks
from batchscale.statistics.looks import ALPHAS, Decision, Rules, planned_alpha
from batchscale.statistics.rate_surface import Surface

ABOUT_AS_FAST = 1.1
"""A loop is timed again next to the faster one if it takes at most this multiple of its seconds."""


class Batch(NamedTuple):
    """Runs to train before the next look: every seed of every arm."""

    arms: tuple[Arm, ...]
    seeds: range


@dataclass(frozen=True)
class Standing:
    """What the looks so far leave.

    Attributes:
        number: Number of the last look.
        seeds: Seeds of every arm that is left, from the first, until the next look.
        arms: Every arm that ever joined, in the order in which they did.
        left: The arms that are not out.
        batches: What was to be trained, in order.
        stop: Why no look follows; None where one does.
        budget: Lane-examples that the last look could spend in all.
        alpha: Chance of an error that the looks had.
    """

    number: int = 0
    seeds: int = 0
    arms: tuple[Arm, ...] = ()
    left: tuple[Arm, ...] = ()
    batches: tuple[Batch, ...] = ()
    stop: str | None = None
    budget: int = 0
    alpha: float = 0.0

    @cached_property
    def asked(self) -> frozenset[tuple[int, Point, int]]:
        """The runs that the looks asked for, each as its batch size, point and seed."""
        first = plan.FIRST_CONFIRMATION_SEED
        return frozenset(
            (arm.batch_size, arm.point, first + seed) for arms, seeds in self.batches for arm in arms for seed in seeds
        )

    def after(self, look: Look) -> Standing:
        """Return what one more look leaves."""
        added = tuple(look.added)
        left = tuple(arm for arm in self.left if arm not in look.out)
        grids = [Batch(added, range(self.seeds)), Batch((*left, *added), range(self.seeds, look.next_seeds))]
        return Standing(
            number=look.number,
            seeds=max(self.seeds, look.next_seeds),
            arms=(*self.arms, *added),
            left=(*left, *added),
            batches=(*self.batches, *(one for one in grids if one.arms and len(one.seeds))),
            stop=look.stop,
            budget=look.spent + look.left,
            alpha=self.alpha + look.alpha,
        )


def replay(rows: Iterable[Look]) -> Standing:
    """Return what the looks of a study leave."""
    standing = Standing()
    for row in rows:
        standing = standing.after(row)
    return standing


class Needs(NamedTuple):
    """What the runs of some arms need to reach the target.

    Attributes:
        log_examples: One value per run, infinite where it never crosses, NaN where there is no run.
        unresolved: Variance of each arm that no further seed lowers.
        later_than: What all runs of an arm exceed that missed the target while they still improved; else NaN.
    """

    log_examples: Float[np.ndarray, "seeds arms"]
    unresolved: Float[np.ndarray, " arms"]
    later_than: Float[np.ndarray, " arms"]


class Reading(NamedTuple):
    """How the arms of a study with looks are compared when its rows are read.

    Attributes:
        arms: Every arm of the study, each a batch size and a point, in the order in which they joined. All of them
            count for variances and for what seeds have in common.
        compared: The arms to compare.
        out: Those of them that the last look called out.
        alpha: Chance of an error that this comparison is allowed.
        stream: Stream of random numbers: that of the look.
    """

    arms: tuple[tuple[int, Point], ...]
    compared: frozenset[tuple[int, Point]]
    out: frozenset[tuple[int, Point]]
    alpha: float
    stream: int


def reading(rows: Sequence[Look]) -> Reading | None:
    """Return how to compare after the looks so far; None where none has compared anything.

    Where no look follows, the comparison of the last one is repeated. Where one follows, the arms that are left are
    compared with the error that is its own, so that all looks and this comparison err with a chance of at most 5%.
    """
    standing, made = replay(rows), [row for row in rows if row.alpha]
    if not made:
        return None
    arms = tuple(_keys(standing.arms))
    if standing.stop is None and standing.number < len(ALPHAS):
        alpha = planned_alpha(standing.number, standing.alpha)
        return Reading(arms, frozenset(_keys(standing.left)), frozenset(), alpha, standing.number)
    last = made[-1]
    return Reading(arms, frozenset(_keys(last.compared)), frozenset(_keys(last.out)), last.alpha, last.number - 1)


def _keys(arms: Iterable[Arm]) -> list[tuple[int, Point]]:
    return [(arm.batch_size, arm.point) for arm in arms]


@dataclass(frozen=True)
class Evidence:
    """The rows that a look decides from.

    Attributes:
        experiment: Goal, looks and budgets.
        duration: How long trials train.
        trials: All trials that did not fail.
        rounds: All timed rounds.
    """

    experiment: Experiment
    duration: plan.Duration
    trials: Sequence[Trial]
    rounds: Sequence[Round]

    @cached_property
    def _confirmed(self) -> dict[tuple[int, Point], list[Trial]]:
        found: dict[tuple[int, Point], list[Trial]] = defaultdict(list)
        for trial in self.trials:
            if trial.phase == "confirm":
                found[trial.batch_size, trial.point].append(trial)
        return found

    @cached_property
    def surfaces(self) -> dict[Options, Surface]:
        """The surfaces of learning rates, by options."""
        return rate_choice.fit_surfaces(searched(self.trials), self.experiment.goal)

    def arm_between(self, arms: Iterable[Arm], batch_size: int) -> Arm:
        """Return the arm of an untried batch size: with the options of the nearest arm, and their surface's rate."""
        known = [arm for arm in arms if arm.point.options in self.surfaces]
        nearest = min(known, key=lambda arm: abs(math.log(arm.batch_size / batch_size)))
        rate = self.surfaces[nearest.point.options].rate_at(batch_size)
        return Arm(batch_size=batch_size, learning_rate=float(f"{rate:.6g}"), options=nearest.options)

    def runs(self, arm: Arm) -> list[Trial]:
        """Return the confirmation runs of an arm, by seed."""
        return sorted(self._confirmed.get((arm.batch_size, arm.point), []), key=lambda trial: trial.seed)

    def spent(self, arms: Iterable[Arm]) -> int:
        """Return the lane-examples of all runs of some arms; runs for other claims are no part of the budget.

        A seed that runs the whole epoch budget costs no more than that: it goes on towards the target for the claims on
        steps, which no look decides.
        """
        trials = [trial for arm in arms for trial in self.runs(arm) if trial.curve.steps]
        return sum(min(trial.curve.examples[-1], self._most(trial.seed)) for trial in trials)

    def expected(self, arm: Arm, seeds: Iterable[int]) -> float:
        """Predict what some more seeds of an arm add to what is spent."""
        return sum(min(self.a_seed(arm), self._most(seed)) for seed in seeds)

    def _most(self, seed: int) -> int:
        whole = seed < plan.FIRST_CONFIRMATION_SEED + plan.WHOLE_BUDGET_SEEDS
        return self.duration.budget_examples if whole else self.duration.max_examples

    def needs(self, arms: Sequence[Arm], seeds: int) -> Needs:
        """Return where every run crosses the target."""
        table = np.full((seeds, len(arms)), np.nan)
        unresolved, later_than = np.zeros(len(arms)), np.full(len(arms), np.nan)
        for column, arm in enumerate(arms):
            first = plan.FIRST_CONFIRMATION_SEED
            runs = [trial for trial in self.runs(arm) if trial.seed < first + seeds]
            if runs:
                values, unresolved[column], later_than[column] = self._compared(runs)
                table[[trial.seed - first for trial in runs], column] = values
        return Needs(table, unresolved, later_than)

    def _compared(self, runs: Sequence[Trial]) -> Compared:
        goal = self.experiment.goal
        firsts = [first_at_target(trial.curve, goal) for trial in runs]
        at = np.array([one.examples if one else np.inf for one in firsts], dtype=np.float64)
        before = np.array([one.previous_examples if one else 0 for one in firsts], dtype=np.float64)
        return compared_by(locate(runs, goal), at, before)

    def a_seed(self, arm: Arm) -> float:
        """Predict the lane-examples of one more run of an arm: to past its target, or to the most that is allowed."""
        past, most, ends = self.duration.past_target or 1.0, self.duration.max_examples, []
        for trial in self.runs(arm):
            first = first_at_target(trial.curve, self.experiment.goal)
            ends.append(min(past * first.examples, most) if first else most)
        return float(np.mean(ends)) if ends else float(most)

    def fastest(self, batch_size: int) -> dict[CellKey, float]:
        """Return the median seconds per step of the cells that a batch size would train in, the fastest first.

        Whole batches go before those in microbatches. Empty where none was timed.
        """
        seconds: dict[CellKey, list[float]] = defaultdict(list)
        precision = self.experiment.workload.precision
        for row in self.rounds:
            if (row.batch_size, row.input, row.precision, row.devices) == (batch_size, "device", precision, 1):
                seconds[CellKey.of(row)].append(row.seconds / row.steps)
        least = min((key.accumulation for key in seconds), default=1)
        medians = {key: median(found) for key, found in seconds.items() if key.accumulation == least}
        return dict(sorted(medians.items(), key=lambda item: (item[1], item[0])))

    @property
    def loops(self) -> list[Loop]:
        """The loops that the experiment asks for, and the further ones that this machine was timed with."""
        return list(dict.fromkeys([*self.experiment.throughput.loops, *sorted(row.loop for row in self.rounds)]))

    def log_seconds(self, sizes: Sequence[int]) -> Float[np.ndarray, "blocks rounds sizes"]:
        """Return the log seconds of a step in every round of the fastest cell of each batch size; NaN for no round."""
        found: dict[tuple[int, int], list[float]] = defaultdict(list)
        for column, size in enumerate(sizes):
            cell = next(iter(self.fastest(size)), None)
            own = sorted((row for row in self.rounds if CellKey.of(row) == cell), key=lambda row: row.round)
            for row in own:
                found[row.block, column].append(row.seconds / row.steps)
        blocks = sorted({block for block, _ in found})
        table = np.full((len(blocks), max(map(len, found.values()), default=0), len(sizes)), np.nan)
        for (block, column), seconds in found.items():
            table[blocks.index(block), : len(seconds), column] = np.log(seconds)
        return table

    def cells(self, sizes: Iterable[int]) -> list[CellKey]:
        """Return the cells to time in one more block: the fastest loop of each batch size, and one about as fast.

        Every loop of a batch size that was not timed yet.
        """
        keys: list[CellKey] = []
        for size in dict.fromkeys(sizes):
            medians = self.fastest(size)
            least = min(medians.values(), default=0.0)
            near = [key for key, seconds in medians.items() if seconds <= ABOUT_AS_FAST * least]
            precision = self.experiment.workload.precision
            every = [CellKey(size, loop, precision=precision) for loop in self.loops]
            keys += near or every
        return sorted(keys)


def searched(trials: Iterable[Trial]) -> dict[int, list[Trial]]:
    """Return the search trials by batch size."""
    found: dict[int, list[Trial]] = defaultdict(list)
    for trial in trials:
        if trial.phase == "search":
            found[trial.batch_size].append(trial)
    return found


def decide(evidence: Evidence, standing: Standing, budget: int, multiple: Callable[[float], int]) -> Decision:
    """Decide at the look that follows, among the arms that are left, ran and were timed; the others are out.

    Args:
        evidence: The rows so far.
        standing: What the looks so far leave.
        budget: Lane-examples that all runs of the arms may spend.
        multiple: What a batch size near a given one must be a multiple of.
    """
    arms = standing.arms
    sizes = sorted({arm.batch_size for arm in arms})
    needs = evidence.needs(arms, standing.seeds)
    unknown = {size for size in sizes if not evidence.fastest(size)}
    is_out = np.array([arm not in standing.left or arm.batch_size in unknown for arm in arms])
    state = looks.State(
        look=standing.number,
        sizes=tuple(arm.batch_size for arm in arms),
        out=is_out | np.isnan(needs.log_examples).all(axis=0),
        log_examples=needs.log_examples,
        log_seconds=evidence.log_seconds(sizes),
        cost=np.array([evidence.a_seed(arm) for arm in arms]),
        left=float(max(0, budget - evidence.spent(arms))),
        unresolved=needs.unresolved,
        later_than=needs.later_than,
    )
    return looks.decide(state, _rules(evidence, standing), multiple)


def _rules(evidence: Evidence, standing: Standing) -> Rules:
    """Return the rules of the experiment from the present look on.

    Batch sizes join only where a surface gives them rates.
    """
    table = evidence.experiment.confirm
    if table is None:
        raise ValueError(f"{evidence.experiment.name}: has no looks")
    following = [seeds for seeds in table.looks if seeds > standing.seeds]
    seeds = [*[standing.seeds] * (standing.number + 1), *following][: len(ALPHAS)]
    sizes = sorted({arm.batch_size for arm in standing.arms})
    apart = any(after > looks.OCTAVE * before for before, after in pairwise(sizes))
    finest = looks.OCTAVE if apart and evidence.surfaces else np.inf
    return Rules(tuple(seeds), standing.alpha, table.tolerance, finest)
