"""What a convergence study knows: the trials that have a verdict, what they choose, and what is missing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from batchscale.config import plan
from batchscale.config.experiment import Experiment
from batchscale.config.vocabulary import Phase, Point
from batchscale.measure.control.failures import Streak
from batchscale.measure.control.progress import Progress
from batchscale.measure.convergence.checkpoint import TrialOf
from batchscale.measure.convergence.early_stopping import Race
from batchscale.measure.convergence.wave import Setting
from batchscale.records import rate_choice
from batchscale.records.row_types import AnyRow, Curve, Origin, Trial, TrialKey


@dataclass
class Study:
    """The convergence stage of one experiment: what is known, and where rows go."""

    experiment: Experiment
    folder: Path
    origin: Callable[[], Origin]
    append: Callable[[Trial], None]
    progress: Progress
    check: Callable[[], None]
    duration: plan.Duration
    race: Race
    memory_bytes: int
    workers: int
    trials: dict[TrialKey, Trial] = field(default_factory=dict)
    trained_examples: int = 0
    streak: Streak = field(default_factory=Streak)

    def see(self, row: AnyRow) -> None:
        """Take in a row of the stage, old or new."""
        if isinstance(row, Trial) and (row.key not in self.trials or row.supersedes(self.trials[row.key])):
            self.trials[row.key] = row

    def forget_failed(self) -> None:
        """Let the trials that failed be trained again."""
        self.trials = {key: trial for key, trial in self.trials.items() if trial.status != "failed"}

    def of(self, phase: Phase, batch_size: int) -> list[Trial]:
        """Trials of one phase and batch size, failures left out."""
        return [
            trial
            for key, trial in self.trials.items()
            if key.phase == phase and key.batch_size == batch_size and trial.status != "failed"
        ]

    def choice(self, batch_size: int, among: Container[Point] | None = None) -> rate_choice.Choice | None:
        """The points of a batch size as its search trials stand, of those `among` where they are given.

        None after a failed search trial: the best point may be the one that was not tried.
        """
        keys = [key for key in self.trials if key.phase == "search" and key.batch_size == batch_size]
        if any(self.trials[key].status == "failed" for key in keys):
            return None
        found = [one for one in self.of("search", batch_size) if among is None or one.point in among]
        return rate_choice.choose(found, self.experiment.goal, self.duration.budget_examples)

    def missing(self, settings: Iterable[Setting], seeds: Iterable[int]) -> set[TrialOf]:
        """The trials of a grid that have no verdict."""
        return {one for one in product(settings, seeds) if key_of(*one) not in self.trials}

    def rivals(self, own: Collection[TrialOf]) -> dict[int, dict[Point, list[Curve]]]:
        """The search curves there are at the batch sizes of a wave's `own` trials, of all others."""
        found: dict[int, dict[Point, list[Curve]]] = {}
        for size in {setting.batch_size for setting, _ in own}:
            for trial in self.of("search", size):
                if (Setting("search", size, trial.point), trial.seed) not in own:
                    found.setdefault(size, {}).setdefault(trial.point, []).append(trial.curve)
        return found


def key_of(setting: Setting, seed: int) -> TrialKey:
    """What tells a trial from every other of its folder."""
    return TrialKey(setting.phase, setting.batch_size, setting.point, seed)
