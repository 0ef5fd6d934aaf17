"""What training trials takes: the programs, what is known of each trial, and where its rows go."""

from __future__ import annotations

from collections.abc import Callable, Set

from batchscale.config.vocabulary import Phase, Point
from batchscale.measure.control.failures import Streak
from batchscale.measure.convergence.early_stopping import Race
from batchscale.measure.convergence.tiers import LanePrograms
from batchscale.measure.convergence.wave import Grid
from batchscale.measure.session import Session, StageRows
from batchscale.records.row_types import AnyRow, Curve, Look, Trial, TrialKey


class Training:
    """The trials of a session, as everything that trains some of them sees them.

    Args:
        session: The experiment, its data, and the folder for rows.
        write: Receives every row in place of the session's folder. A process that does a job for another uses it.

    Attributes:
        session: The experiment, its data and its folder.
        programs: The programs of every tier.
        race: When losing points are stopped.
        trials: The trials that have a verdict, each as its latest row; kept current while rows are written.
        looks: The looks so far.
        rows_file: The rows file of the stage.
        streak: Counts waves that fail one after another.
        trained_examples: Lane-examples that this run trained.
    """

    def __init__(self, session: Session, write: Callable[[AnyRow], None] | None = None) -> None:
        self.session, self.programs, self._write = session, LanePrograms(session), write
        self.race = Race(
            goal=session.experiment.goal,
            budget_examples=session.duration.budget_examples,
            validation_examples=len(session.dataset.validation.labels),
        )
        self.streak, self.trained_examples = Streak(), 0
        self.trials: dict[TrialKey, Trial] = {}
        self.looks: list[Look] = []
        self.rows_file = StageRows(session, "convergence", self.see)
        if session.retries_failed:
            self.trials = {key: trial for key, trial in self.trials.items() if trial.status != "failed"}

    def of(self, phase: Phase, batch_size: int) -> list[Trial]:
        """Return the trials of one phase and batch size that did not fail."""
        return [
            trial
            for key, trial in self.trials.items()
            if key.phase == phase and key.batch_size == batch_size and trial.status != "failed"
        ]

    def missing(self, grid: Grid) -> set[TrialKey]:
        """Return the trials of a grid that have no verdict."""
        return {trial for trial in grid.trials if trial not in self.trials}

    def rivals(self, own: Set[TrialKey]) -> dict[int, dict[Point, list[Curve]]]:
        """Return the curves of rival search trials, by batch size and point.

        Rivals are not in the wave's `own` trials but have one of their batch sizes.
        """
        found: dict[int, dict[Point, list[Curve]]] = {}
        for size in {key.batch_size for key in own}:
            for trial in self.of("search", size):
                if trial.key not in own:
                    found.setdefault(size, {}).setdefault(trial.point, []).append(trial.curve)
        return found

    def append(self, row: AnyRow) -> None:
        """Write a row.

        Raises:
            InputError: When the disk reports an error.
        """
        if self._write is None:
            return self.rows_file.append(row)
        self._write(row)
        self.see(row)

    def see(self, row: AnyRow) -> None:
        """Take in a row, old or new."""
        if isinstance(row, Look):
            self.looks.append(row)
        elif isinstance(row, Trial) and (row.key not in self.trials or row.supersedes(self.trials[row.key])):
            self.trials[row.key] = row
