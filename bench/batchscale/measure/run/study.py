"""A study with looks: training and timing alternate until the answer suffices or the budget is spent.

    search -> rates of all batch sizes -> time block 0 -> train the first seeds -> look 1 -> who is out, who joins
           -> time block 1 of those that are left -> train more seeds -> look 2 -> ...

Every look is a row. A run that is resumed replays the looks that were made, trains and times what is missing of what
they asked for, and goes on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import msgspec

from batchscale.config import plan
from batchscale.decisions import looks
from batchscale.decisions.looks import Evidence, Standing
from batchscale.measure.control.progress import BEYOND_BUDGET
from batchscale.measure.convergence.stage import Convergence, fixed_setting
from batchscale.measure.convergence.tiers import trial_seconds
from batchscale.measure.convergence.wave import Setting
from batchscale.measure.session import Session
from batchscale.measure.throughput.stage import Throughput
from batchscale.records.row_types import Arm, Look
from batchscale.statistics.looks import ALPHAS, Decision

LATER = "later looks"
"""Name, in the progress line, of the training that may follow the look in progress."""


class Study:
    """The stages of a session whose experiment has looks.

    Attributes:
        session: The experiment, its data and its folder.
        times: True if rounds may be timed; else a look needs those that the folder holds.
        throughput: The timing.
        convergence: The training.
    """

    def __init__(self, session: Session, *, times: bool) -> None:
        self.session, self.times = session, times
        self.throughput, self.convergence = Throughput(session), Convergence(session)
        sizes = len(session.batch_sizes)
        self.budget = plan.confirmation_examples(session.experiment, sizes, session.duration)

    def plan(self) -> None:
        """Plan the progress line for all that is missing, as if looks spent the whole budget."""
        if self.times:
            self.throughput.plan()
        self.convergence.plan()
        standing, evidence = self._standing(), self._evidence()
        if standing.stop is None:
            whole = plan.first_seeds(self.session.experiment) * len(self.session.batch_sizes)
            beyond = 0.0 if standing.number else whole * (BEYOND_BUDGET - 1) * self.session.duration.budget_examples
            self._plan_later(self.budget + beyond - evidence.spent(standing.arms))

    def run(self) -> None:
        """Measure all that is missing.

        Raises:
            InputError: When the rows cannot be written.
            Stopped: When a signal asked to stop.
            DeviceError: When the device keeps failing.
        """
        if self.times:
            self.throughput.run()
        with self.convergence.training.rows_file.open(self.convergence.cost):
            self.convergence.search()
            self._admit()
            self._train_claims()
            trained = 0
            while True:
                trained = self._catch_up(trained)
                if self._standing().stop is not None or not self._can_look():
                    break
                self._look()
        self._close()

    def _standing(self) -> Standing:
        return looks.replay(self.convergence.training.looks)

    def _evidence(self) -> Evidence:
        # A run that another machine began holds confirmation runs that its looks here did not ask for.
        asked = self._standing().asked
        trials = [
            trial
            for trial in self.convergence.training.trials.values()
            if trial.status != "failed"
            and (trial.phase != "confirm" or (trial.batch_size, trial.point, trial.seed) in asked)
        ]
        return Evidence(self.session.experiment, self.session.duration, trials, self.throughput.timing.known.timed)

    def _admit(self) -> None:
        """Let the batch sizes that have a rate and no arm join, and let a study go on whose budget has grown."""
        standing = self._standing()
        unchanged = self._row(standing)
        known = {arm.batch_size for arm in standing.arms}
        new = [
            Arm(
                batch_size=size,
                learning_rate=choice.for_target.learning_rate,
                options=dict(choice.for_target.options),
            )
            for size, choice in self.convergence.choices().items()
            if size not in known
        ]
        can_compare = self.times or self._is_timed([*standing.left, *new])
        first = plan.first_seeds(self.session.experiment) if can_compare else self.session.experiment.seeds.confirm
        if new:
            self._write(msgspec.structs.replace(unchanged, added=new, next_seeds=max(standing.seeds, first)))
        elif not can_compare and first > standing.seeds:
            self._write(msgspec.structs.replace(unchanged, next_seeds=first))
        elif standing.stop is not None and self._may_go_on(standing):
            again = self._decide(replace(standing, number=standing.number - 1))
            if again.stop is None:
                added = self._joining(standing, again)
                self._write(msgspec.structs.replace(unchanged, added=added, next_seeds=again.seeds))

    def _may_go_on(self, standing: Standing) -> bool:
        """Return True if the experiment allows more than it did at the last look."""
        table = self.session.experiment.confirm
        looks_again = table is not None and standing.stop == "last look" and table.looks[-1] > standing.seeds
        return looks_again or (standing.stop == "budget" and self.budget > standing.budget)

    def _train_claims(self) -> None:
        """Train what claims other than the time to the target rest on: the best score, and the fixed rate."""
        experiment, arms = self.session.experiment, {(arm.batch_size, arm.point) for arm in self._standing().arms}
        settings: list[Setting] = []
        for size, choice in self.convergence.choices().items():
            if (size, choice.for_score) not in arms:
                settings.append(Setting("confirm", size, choice.for_score))
            settings += fixed_setting(experiment, size)
        seeds = plan.confirmation_seeds(experiment)[: plan.first_seeds(experiment)]
        self.convergence.confirm("best scores", settings, seeds)

    def _catch_up(self, trained: int) -> int:
        """Time and train what the looks so far ask for, from batch `trained` on; return how many batches there are."""
        standing = self._standing()
        if self.times and standing.stop is None and standing.number:
            with self.convergence.training.rows_file.paused():
                cells = self._evidence().cells(arm.batch_size for arm in standing.left)
                self.throughput.time_block(standing.number, cells)
        for batch in standing.batches[trained:]:
            seeds = [plan.FIRST_CONFIRMATION_SEED + seed for seed in batch.seeds]
            evidence = self._evidence()
            costs = sum(evidence.expected(arm, seeds) for arm in batch.arms)
            self._plan_later(self.budget - evidence.spent(standing.arms) - costs)
            settings = [Setting("confirm", arm.batch_size, arm.point) for arm in batch.arms]
            self.convergence.confirm(f"seeds {batch.seeds.start + 1} to {batch.seeds.stop}", settings, seeds)
        return len(standing.batches)

    def _can_look(self) -> bool:
        standing = self._standing()
        return standing.number < len(ALPHAS) and bool(standing.left) and self._is_timed(standing.left)

    def _is_timed(self, arms: Sequence[Arm]) -> bool:
        """Return True if any of these arms has a round: without any, nothing can be compared."""
        evidence = self._evidence()
        return any(evidence.fastest(arm.batch_size) for arm in arms)

    def _look(self) -> None:
        """Compare the arms that are left, write the decision and show it."""
        standing = self._standing()
        found = self._decide(standing)
        out = [arm for arm, is_out in zip(standing.arms, found.out, strict=True) if is_out and arm in standing.left]
        self._write(
            msgspec.structs.replace(
                self._row(standing),
                number=standing.number + 1,
                alpha=found.comparison.alpha,
                compared=list(standing.left),
                out=out,
                added=self._joining(standing, found),
                next_seeds=found.seeds,
                stop=found.stop,
            )
        )
        self.session.progress.say(self._said(found, standing.number + 1))

    def _decide(self, standing: Standing) -> Decision:
        return looks.decide(self._evidence(), standing, self.budget, self._multiple)

    def _joining(self, standing: Standing, found: Decision) -> list[Arm]:
        evidence = self._evidence()
        return [evidence.arm_between(standing.arms, size) for size in found.added]

    def _multiple(self, batch_size: float) -> int:
        """Return the microbatch that a batch size between others would be made of."""
        return self.convergence.home_of(batch_size).tier.microbatch_size

    def _row(self, standing: Standing) -> Look:
        """Return a row that changes nothing but what may be spent."""
        spent = self._evidence().spent(standing.arms)
        return Look(
            **msgspec.structs.asdict(self.session.origin()),
            number=standing.number,
            seeds=standing.seeds,
            alpha=0.0,
            next_seeds=standing.seeds,
            spent=spent,
            left=max(0, self.budget - spent),
        )

    def _write(self, look: Look) -> None:
        self.convergence.training.rows_file.append(look)
        standing = self._standing()
        left = sorted({arm.batch_size for arm in standing.left})
        self.session.progress.note = f"undecided: {shown(left)}" if standing.stop is None else ""

    def _said(self, found: Decision, number: int) -> str:
        """Return the line that reports a look."""
        standing, best = self._standing(), found.comparison.recommended
        left = sorted({arm.batch_size for arm in standing.left})
        line = f"look {number}: batch sizes that can still be the fastest to the target: {shown(left) or 'none'}"
        if len(left) > 1 and best is not None and math.isfinite(bound := float(found.comparison.bounds[best])):
            line += f"; {standing.arms[best].batch_size} is at most {math.expm1(bound):.0%} slower than the best"
        if found.stop is None:
            return f"{line}; on to {found.seeds} seeds"
        saved = max(0.0, 1 - self._evidence().spent(standing.arms) / max(self.budget, 1))
        return f"{line}; done: {found.stop}; {saved:.0%} of the planned training was not needed"

    def _plan_later(self, examples: float) -> None:
        """Plan the progress line for lane-examples that later looks may ask for."""
        budget = self.session.duration.budget_examples
        seconds = [trial_seconds(self.session.duration, tier.tuned) for tier in self.convergence.tiers]
        self.session.progress.plan(LATER, max(0.0, examples), budget * len(seconds) / sum(seconds))

    def _close(self) -> None:
        """Take what was not needed out of the progress line."""
        progress = self.session.progress
        progress.note = ""
        progress.close(LATER)
        for tier in self.convergence.tiers:
            tier.close()


def shown(sizes: Sequence[int]) -> str:
    """Return batch sizes in few words: each of up to four, else the ends and their number."""
    few = ", ".join(map(str, sizes))
    return few if len(sizes) <= 4 else f"{sizes[0]} to {sizes[-1]} ({len(sizes)})"
