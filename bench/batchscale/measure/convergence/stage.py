"""The convergence stage: search learning rates, extend the search at its edges, and confirm the best on new seeds."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence, Set
from functools import cached_property
from itertools import product

import msgspec

from batchscale.config import plan
from batchscale.config.experiment import Experiment
from batchscale.config.plan import Tier
from batchscale.config.vocabulary import Phase, Point
from batchscale.decisions import rate_choice
from batchscale.measure.control.failures import FAILURES, Streak, failure_of
from batchscale.measure.control.progress import SECONDS_PER_TIER, confirm_trials, search_trials
from batchscale.measure.convergence import wave, wave_loop
from batchscale.measure.convergence.early_stopping import Race
from batchscale.measure.convergence.tiers import LanePrograms, trial_seconds
from batchscale.measure.convergence.wave import (
    Grid,
    LaneRecord,
    Setting,
    Shape,
    Wave,
    fitting_shape,
    search_grid,
    waves,
)
from batchscale.measure.convergence.wave_loop import Checkpoint, Reporter
from batchscale.measure.device.compiled_programs import Tuned
from batchscale.measure.session import Session, StageRows
from batchscale.measure.training.optimizers import usual_options
from batchscale.records.row_types import AnyRow, Curve, Look, Trial, TrialKey


class Convergence:
    """The convergence stage of a session.

    Attributes:
        session: The experiment, its data and its folder.
        programs: The programs of every tier.
        race: When losing points are stopped.
        trials: The trials that have a verdict, each as its latest row; kept current while rows are written.
        rows: The rows file of the stage.
        streak: Counts waves that fail one after another.
        trained_examples: Lane-examples that this run trained.
        looks: The looks so far.
    """

    def __init__(self, session: Session) -> None:
        self.session, self.programs = session, LanePrograms(session)
        self.race = Race(
            goal=session.experiment.goal,
            budget_examples=session.duration.budget_examples,
            validation_examples=len(session.dataset.validation.labels),
        )
        self.streak, self.trained_examples = Streak(), 0
        self._joined: dict[int, TierSearch] = {}
        self.trials: dict[TrialKey, Trial] = {}
        self.looks: list[Look] = []
        self.rows = StageRows(session, "convergence", self._see)
        if session.retries_failed:
            self.trials = {key: trial for key, trial in self.trials.items() if trial.status != "failed"}

    @cached_property
    def tiers(self) -> list[TierSearch]:
        """Every tier under its fastest lowering, which is measured if the folder holds no choice yet."""
        self.programs.compile_trials()
        return [TierSearch(self, tier) for tier in self.programs.tiers]

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
        with self.rows.open(self.cost):
            self.search()
            for tier in self.tiers:
                tier.confirm_all()

    def search(self) -> None:
        """Train the missing search trials of every tier."""
        self._compile([tier for tier in self.tiers if tier.lacks_search])
        for tier in self.tiers:
            tier.search()

    def _compile(self, tiers: Sequence[TierSearch]) -> None:
        """Compile the programs of several searches together."""
        start = time.monotonic()
        works = {name: work for tier in tiers for name, work in tier.programs_of_search().items()}
        self.programs.compile(works, planned=True)
        for tier in tiers:
            tier.compiled((time.monotonic() - start) / len(tiers))

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
        for tier, own in groups.values():
            tier.confirm(name, Grid(seeds, own))

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
            key.batch_size for key, one in self.trials.items() if one.status == "failed" and key.phase == "search"
        }
        found = {size: self.of("search", size) for size in self.session.batch_sizes if size not in failed}
        return rate_choice.choose_rates(found, self.session.experiment.goal, self.session.duration.budget_examples)

    def of(self, phase: Phase, batch_size: int) -> list[Trial]:
        """Return the trials of one phase and batch size that did not fail."""
        return [
            trial
            for key, trial in self.trials.items()
            if key.phase == phase and key.batch_size == batch_size and trial.status != "failed"
        ]

    def choice(self, batch_size: int, among: Set[Point] | None = None) -> rate_choice.Choice | None:
        """Choose among the points of a batch size by its search trials.

        Args:
            batch_size: The batch size.
            among: Points to choose from; None for all.

        Returns:
            None after a failed search trial: the best point may be the one that was not tried.
        """
        keys = [key for key in self.trials if key.phase == "search" and key.batch_size == batch_size]
        if any(self.trials[key].status == "failed" for key in keys):
            return None
        found = [one for one in self.of("search", batch_size) if among is None or one.point in among]
        return rate_choice.choose(found, self.session.experiment.goal, self.session.duration.budget_examples)

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

    def _see(self, row: AnyRow) -> None:
        if isinstance(row, Look):
            self.looks.append(row)
        elif isinstance(row, Trial) and (row.key not in self.trials or row.supersedes(self.trials[row.key])):
            self.trials[row.key] = row

    def cost(self) -> dict[str, int]:
        """Return what was counted so far, as fields of the row that closes a run of the stage."""
        return {"compilations": self.programs.compilations, "trained_examples": self.trained_examples}


def fixed_setting(experiment: Experiment, batch_size: int) -> list[Setting]:
    """Return the fixed rate with the usual options, if the experiment names one."""
    rate = experiment.learning_rate.fixed
    usual = usual_options(experiment.workload.optimizer, experiment.searched)
    return [Setting("fixed", batch_size, Point(rate, usual))] if rate else []


def _smallest(tier: TierSearch) -> int:
    return tier.tier.batch_sizes[0]


class TierSearch:
    """The trials of one tier: batch sizes that share programs.

    Attributes:
        stage: The stage, which knows all trials.
        tier: Microbatch size and batch sizes.
        tuned: The fastest lowering and its speed.
        programs: The tier's programs under this lowering.
    """

    def __init__(self, stage: Convergence, tier: Tier, tuned: Tuned | None = None) -> None:
        self.stage, self.tier = stage, tier
        self.tuned = tuned or stage.programs.tuned(tier)
        self.programs = stage.programs.of(tier, self.tuned.lowering)
        self._experiment, self._duration = stage.session.experiment, stage.session.duration

    def plan(self) -> None:
        """Plan the progress line for the trials that are missing, as far as they are known."""
        experiment, sizes = self._experiment, self.tier.batch_sizes
        searched = sum(len(self.stage.of("search", size)) for size in sizes)
        self._plan("search", max(0.0, search_trials(experiment, self.tier) - searched))
        left = [size for size in sizes if not self.stage.of("confirm", size)]
        if experiment.confirm is None:
            self._plan("confirm", confirm_trials(experiment, self.tier) * len(left) / len(sizes))
        if left:
            self.stage.session.progress.plan(self._item("compile"), SECONDS_PER_TIER, 1.0)

    def _plan(self, phase: str, trials: float) -> None:
        """Plan the progress line for a number of trials to the epoch budget."""
        examples = self._duration.budget_examples
        rate = examples / trial_seconds(self._duration, self.tuned)
        self.stage.session.progress.plan(self._item(phase), trials * examples, rate)

    def _item(self, phase: str) -> str:
        """Return the name of a phase of this tier in the progress line."""
        return f"{phase} {self.tier.label}"

    def search(self) -> None:
        """Train the missing trials of the search and of its extensions.

        At most three training programs are compiled: for all settings of a shard, for a quarter of them, and for the
        confirmation. Each rejected lowering, and each shape that had to be halved to fit memory, adds one program.
        """
        experiment = self._experiment
        seeds, searched = plan.search_seeds(experiment), search_grid(experiment, self.tier)
        self._run_grid("search", Grid(seeds, searched), lambda: [self.full, self.small])
        for number in range(experiment.learning_rate.extend):
            beyond = list(self.extensions(searched))
            if not beyond:
                break
            self._run_grid(f"extension {number + 1}", Grid(seeds, beyond), lambda: [self.small])
            searched = [*searched, *beyond]

    def confirm_all(self) -> None:
        """Train the missing confirmation trials of a study without looks."""
        self.confirm("confirm", Grid(plan.confirmation_seeds(self._experiment), self.confirmations()))
        self.close()

    def close(self) -> None:
        """Mark the tier as done in the progress line."""
        self.stage.session.progress.close(self._item("compile"))

    def confirm(self, name: str, claims: Grid) -> None:
        """Train the missing trials of a grid that claims rest on."""
        self._run_grid(name, claims, lambda: [self.shape(claims), self.small])

    @cached_property
    def full(self) -> Shape:
        """The shape of a shard of the search."""
        return self.shape(self._search_grid)

    @property
    def small(self) -> Shape:
        """The shape into which the last lanes are compacted, and in which extensions run."""
        return self.programs.devices.even((self.full[0], math.ceil(self.full[1] / 4)))

    def shape(self, grid: Grid) -> Shape:
        """Return the shape of a shard of these trials."""
        every, workers = self.stage.programs, self.stage.session.host.workers
        return fitting_shape(self.programs, grid, every.memory_bytes, workers, every.shard_width(self.tier, self.tuned))

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

    def _run_grid(self, phase: str, grid: Grid, shapes_of: Callable[[], list[Shape]]) -> None:
        """Train the missing trials of a grid; trials that a failing device leaves undone become failed rows.

        Args:
            phase: Name for the progress line.
            grid: The trials.
            shapes_of: Returns the shapes of shards, which compiles their programs.

        Raises:
            DeviceError: when the third wave in a row fails.
        """
        item, missing = self._item(phase), self.stage.missing(grid)
        self._plan(phase, len(missing))
        if missing:
            try:
                shapes = self._compiled(shapes_of)
            except FAILURES as error:
                self._fail(item, grid, error)
            else:
                self._train_waves(item, grid, shapes)
        self.stage.session.progress.close(item)

    def _compiled(self, shapes_of: Callable[[], list[Shape]]) -> list[Shape]:
        start = time.monotonic()
        shapes = shapes_of()
        self.compiled(time.monotonic() - start)
        return shapes

    def compiled(self, seconds: float) -> None:
        """Count the seconds that compiling took."""
        progress, item = self.stage.session.progress, self._item("compile")
        progress.plan(item, SECONDS_PER_TIER, 1.0)
        progress.advance(item, seconds, seconds)

    @property
    def lacks_search(self) -> bool:
        """True if trials of the search are missing."""
        return bool(self.stage.missing(self._search_grid))

    @property
    def _search_grid(self) -> Grid:
        return Grid(plan.search_seeds(self._experiment), search_grid(self._experiment, self.tier))

    def programs_of_search(self) -> dict[str, Callable[[], object]]:
        """Return the work that compiles each program of the search, by name.

        The compacted shape is compiled later where every core trains: lanes may never be moved into it.
        """
        of, label = self.programs, self.tier.label
        shapes = {"": lambda: self.full}
        if not self.stage.session.host.policy.program_per_core:
            shapes["compacted "] = lambda: self.small
        works: dict[str, Callable[[], object]] = {}
        for name, shape in shapes.items():
            works[f"{label} {name}training"] = lambda shape=shape: of.program(shape())
            works[f"{label} {name}evaluation"] = lambda shape=shape: of.evaluation(shape(), of.validation_split)
        return works

    def _train_waves(self, item: str, grid: Grid, shapes: Sequence[Shape]) -> None:
        """Train a grid one wave after another; the trials of a wave that fails become failed rows."""
        for part in waves(self.programs, grid, self.stage.programs.memory_bytes):
            if not self.stage.missing(part):
                continue
            try:
                self._train_wave(item, part, shapes)
                self.stage.streak.broken()
            except FAILURES as error:
                self._fail(item, part, error)

    def _fail(self, item: str, grid: Grid, error: Exception) -> None:
        """Write the missing trials of a grid as failed."""
        failure = failure_of(error)
        for setting, seed in product(grid.settings, grid.seeds):
            self._write(LaneRecord(setting=setting, seed=seed, status="failed", reason=failure.message), lanes=1)
        self.stage.streak.grown(item, failure)

    def _train_wave(self, item: str, grid: Grid, shapes: Sequence[Shape]) -> None:
        """Train the missing trials of a wave, from its checkpoint or from the start."""
        stage, session = self.stage, self.stage.session
        checkpoint = Checkpoint(session.folder / "checkpoint", self._identity(grid))
        lanes = self._started(checkpoint, grid, shapes)
        clock = time.monotonic()

        def advanced(lane_examples: int) -> None:
            nonlocal clock
            now = time.monotonic()
            stage.trained_examples += lane_examples
            session.progress.advance(item, lane_examples, now - clock, f"{lanes.alive()} lanes")
            clock = now

        reporter = Reporter(
            finished=lambda record: self._write(record, math.prod(shapes[0])),
            advanced=advanced,
            check=session.stopper.check,
            checkpoint=checkpoint,
            workers=session.host.workers,
        )
        wave_loop.run(lanes, reporter)

    def _started(self, checkpoint: Checkpoint, grid: Grid, shapes: Sequence[Shape]) -> Wave:
        """Return a wave as its checkpoint holds it, or a fresh one of the smallest grid with all missing trials."""
        missing, given = self.stage.missing(grid), (self.programs, self._duration, self.stage.race)
        lanes = wave.start(*given, grid, shapes)
        if not checkpoint.restore(lanes, missing) and len(missing) < len(lanes.records):
            seeds, settings = {one.seed for one in missing}, {(one.phase, one.batch_size, one.point) for one in missing}
            rest = Grid(
                [seed for seed in grid.seeds if seed in seeds],
                [one for one in grid.settings if (one.phase, one.batch_size, one.point) in settings],
            )
            del lanes  # Memory may not hold both waves.
            lanes = wave.start(*given, rest, shapes)
        lanes.tests_always = self._experiment.evaluation.test == "always"
        lanes.rivals = self.stage.rivals(set(lanes.trials))
        return lanes

    def _identity(self, grid: Grid) -> str:
        """Return a hash of everything that must be the same when a checkpoint is continued."""
        origin = self.stage.session.origin()
        measured = [origin.fingerprint, origin.environment, self.programs.noise_parts]
        parts = [*measured, self.tier, self.tuned.lowering, grid.seeds, grid.settings]
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()

    def _write(self, record: LaneRecord, lanes: int) -> None:
        """Write the row of a finished lane, unless its trial has a verdict.

        A lane may be trained twice, if it shares a row or column of the grid with a trial that is missing.
        """
        setting, stage = record.setting, self.stage
        if record.trial in stage.trials:
            return
        stage.rows.append(
            Trial(
                **msgspec.structs.asdict(stage.session.origin()),
                phase=setting.phase,
                batch_size=setting.batch_size,
                learning_rate=setting.point.learning_rate,
                options=dict(setting.point.options),
                seed=record.seed,
                status=record.status or "ok",
                reason=record.reason,
                ended=record.ended,
                train_examples=len(self.programs.train_split.labels),
                validation_examples=len(self.programs.validation_split.labels),
                steps=record.steps,
                curve=record.curve,
                test_scores=record.test_scores,
                tokens_per_example=stage.session.dataset.tokens_per_example,
                microbatch_size=self.tier.microbatch_size,
                lanes=lanes,
                devices=self.programs.devices.count,
                lowering=self.tuned.lowering,
                noise=record.noise if record.noise and record.noise.examples else None,
            )
        )
