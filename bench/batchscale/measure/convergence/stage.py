"""The convergence stage of one experiment: it trains every trial that is missing."""

from __future__ import annotations

from functools import cached_property

from batchscale.config import plan
from batchscale.measure.convergence.early_stopping import Race
from batchscale.measure.convergence.known_trials import Study
from batchscale.measure.convergence.lane_programs import LanePrograms
from batchscale.measure.convergence.tier_search import TierStudy
from batchscale.measure.session import Session, StageRows
from batchscale.records.row_types import Trial


class Convergence:
    """The convergence stage of a session: its trials so far, its tiers and its programs."""

    def __init__(self, session: Session) -> None:
        self.session, self.programs = session, LanePrograms(session)
        self.study = Study(
            experiment=session.experiment,
            folder=session.folder,
            origin=session.origin,
            append=self._append,
            progress=session.progress,
            check=session.stopper.check,
            duration=session.duration,
            race=Race(
                goal=session.experiment.goal,
                budget_examples=session.duration.budget_examples,
                validation_examples=len(session.dataset.validation_labels),
            ),
            memory_bytes=self.programs.memory_bytes,
            workers=session.host.workers,
        )
        self._rows = StageRows(session, "convergence", self.study.see)
        if session.retries_failed:
            self.study.forget_failed()

    @cached_property
    def tiers(self) -> list[TierStudy]:
        """Every tier with its programs under its fastest lowering, which is tried where none is kept."""
        return [self._tier_study(tier) for tier in self.programs.tiers]

    def plan(self) -> None:
        """Choose lowerings where that is still to do, and plan the progress line for the trials that are missing."""
        for tier in self.tiers:
            tier.announce()

    def run(self) -> None:
        """Train every trial that is missing.

        Raises:
            InputError: When the rows cannot be written.
            Stopped: When a signal asked to stop.
            DeviceError: When the device keeps failing.
        """
        with self._rows.open(self._cost):
            for tier in self.tiers:
                tier.run()

    def _append(self, trial: Trial) -> None:
        self._rows.append(trial)

    def _cost(self) -> dict[str, int]:
        compilations = sum(one.compilations for one in self.programs.programs.values())
        return {"compilations": compilations, "trained_examples": self.study.trained_examples}

    def _tier_study(self, tier: plan.Tier) -> TierStudy:
        tuned, width = self.programs.tuned(tier), self.programs.shard_width(tier)
        return TierStudy(self.study, tier, self.programs.of(tier, tuned.lowering), tuned, width)
