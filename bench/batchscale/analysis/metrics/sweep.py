"""Both halves of a sweep located on logarithms, cell by cell, and joined: the one input of every claim."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from batchscale.analysis.frames.frames import Frames
from batchscale.analysis.frames.schema import only
from batchscale.analysis.metrics import claim_trials
from batchscale.analysis.metrics.claim_trials import Claim, Speed
from batchscale.analysis.statistics.comparison import Contest
from batchscale.analysis.statistics.curve_fit import Knee, Refusal, fit_knee
from batchscale.analysis.statistics.intervals import Array, Locations, Repetitions, locate
from batchscale.analysis.statistics.ties import above_a_later_one

# Each quantity of a cell has random numbers of its own, so that they err independently.
EXAMPLES, STEP_SECONDS, STEP_JOULES, ACCURACY, ACCURACY_BY_STEPS, EMA_ACCURACY_GAIN = range(6)

SECONDS_PER_HOUR = 3600.0
LEAST_EXCESS = 0.05
"""How many more examples, as a fraction, a cell must need than a larger one to be below the useful range."""


@dataclass(frozen=True)
class Fit:
    """A fitted curve, or the reason why there is none."""

    knee: Knee | None
    reason: str | None = None


@dataclass(frozen=True)
class Sweep:
    """A folder's cells under one target. Arrays are (cells,), locations are of logarithms."""

    frames: Frames
    target: float
    speeds: dict[int, Speed]

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """The batch sizes."""
        return claim_trials.batch_sizes(self.frames)

    @cached_property
    def claims(self) -> dict[int, Claim]:
        """The trials each batch size rests on."""
        return claim_trials.claims(self.frames, self.target)

    @cached_property
    def crossed(self) -> pd.DataFrame:
        """Where every trial crossed the target."""
        return claim_trials.crossings(self.frames, self.target)

    @cached_property
    def needs(self) -> list[Repetitions]:
        """Logarithms of examples to the target."""
        limit = claim_trials.horizon(self.frames, self.target)
        return [
            claim_trials.log_examples_to_target(self.claims[size].for_target, self.crossed, limit)
            if size in self.claims
            else claim_trials.NOTHING
            for size in self.sizes.tolist()
        ]

    @cached_property
    def examples(self) -> Locations:
        """Examples to the target."""
        return self._locate(self.needs, EXAMPLES)

    @cached_property
    def median_examples(self) -> Array:
        """Median examples to the target as the rows have it; a logarithm and back makes 129 into 128.99999999999997."""
        needed = self.crossed["examples_to_target"]
        trials = [self.claims[size].for_target["trial"] if size in self.claims else [] for size in self.sizes.tolist()]
        return np.array([needed.loc[numbers].median() for numbers in trials], dtype=np.float64)

    @cached_property
    def step_seconds(self) -> Locations:
        """Seconds per step of the faster loop."""
        timed = [claim_trials.log_seconds_per_step(self.speeds.get(size)) for size in self.sizes.tolist()]
        return self._locate(timed, STEP_SECONDS)

    @cached_property
    def step_joules(self) -> Locations:
        """Joules per step."""
        measured = [claim_trials.log_joules_per_step(self.speeds.get(size)) for size in self.sizes.tolist()]
        return self._locate(measured, STEP_JOULES)

    @cached_property
    def time(self) -> Locations:
        """Seconds to the target: steps to it times seconds per step."""
        return (self.examples + self.step_seconds).shifted(-self.log_sizes)

    @cached_property
    def energy(self) -> Locations:
        """Joules to the target."""
        return (self.examples + self.step_joules).shifted(-self.log_sizes)

    @cached_property
    def cost(self) -> Locations | None:
        """What the time to the target costs; None where no price is known."""
        price = self.frames.price_per_hour
        return self.time.shifted(np.full(len(self.sizes), np.log(price / SECONDS_PER_HOUR))) if price else None

    @cached_property
    def accuracy(self) -> Locations:
        """Best accuracies within the budget of epochs, negated."""
        return self._locate(self._accuracies(claim_trials.best_accuracies), ACCURACY)

    @cached_property
    def ema_accuracy(self) -> Locations:
        """The same of the averaged parameters; of the same runs, so that equal accuracies have equal intervals."""
        return self._locate(self._accuracies(claim_trials.best_ema_accuracies), ACCURACY)

    @cached_property
    def ema_accuracy_gain(self) -> Locations:
        """What averaging the parameters adds to them, seed by seed, negated."""
        return self._locate(self._accuracies(claim_trials.ema_accuracy_gains), EMA_ACCURACY_GAIN)

    @cached_property
    def step_budget(self) -> int:
        """Steps that the largest trained batch size takes within the budget of epochs, which all others take too."""
        trained = [size for size, claim in self.claims.items() if len(claim.for_accuracy)]
        budget = self.frames.budget_examples
        return int(budget // max(trained)) if trained and np.isfinite(budget) else 0

    @cached_property
    def accuracy_by_steps(self) -> Locations:
        """Best accuracies within the budget of steps, negated."""
        steps = self.step_budget
        if self.frames.imported:
            return self._locate([claim_trials.NOTHING] * len(self.sizes), ACCURACY_BY_STEPS)
        seen = self._accuracies(lambda trials: claim_trials.best_accuracies_by_steps(self.frames, trials, steps))
        return self._locate(seen, ACCURACY_BY_STEPS)

    @cached_property
    def below_useful_range(self) -> NDArray[np.bool_]:
        """Cells that need more examples than a larger batch size does, beyond what noise explains."""
        return above_a_later_one(self.examples, np.log1p(LEAST_EXCESS))

    @cached_property
    def examples_fit(self) -> Fit:
        """The hyperbola, fitted where it can hold: not below the useful range."""
        values = np.where(self.below_useful_range, np.nan, self.examples.centres)
        return self._fit(values, self.examples.errors, EXAMPLES)

    @cached_property
    def step_seconds_fit(self) -> Fit:
        """The affine step time."""
        whole = [self.speeds[size].accumulation == 1 if size in self.speeds else False for size in self.sizes.tolist()]
        values = np.where(whole, self.step_seconds.centres, np.nan)
        return self._fit(values, self.step_seconds.errors, STEP_SECONDS)

    @property
    def log_sizes(self) -> Array:
        """Logarithms of the batch sizes."""
        return np.log(self.sizes.astype(np.float64))

    def contest(self, locations: Locations, metric: str, *, logarithmic: bool = True) -> Contest:
        """These cells compared by one of the locations above."""
        tried = ~np.isnan(locations.medians)
        repeated = any(need.count > 1 for need in self.needs)
        return Contest(self.sizes, locations, tried, self.out_of_memory, metric, logarithmic, repeated)

    @cached_property
    def out_of_memory(self) -> NDArray[np.bool_]:
        """Cells that were compiled or timed in no way because they do not fit."""
        compiled = claim_trials.comparable(self.frames, self.frames.compilations)
        full = set(only(compiled, compiled["status"] == "out_of_memory")["batch_size"])
        return np.array([size in full and size not in self.speeds for size in self.sizes.tolist()], dtype=bool)

    def _accuracies(self, observe: Callable[[pd.DataFrame], Repetitions]) -> list[Repetitions]:
        """Of shares of examples, which seeds change by one example at the least."""
        seen = [
            observe(self.claims[size].for_accuracy) if size in self.claims else claim_trials.NOTHING
            for size in self.sizes.tolist()
        ]
        examples = self.frames.validation_examples
        return [replace(one, least_spread=1 / examples) if examples else one for one in seen]

    def _locate(self, cells: list[Repetitions], stream: int) -> Locations:
        return locate(cells, self.log_sizes, stream)

    def _fit(self, values: Array, errors: Array, stream: int) -> Fit:
        try:
            return Fit(fit_knee(self.sizes, values, errors, stream))
        except Refusal as refusal:
            return Fit(None, str(refusal))


def sweep(frames: Frames, target: float | None = None) -> Sweep:
    """The sweep of a folder under `target` (the experiment's own when None)."""
    accuracy = frames.experiment.target.accuracy if target is None else target
    return Sweep(frames, accuracy, claim_trials.speeds(frames))
