"""The convergence stage: search learning rates, extend the search at its edges, and confirm the best on new seeds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence, Set
from functools import cached_property
from itertools import product

from batchscale.config import plan
from batchscale.config.experiment import Experiment
from batchscale.config.plan import Tier
from batchscale.config.vocabulary import Point
from batchscale.decisions import rate_choice
from batchscale.measure.control.failures import Failure
from batchscale.measure.control.progress import BEYOND_BUDGET, confirm_trials, search_trials
from batchscale.measure.convergence.tiers import trial_seconds
from batchscale.measure.convergence.training import Training
from batchscale.measure.convergence.trial_job import ShardsOf, TierTraining, TrialJob
from batchscale.measure.convergence.wave import Grid, Setting, whole_search
from batchscale.measure.device.compiled_programs import Tuned
from batchscale.measure.session import Session
from batchscale.measure.training.optimizers import usual_options
from batchscale.records.row_types import AnyRow, Stage, Trial


class Convergence:
    """The convergence stage of a session.

    Args:
        session: The experiment, its data, and the folder for rows.
        write: Receives every row in place of the session's folder. A process that does a job for another uses it.

    Attributes:
        session: The experiment, its data and its folder.
        training: What is known of the trials, and what trains them.
    """

    def __init__(self, session: Session, write: Callable[[AnyRow], None] | None = None) -> None:
        self.session, self.training = session, Training(session, write)
        self._joined: dict[int, TierSearch] = {}

    @cached_property
    def tiers(self) -> list[TierSearch]:
        """Every tier under its fastest lowering, which is measured if the folder holds no choice yet."""
        self.training.programs.choose()
        return [TierSearch(self, tier) for tier in self.training.programs.tiers]

    def plan(self) -> None:
        """Choose lowerings that are not chosen yet, and plan the progress line for the trials that are missing."""
        for tier in self.tiers:
            tier.plan()

    def run(self) -> None:
        """Train every trial that is missing.

        Raises:
            InputError: When the rows cannot be written.
            Stopped: When a signal asked to stop.
            DeviceError: When the device keeps failing.
        """
        with self.training.rows_file.open(self.cost):
            self.search()
            self._do([tier.confirm_all() for tier in self.tiers])

    def search(self) -> None:
        """Train the missing search trials of every tier."""
        if self.session.runner is None:
            self._compile([tier for tier in self.tiers if tier.lacks_search])
        self._do([tier.search() for tier in self.tiers])

    def _do(self, chains: Sequence[Iterator[TrialJob]]) -> None:
        """Do the jobs of every chain in order: the next job of a chain may depend on rows of the one before."""
        if self.session.runner is not None:
            return self.session.runner.run(self, chains)
        for chain in chains:
            for job in chain:
                self.train(job)

    def train(self, job: TrialJob) -> None:
        """Train the trials of a job in this process.

        Raises:
            InputError: When the rows cannot be written.
            Stopped: When a signal asked to stop.
            DeviceError: When the device keeps failing.
        """
        TierTraining(self.training, job.tier, job.tuned).train(job)

    def _compile(self, tiers: Sequence[TierSearch]) -> None:
        """Compile the programs of several searches together."""
        start = time.monotonic()
        works = {name: work for tier in tiers for name, work in tier.tier_training.programs_of_search().items()}
        self.training.programs.compile(works, planned=True)
        for tier in tiers:
            tier.tier_training.compiled((time.monotonic() - start) / len(tiers))

    def confirm(self, name: str, settings: Sequence[Setting], seeds: Sequence[int]) -> None:
        """Train the missing trials of some settings, each tier in its own programs.

        Args:
            name: What the progress line calls them.
            settings: The settings, also of batch sizes that joined between looks.
            seeds: The seeds of each.
        """
        groups: dict[int, tuple[TierSearch, list[Setting]]] = {}
        for setting in settings:
            tier = self.tier_of(setting.batch_size)
            groups.setdefault(id(tier), (tier, []))[1].append(setting)
        self._do([tier.confirm(name, Grid(seeds, own)) for tier, own in groups.values()])

    def tier_of(self, batch_size: int) -> TierSearch:
        """Return the tier that trains a batch size.

        One that joined between looks is trained by the programs of the next smaller batch size if these add up
        gradients, and else by programs of its own with the same microbatch.
        """
        known = next((tier for tier in self.tiers if batch_size in tier.tier.batch_sizes), None)
        if known is not None or batch_size in self._joined:
            return known or self._joined[batch_size]
        home = self.home_of(batch_size)
        sizes = home.tier.batch_sizes
        fits = len(sizes) > 1 and batch_size < sizes[-1]
        alone = Tier(home.tier.microbatch_size, [batch_size])
        self._joined[batch_size] = home if fits else TierSearch(self, alone, home.tuned)
        return self._joined[batch_size]

    def home_of(self, batch_size: float) -> TierSearch:
        """Return the tier of the next smaller batch size."""
        return max((tier for tier in self.tiers if tier.tier.batch_sizes[0] <= batch_size), key=_smallest)

    def choices(self) -> dict[int, rate_choice.Choice]:
        """Choose the points of all batch sizes together, by their search trials.

        A batch size with a failed search trial has none: the best point may be the one that was not tried.
        """
        failed = {
            key.batch_size
            for key, one in self.training.trials.items()
            if one.status == "failed" and key.phase == "search"
        }
        found = {size: self.training.of("search", size) for size in self.session.batch_sizes if size not in failed}
        return rate_choice.choose_rates(found, self.session.experiment.goal, self.session.duration.budget_examples)

    def choice(self, batch_size: int, among: Set[Point] | None = None) -> rate_choice.Choice | None:
        """Choose among the points of a batch size by its search trials.

        Args:
            batch_size: The batch size.
            among: Points to choose from; None for all.

        Returns:
            None after a failed search trial: the best point may be the one that was not tried.
        """
        keys = [key for key in self.training.trials if key.phase == "search" and key.batch_size == batch_size]
        if any(self.training.trials[key].status == "failed" for key in keys):
            return None
        found = [one for one in self.training.of("search", batch_size) if among is None or one.point in among]
        return rate_choice.choose(found, self.session.experiment.goal, self.session.duration.budget_examples)

    def rows_for(self, job: TrialJob) -> list[AnyRow]:
        """Return the trials that have a verdict and share batch sizes with a job: lanes race against them."""
        missing, sizes = {*job.missing}, {one.batch_size for one in job.settings}
        return [one for key, one in self.training.trials.items() if key.batch_size in sizes and key not in missing]

    def take(self, job: TrialJob, row: AnyRow, seconds: float) -> None:
        """Take in a row of a job that another process does; a trial that was trained again is ignored."""
        if isinstance(row, Stage):
            self.training.programs.elsewhere += row.compilations
            self.training.trained_examples += row.trained_examples
            self.training.streak.broken()
        elif isinstance(row, Trial) and row.key not in self.training.trials:
            self.training.append(row)
            examples = row.curve.examples[-1] if row.curve.examples else 0
            self.session.progress.advance(job.item, examples, seconds)

    def lose(self, job: TrialJob, failure: Failure) -> None:
        """Write the missing trials of a job as failed.

        Raises:
            DeviceError: At the third failure in a row.
        """
        TierTraining(self.training, job.tier, job.tuned).fail(job.item, job.grid, failure)

    def cost(self) -> dict[str, int]:
        """Return what was counted so far, as fields of the row that closes a run of the stage."""
        return {"compilations": self.training.programs.compilations, "trained_examples": self.training.trained_examples}


def fixed_setting(experiment: Experiment, batch_size: int) -> list[Setting]:
    """Return the fixed rate with the usual options, if the experiment names one."""
    rate = experiment.learning_rate.fixed
    usual = usual_options(experiment.workload.optimizer, experiment.searched)
    return [Setting("fixed", batch_size, Point(rate, usual))] if rate else []


def _smallest(tier: TierSearch) -> int:
    return tier.tier.batch_sizes[0]


class TierSearch:
    """Decides which trials of one tier are trained, as jobs.

    Attributes:
        stage: The stage, which knows all trials.
        tier: Microbatch size and batch sizes.
        tuned: The fastest lowering and its speed.
    """

    def __init__(self, stage: Convergence, tier: Tier, tuned: Tuned | None = None) -> None:
        self.stage, self.tier = stage, tier
        self.tuned = tuned or stage.training.programs.tuned(tier)
        self._experiment, self._duration = stage.session.experiment, stage.session.duration

    @cached_property
    def tier_training(self) -> TierTraining:
        """The programs of the tier in this process."""
        return TierTraining(self.stage.training, self.tier, self.tuned)

    def plan(self) -> None:
        """Plan the progress line for the trials that are missing, as far as they are known."""
        experiment, sizes = self._experiment, self.tier.batch_sizes
        searched = sum(len(self.stage.training.of("search", size)) for size in sizes)
        self._plan("search", max(0.0, search_trials(experiment, self.tier) - searched))
        left = [size for size in sizes if not self.stage.training.of("confirm", size)]
        if experiment.confirm is None:
            planned = confirm_trials(experiment, self.tier) * len(left) / len(sizes)
            fixed = BEYOND_BUDGET * sum(map(self._trained_at_the_fixed_rate, left))
            self._plan("confirm", max(0.0, planned - fixed))
        if left:
            session = self.stage.session
            session.progress.plan(self._item("compile"), session.compiling.of_a_tier, 1.0)

    def _trained_at_the_fixed_rate(self, batch_size: int) -> int:
        """Return how many trials exist at the fixed rate; a folder may hold others at an earlier one."""
        wanted = {setting.point for setting in fixed_setting(self._experiment, batch_size)}
        return sum(trial.point in wanted for trial in self.stage.training.of("fixed", batch_size))

    def _plan(self, phase: str, trials: float) -> None:
        """Plan the progress line for a number of trials to the epoch budget."""
        examples = self._duration.budget_examples
        rate = examples / trial_seconds(self._duration, self.tuned)
        self.stage.session.progress.plan(self._item(phase), trials * examples, rate)

    def _item(self, phase: str) -> str:
        """Return the name of a phase of this tier in the progress line."""
        return f"{phase} {self.tier.label}"

    def search(self) -> Iterator[TrialJob]:
        """Yield the jobs of the search and of its extensions, each once the one before is done.

        At most three training programs are compiled: for all settings of a shard, for a quarter of them, and for the
        confirmation. Each rejected lowering, and each shape that had to be halved to fit memory, adds one program.
        """
        experiment = self._experiment
        seeds, searched = whole_search(experiment, self.tier)
        yield from self._jobs("search", Grid(seeds, searched), "search")
        for number in range(experiment.learning_rate.extend):
            beyond = list(self.extensions(searched))
            if not beyond:
                break
            yield from self._jobs(f"extension {number + 1}", Grid(seeds, beyond), "small")
            searched = [*searched, *beyond]

    def confirm_all(self) -> Iterator[TrialJob]:
        """Yield the job of the confirmation in a study without looks."""
        yield from self.confirm("confirm", Grid(plan.confirmation_seeds(self._experiment), self.confirmations()))
        self.close()

    def close(self) -> None:
        """Mark the tier as done in the progress line."""
        self.stage.session.progress.close(self._item("compile"))

    def confirm(self, name: str, claims: Grid) -> Iterator[TrialJob]:
        """Yield the job of the missing trials of a grid that claims rest on."""
        return self._jobs(name, claims, "own")

    def _jobs(self, phase: str, grid: Grid, shards: ShardsOf) -> Iterator[TrialJob]:
        """Yield the job of the missing trials of a grid, if there are any."""
        missing = self.stage.training.missing(grid)
        self._plan(phase, len(missing))
        if missing:
            yield TrialJob(
                phase=phase,
                tier=self.tier,
                tuned=self.tuned,
                seeds=list(grid.seeds),
                settings=list(grid.settings),
                missing=sorted(missing),
                shards=shards,
            )
        self.stage.session.progress.close(self._item(phase))

    @property
    def lacks_search(self) -> bool:
        """True if trials of the search are missing."""
        return bool(self.stage.training.missing(whole_search(self._experiment, self.tier)))

    def extensions(self, searched: Sequence[Setting]) -> Iterator[Setting]:
        """Yield the next rate beyond every edge of the grid at which a best rate is found.

        Only points in `searched` are considered. A resumed run may know trials of a later extension, and so extends in
        the same order as an uninterrupted one.
        """
        table = self._experiment.learning_rate
        for size in self.tier.batch_sizes:
            tried = {setting.point for setting in searched if setting.batch_size == size}
            choice = self.stage.choice(size, tried)
            if choice is None:
                continue
            edges = [*product(choice.upper_edges, [True]), *product(choice.lower_edges, [False])]
            for options, upwards in edges:
                beyond = plan.extension(table, size, rate_choice.with_options(tried, options), upwards=upwards)
                if beyond is not None:
                    yield Setting("search", size, beyond)

    def confirmations(self) -> list[Setting]:
        """Return the chosen points, and the fixed rate if the experiment names one."""
        settings, choices = [], self.stage.choices()
        for size in self.tier.batch_sizes:
            points = choices[size].points if size in choices else []
            settings += [Setting("confirm", size, point) for point in points]
            settings += fixed_setting(self._experiment, size)
        return settings
