"""One results folder under one target: the input of every claim, figure and text.

Everything is computed when it is first read, and then kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Bool
from numpy.typing import NDArray

from batchscale.analysis.frames.amounts import WHY, Amounts
from batchscale.analysis.frames.frames import Frames
from batchscale.analysis.frames.schema import only, values
from batchscale.analysis.metrics import arms as settings
from batchscale.analysis.metrics import best_scores, final_scores, observations
from batchscale.analysis.metrics.arms import Arm
from batchscale.analysis.metrics.observations import Claim, Speed, comparable, fastest_loops
from batchscale.analysis.summary_parts import ScoreSurface
from batchscale.config.goal import Goal
from batchscale.decisions import looks
from batchscale.statistics.comparison import Comparison, compare, locations_of
from batchscale.statistics.curve_fit import Knee, Refusal, fit_knee
from batchscale.statistics.effects import Effects
from batchscale.statistics.intervals import DRAWS, LEVEL, SEED, Array, Locations, Repetitions, locate
from batchscale.statistics.ties import NEIGHBOURS, SURFACE, Contest, above_a_later_one

# Each quantity has its own stream of random numbers, so that the errors of two quantities are independent.
TRAINING, SECONDS, JOULES, SCORE, SCORE_BY_STEPS, AVERAGED_SCORE_GAIN = range(6)

SECONDS_PER_HOUR = 3600.0
LEAST_EXCESS = 0.05
"""Fraction of additional training, over a larger batch size, from which a batch size is below the useful range."""


@dataclass(frozen=True)
class Fit:
    """A fitted curve, or the reason why there is none (in words)."""

    knee: Knee | None
    reason: str | None = None


@dataclass(frozen=True)
class Sweep:
    """The batch sizes of a results folder under one target. Arrays are (sizes,), locations are of logarithms.

    Attributes:
        frames: the rows of the folder.
        target: the score to reach.
        speeds: the fastest loop of each timed batch size, on one device.
    """

    frames: Frames
    target: float
    speeds: dict[int, Speed]

    @classmethod
    def of(cls, frames: Frames, target: float | None = None) -> Sweep:
        """Return the sweep of a folder under the score `target` (the experiment's own when None)."""
        return cls(frames, frames.experiment.goal.threshold if target is None else target, fastest_loops(frames))

    def towards(self, target: float) -> Sweep:
        """Return the same sweep under another target."""
        return replace(self, target=target)

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Every batch size that was trained or timed on one device, sorted (cells,)."""
        frames = self.frames
        timed = [only(rows, rows["devices"] == 1) for rows in (frames.rounds, frames.compilations)]
        found = [values(rows, "batch_size") for rows in (*timed, frames.trials)]
        return np.unique(np.concatenate(found)).astype(np.int64)

    @cached_property
    def rounds(self) -> pd.DataFrame:
        """The rounds that the answer is made from, on one device, the whole batch in one piece."""
        timed = comparable(self.frames, self.frames.rounds)
        return only(timed, timed["accumulation"] == 1)

    @cached_property
    def rounds_in_microbatches(self) -> pd.DataFrame:
        """The rounds of batches that do not fit whole: gradients of microbatches are averaged, one update a batch."""
        timed = comparable(self.frames, self.frames.rounds)
        return only(timed, timed["accumulation"] > 1)

    @cached_property
    def compilations(self) -> pd.DataFrame:
        """The compilations of steps on one device, in the precision that was trained in, whole or in microbatches."""
        return comparable(self.frames, self.frames.compilations)

    @cached_property
    def whole_compilations(self) -> pd.DataFrame:
        """Of `compilations` those of the whole batch in one piece."""
        return only(self.compilations, self.compilations["accumulation"] == 1)

    @cached_property
    def claims(self) -> dict[int, Claim]:
        """The trials that the claims on each batch size rest on."""
        return observations.claims(self.frames, self.target)

    @cached_property
    def claim_trials(self) -> pd.DataFrame:
        """The trials that decide the examples to the target, for all batch sizes."""
        rested_on = [claim.for_target for claim in self.claims.values()]
        return pd.concat([self.frames.trials.iloc[:0], *rested_on])

    @cached_property
    def searched_trials(self) -> pd.DataFrame:
        """The search trials that did not fail. A trial that failed is no evidence about its rate."""
        run = self.frames.trials
        return only(run, (run["phase"] == "search") & (run["status"] != "failed"))

    @cached_property
    def searched_points(self) -> pd.DataFrame:
        """One row per batch size, rate and options that were searched: see `observations.searched_points`."""
        return observations.searched_points(self.searched_trials, self.amounts.shown)

    @cached_property
    def crossed(self) -> pd.DataFrame:
        """Where every trial crossed the target: see `observations.crossings`."""
        return observations.crossings(self.frames, self.target)

    @cached_property
    def arms(self) -> list[Arm]:
        """Every batch size at every rate that is compared, by batch size: see `arms`."""
        return settings.arms(self.frames, self.claims, self.crossed, self.goal)

    @cached_property
    def claim_arms(self) -> dict[int, int]:
        """The number of the arm that the claims on each trained batch size rest on."""
        return {size: self._arm_sizes.index(size) for size, claim in self.claims.items() if len(claim.for_target)}

    @property
    def _arm_sizes(self) -> list[int]:
        return [arm.batch_size for arm in self.arms]

    @property
    def amounts(self) -> Amounts:
        """What training is counted in, and which amounts follow."""
        return self.frames.amounts

    @cached_property
    def effects(self) -> Effects | None:
        """Training to the target of every arm; None without training runs."""
        return settings.effects_of(self.arms) if self.arms else None

    @cached_property
    def needs(self) -> list[Repetitions]:
        """Logarithms of the training to the target, one entry for each of `sizes`."""
        limit = observations.horizon(self.frames, self.target)
        return [self._needs(size, limit) for size in self.sizes.tolist()]

    def _needs(self, size: int, limit: float) -> Repetitions:
        if size not in self.claim_arms:
            return observations.NOTHING
        arm = self.arms[self.claim_arms[size]]
        if arm.is_smoothed:
            found = np.sort(arm.log_needs[np.isfinite(arm.log_needs)])
            return replace(Repetitions.exact(found, logarithmic=True), misses=len(arm.log_needs) - len(found))
        return observations.log_needs(arm.trials, self.crossed, limit, self.amounts.least)

    @cached_property
    def training(self) -> Locations:
        """Training after which the typical run reaches the target: examples, or what the folder counts instead.

        Where nothing was repeated, and for imported tables of needs, these are medians over runs.
        """
        effects = self.effects
        if not self.frames.has_scores or effects is None or not np.isfinite(effects.spreads).any():
            return self._locate(self.needs, TRAINING)
        found = locations_of(effects, TRAINING)
        count, at = len(self.sizes), np.searchsorted(self.sizes, list(self.claim_arms))
        arms = list(self.claim_arms.values())
        medians, centres = np.full(count, np.nan), np.full(count, np.nan)
        errors, draws = np.full((DRAWS, count), np.nan), np.full((DRAWS, count), np.nan)
        medians[at], centres[at] = found.medians[arms], found.centres[arms]
        errors[:, at], draws[:, at] = found.errors[:, arms], found.draws[:, arms]
        return Locations(medians, centres, errors, draws)

    @cached_property
    def first_evaluations(self) -> Array:
        """Median over runs of the training at the first evaluation that reached the target (sizes,)."""
        needed = self.crossed[f"{self.amounts.counted_in}_to_target"]
        rested_on = [
            self.claims[size].for_target["trial"] if size in self.claims else [] for size in self.sizes.tolist()
        ]
        return np.array([needed.loc[numbers].median() for numbers in rested_on], dtype=np.float64)

    @cached_property
    def typical_training(self) -> Array:
        """Training to the target (sizes,); recorded ones are kept exact, since logarithms make 129 into 128.999..."""
        return np.exp(self.training.medians) if self.frames.has_scores else self.first_evaluations

    @cached_property
    def comparison(self) -> Comparison | None:
        """The comparison of all arms by their time to the target; None where too little was trained or timed.

        In a study with looks, its last look is repeated: only the arms of the study count, with the error that the look
        had. Which arms are out it decided by the experiment's own target and the speeds of the machine that trained.
        Where another machine trained, its looks chose the seeds of every batch size, so all arms are compared.
        """
        looked = looks.reading(self.frames.looks)
        elsewhere = self.frames.convergence_from or self.frames.machine.trained_on
        if looked and self.is_own_target and not elsewhere:
            places = {arm.key: number for number, arm in enumerate(self.arms)}
            arms = np.array([places[key] for key in looked.arms if key in places], dtype=np.intp)
            keys = [self.arms[number].key for number in arms.tolist()]
            among, gone = (
                np.array([key in part for key in keys], dtype=bool) for part in (looked.compared, looked.out)
            )
        else:
            arms = np.arange(len(self.arms))
            among, gone = np.ones(len(arms), dtype=bool), np.zeros(len(arms), dtype=bool)
        alpha, stream = (looked.alpha, looked.stream) if looked else (1 - LEVEL, 0)
        found = self._compare([self.arms[number] for number in arms.tolist()], among, alpha, stream)
        if found is None:
            return None
        found = replace(found, out=found.out | (found.among & gone), bounds=np.where(gone, np.inf, found.bounds))
        return found.among_others(arms, len(self.arms))

    def _compare(
        self, arms: Sequence[Arm], among: Bool[np.ndarray, " arms"], alpha: float, stream: int
    ) -> Comparison | None:
        """Compare some arms by their time to the target; None where none was timed, or nothing was repeated."""
        sizes, which = np.unique(np.array([arm.batch_size for arm in arms]), return_inverse=True)
        among = among & np.isin(sizes, list(self.pace_of))[which]
        effects = settings.effects_of(arms) if among.any() else None
        if effects is None or not np.isfinite(effects.spreads).any():
            return None
        timing = self.timing(sizes)
        timed = effects if timing is None else effects.with_timing(timing.spread_over(which))
        return compare(timed, among, alpha, stream)

    def timing(self, sizes: NDArray[np.int64]) -> Effects | None:
        """Return the effects of the seconds per unit of training; None where training is counted in seconds."""
        if self.amounts.counted_in == "seconds":
            return None
        found = settings.timing_of(sizes.tolist(), self.speeds)
        return found.shifted(-np.log([self._units_timed(size) for size in sizes.tolist()]))

    @property
    def why_not_joined(self) -> str:
        """Why speeds that are known give no time to the target."""
        if self.amounts.counted_in == "budgets":
            return WHY["budgets"]
        return f"the speeds are of {self.frames.timed_in}, and training is counted in {self.amounts.counted_in}"

    def _units_timed(self, size: int) -> float:
        """Return how much training a round's step or epoch is; NaN where the speeds do not join with the training."""
        joins = self.amounts.timed_in == self.frames.timed_in
        return self.amounts.per(self.frames.timed_in, size) if joins else np.nan

    @cached_property
    def tied_in_time(self) -> set[int] | None:
        """The batch sizes with an arm that can have the least time to the target; None without a comparison."""
        if self.comparison is None:
            return None
        return {size for size, tied in zip(self._arm_sizes, self.comparison.tied.tolist(), strict=True) if tied}

    @cached_property
    def round_seconds(self) -> Locations:
        """Seconds per step of the fastest loop, or per epoch where a table holds these."""
        timed = [observations.log_seconds(self.speeds.get(size)) for size in self.sizes.tolist()]
        return self._locate(timed, SECONDS)

    @cached_property
    def step_seconds(self) -> Locations:
        """Seconds per step; NaN where epochs were timed."""
        nothing = np.nan if self.frames.timed_in == "epochs" else 0.0
        return self.round_seconds.shifted(np.full(len(self.sizes), nothing))

    @cached_property
    def pace(self) -> Locations:
        """Seconds per unit of training; 1 where seconds count it, NaN where the speeds do not join with it."""
        if self.amounts.counted_in == "seconds":
            known = np.where(np.isin(self.sizes, list(self.claims)), 0.0, np.nan)
            nothing = np.zeros((DRAWS, len(known)))
            return Locations(known, known, nothing, nothing + known)
        return self.round_seconds.shifted(-self._log_units)

    @property
    def _log_units(self) -> Array:
        return np.log([self._units_timed(size) for size in self.sizes.tolist()])

    @cached_property
    def pace_of(self) -> dict[int, float]:
        """Seconds per unit of training at each batch size whose time is known."""
        seconds = np.exp(self.pace.medians)
        return {int(size): float(one) for size, one in zip(self.sizes, seconds, strict=True) if np.isfinite(one)}

    @cached_property
    def round_joules(self) -> Locations:
        """Joules per step, or per epoch where a table holds these."""
        measured = [observations.log_joules(self.speeds.get(size)) for size in self.sizes.tolist()]
        return self._locate(measured, JOULES)

    @cached_property
    def time(self) -> Locations:
        """Seconds to the target: training to it times seconds per unit of training."""
        if self.amounts.counted_in == "seconds":
            return self.training
        return (self.training + self.round_seconds).shifted(-self._log_units)

    @cached_property
    def energy(self) -> Locations:
        """Joules to the target."""
        return (self.training + self.round_joules).shifted(-self._log_units)

    @cached_property
    def cost(self) -> Locations | None:
        """Cost of the time to the target, in the currency of the price; None where no price is known."""
        price = self.frames.price_per_hour
        return self.time.shifted(np.full(len(self.sizes), np.log(price / SECONDS_PER_HOUR))) if price else None

    @cached_property
    def score(self) -> Locations:
        """Best scores within the budget of epochs, oriented so that the least is best.

        The draws hold the noise of the validation examples, which all batch sizes share; the errors do not.
        """
        surface, _ = self.score_surface
        noise = surface and (surface.noise, surface.freedom)
        found = locate(self._scores(observations.best_scores), self.log_sizes, SCORE, noise)
        return self._among_examples(found, self.errors_of_examples)

    @cached_property
    def score_surface(self) -> tuple[ScoreSurface | None, str | None]:
        """The surface of final scores over batch size and rate, or why there is none."""
        return final_scores.surface(self.frames, self.goal)

    @cached_property
    def averaged_score(self) -> Locations:
        """Best scores of the averaged parameters, oriented as `score`, with the random numbers of `score`."""
        located = self._locate(self._scores(observations.best_averaged_scores), SCORE)
        return self._among_examples(located, self.errors_of_examples)

    @cached_property
    def averaged_score_gain(self) -> Locations:
        """Gain in score by averaging the parameters, seed by seed, negated."""
        return self._locate(self._scores(observations.averaged_score_gains), AVERAGED_SCORE_GAIN)

    @cached_property
    def step_budget(self) -> int:
        """Steps that the largest trained batch size takes within the budget; all others take at least as many."""
        trained = [size for size, claim in self.claims.items() if len(claim.for_score)]
        steps = self.frames.budget / self.amounts.per("steps", max(trained, default=1))
        return int(steps) if trained and np.isfinite(steps) else 0

    @cached_property
    def score_by_steps(self) -> Locations:
        """Best scores within the budget of steps, oriented as `score`."""
        steps = self.step_budget
        if self.frames.imported and (not self.frames.has_scores or self.frames.goal is None or not steps):
            return self._locate([observations.NOTHING] * len(self.sizes), SCORE_BY_STEPS)
        seen = self._scores(lambda _, claimed: observations.best_scores_by_steps(self.frames, claimed, steps))
        return self._among_examples(self._locate(seen, SCORE_BY_STEPS), self.errors_of_examples_by_steps)

    @cached_property
    def tied_in_score(self) -> set[int] | None:
        """The batch sizes that can have the best score within the budget of epochs; None where none was repeated."""
        return self._tied(best_scores.within_budget(self.frames))

    @cached_property
    def tied_in_score_by_steps(self) -> set[int] | None:
        """The same within the budget of steps."""
        return self._tied(best_scores.within_steps(self.frames, self.step_budget))

    def _tied(self, scores: Mapping[int, float]) -> set[int] | None:
        return best_scores.tied(self.goal, self.claims, scores, self.frames.validation_examples)

    @cached_property
    def errors_of_examples(self) -> dict[int, float]:
        """Standard error of each score from the number of validation examples, where rows hold it."""
        return best_scores.errors_of_examples(self.frames, self.goal, self.claims)

    @cached_property
    def errors_of_examples_by_steps(self) -> dict[int, float]:
        """The same within the budget of steps."""
        return best_scores.errors_of_examples(self.frames, self.goal, self.claims, self.step_budget)

    @cached_property
    def levelled_off(self) -> dict[int, bool | None]:
        """Whether each trained batch size had levelled off at the end of the budget; None where it is not known."""
        return best_scores.levelled_off(self.frames, self.goal, self.claims)

    @cached_property
    def below_useful_range(self) -> NDArray[np.bool_]:
        """True for batch sizes that need more training than a larger one, beyond noise."""
        return above_a_later_one(self.training, np.log1p(LEAST_EXCESS))

    @cached_property
    def examples_fit(self) -> Fit:
        """Fit of the examples to the target, without batch sizes below the useful range."""
        if reason := self.amounts.why_no("steps"):
            return Fit(None, reason)
        values = np.where(self.below_useful_range, np.nan, self.training.centres)
        return self._fit(values, self.training.errors, TRAINING)

    @cached_property
    def step_seconds_fit(self) -> Fit:
        """Fit of the seconds per step, without batch sizes in microbatches."""
        whole = [self.speeds[size].accumulation == 1 if size in self.speeds else False for size in self.sizes.tolist()]
        values = np.where(whole, self.step_seconds.centres, np.nan)
        return self._fit(values, self.step_seconds.errors, SECONDS)

    @property
    def log_sizes(self) -> Array:
        """Logarithms of the batch sizes."""
        return np.log(self.sizes.astype(np.float64))

    @property
    def is_own_target(self) -> bool:
        """True under the target that the experiment was made for."""
        return self.target == self.frames.experiment.goal.threshold

    @property
    def goal(self) -> Goal:
        """The score to reach, with the target of this sweep."""
        return self.frames.experiment.goal.at(self.target)

    def contest(self, locations: Locations, metric: str, *, of_scores: bool = False) -> Contest:
        """Return the comparison of the batch sizes by one of the locations above, named by `metric`."""
        tried = ~np.isnan(locations.medians)
        if not of_scores:
            spread = None if any(need.count > 1 for need in self.needs) else NEIGHBOURS
            return Contest(self.sizes, locations, tried, self.out_of_memory, metric, spread=spread)
        surface, _ = self.score_surface
        repeated = any(one.count > 1 for one in self._scores(observations.best_scores))
        spread = None if repeated else SURFACE if surface else NEIGHBOURS
        return Contest(self.sizes, locations, tried, self.out_of_memory, metric, self.goal, spread)

    @cached_property
    def out_of_memory(self) -> NDArray[np.bool_]:
        """True for batch sizes that could not be timed in any way because they do not fit."""
        full = set(only(self.compilations, self.compilations["status"] == "out_of_memory")["batch_size"])
        return np.array([size in full and size not in self.speeds for size in self.sizes.tolist()], dtype=bool)

    def _scores(self, observe: Callable[[Goal, pd.DataFrame], Repetitions]) -> list[Repetitions]:
        """Return scores; the spread of accuracies is at least one validation example."""
        seen = [
            observe(self.goal, self.claims[size].for_score) if size in self.claims else observations.NOTHING
            for size in self.sizes.tolist()
        ]
        examples = self.frames.validation_examples
        if examples is None or not self.goal.kind.is_share:
            return seen
        return [replace(one, least_spread=1 / examples) for one in seen]

    def _among_examples(self, located: Locations, error: Mapping[int, float]) -> Locations:
        """Add the noise of the validation examples to the draws, the same to all batch sizes."""
        errors = np.array([error.get(size, 0.0) for size in self.sizes.tolist()])
        common = np.random.default_rng([SEED, 13]).standard_normal((DRAWS, 1))
        return replace(located, draws=located.draws + common * errors)

    def _locate(self, cells: list[Repetitions], stream: int) -> Locations:
        return locate(cells, self.log_sizes, stream)

    def _fit(self, values: Array, errors: Array, stream: int) -> Fit:
        try:
            return Fit(fit_knee(self.sizes, values, errors, stream))
        except Refusal as refusal:
            return Fit(None, str(refusal))
