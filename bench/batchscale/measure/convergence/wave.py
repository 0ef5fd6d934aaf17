"""A wave: the trials that train at the same time, cut into shards, and the records of their lanes.

A grid of trials (seeds x settings) is cut twice. Memory decides how many trials form a *wave*; waves train one after
another. Cores decide how many lanes form a *shard*, which is one call of a program; the shards of a wave train next to
each other. A shard is a full rectangle [seed, setting]. Where trials do not fill it, lanes are repeated and ignored.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
from jaxtyping import Float

from batchscale.config import plan
from batchscale.config.experiment import Experiment
from batchscale.config.plan import Duration
from batchscale.config.vocabulary import Ended, Phase, Point
from batchscale.measure.convergence.early_stopping import Race
from batchscale.measure.convergence.lane_devices import ONE_DEVICE, LaneDevices
from batchscale.measure.convergence.lanes import Lanes, Moments, Programs, Settings
from batchscale.measure.training import gradient_noise
from batchscale.records.curves import LARGEST_AMOUNT, Curve, ScoreLists
from batchscale.records.row_types import NoiseEstimate, TrialKey, TrialStatus

Number = Float[np.ndarray, "*lanes"] | np.floating | float
"""A number, or one for each lane of a shard."""
Shape = tuple[int, int]
"""How many seeds and settings a program call holds."""
WORTH_COMPACTING = 0.7
"""A shard moves into a smaller shape that has at most this share of its lanes."""
SHARE_OF_MEMORY = 0.8
"""Share of the free memory that a wave and its programs may use."""
SHARE_OF_LANES = 0.5
"""Share of a wave's memory that its lanes may hold; the rest is for computing."""


class Setting(msgspec.Struct, frozen=True):
    """The part of a trial's identity that the lanes of one column share: everything but the seed."""

    phase: Phase
    batch_size: int
    point: Point

    def trial(self, seed: int) -> TrialKey:
        """Return the trial of this setting with a seed."""
        return TrialKey(self.phase, self.batch_size, self.point, seed)


def search_grid(experiment: Experiment, tier: plan.Tier) -> list[Setting]:
    """Return every batch size of a tier at every point of its grid."""
    return [Setting("search", size, point) for size in tier.batch_sizes for point in plan.points(experiment, size)]


class Grid(NamedTuple):
    """Trials: every seed with every setting."""

    seeds: Sequence[int]
    settings: Sequence[Setting]

    @property
    def trials(self) -> list[TrialKey]:
        """Every trial of the grid."""
        return [setting.trial(seed) for setting in self.settings for seed in self.seeds]

    def cut(self, shape: Shape) -> Iterator[Grid]:
        """Cut the grid into grids of at most `shape` seeds and settings."""
        rows, columns = shape
        for row in range(0, len(self.seeds), rows):
            for column in range(0, len(self.settings), columns):
                yield Grid(self.seeds[row : row + rows], self.settings[column : column + columns])


def whole_search(experiment: Experiment, tier: plan.Tier) -> Grid:
    """Return all trials of a tier's search but those of its extensions."""
    return Grid(plan.search_seeds(experiment), search_grid(experiment, tier))


def steady_bytes(free_bytes: int) -> int:
    """Round free memory down to a power of two, so that a run and its resumption cut a grid into the same waves.

    The waves decide which trials train at the same time. Trials race against each other, so the waves influence when
    losing points stop.
    """
    return 1 << (free_bytes.bit_length() - 1) if free_bytes > 0 else 0


def waves(programs: Programs, grid: Grid, memory_bytes: int) -> Iterator[Grid]:
    """Cut a grid into waves of about as many trials as memory can hold at the same time."""
    most = max(1, int(memory_bytes * SHARE_OF_MEMORY * SHARE_OF_LANES) // programs.lane_bytes)
    rows = min(len(grid.seeds), most)
    return grid.cut((rows, max(1, most // rows)))


def fitting_shape(programs: Programs, grid: Grid, memory_bytes: int, workers: int, widest: int | None) -> Shape:
    """Return the shape of a grid's shards: one program per worker must fit next to all other lanes of the wave.

    Args:
        programs: Of the tier.
        grid: The trials.
        memory_bytes: Memory of all devices for a wave and its programs.
        workers: How many programs run at the same time.
        widest: See `shard_shape`.
    """
    seeds, settings = map(len, next(waves(programs, grid, memory_bytes)))
    shape = shard_shape(seeds, settings, workers, widest, programs.devices)
    parts = workers * programs.devices.count
    return programs.fit(shape, int(memory_bytes * SHARE_OF_MEMORY / parts), math.ceil(seeds * settings / parts))


def shard_shape(
    seeds: int, settings: int, workers: int, widest: int | None, devices: LaneDevices = ONE_DEVICE
) -> Shape:
    """Return how many seeds and settings one program call holds.

    Args:
        seeds: Seeds of the wave.
        settings: Settings of the wave.
        workers: The least number of shards, if there are enough lanes.
        widest: Most settings of one device in a shard, which then has one seed; None for one shard of all lanes.
        devices: Share each shard evenly.
    """
    if widest is None:
        return devices.even((seeds, settings))
    of_device = math.ceil(settings / devices.count)
    widest = max(1, min(widest, of_device // math.ceil(workers / seeds)))
    return 1, math.ceil(of_device / math.ceil(of_device / widest)) * devices.count


class Reading(NamedTuple):
    """One evaluation, of a single lane or of all lanes of a shard [seed, setting].

    Attributes:
        scores: On the validation split, by name.
        test_scores: On the test split; empty if they were not asked for.
        averaged_scores: Validation scores of the averaged parameters; empty if no average is kept.
        norms: Squared gradient norms summed since the last reading, by part of the batch; None if not recorded.
    """

    scores: Mapping[str, Moments]
    test_scores: Mapping[str, Moments] = {}
    averaged_scores: Mapping[str, Moments] = {}
    norms: Float[np.ndarray, "*lanes part"] | None = None

    def lane(self, row: int, column: int) -> Reading:
        """Return the reading of one lane of a shard."""
        return jax.tree.map(lambda scores: scores[row, column], self)


class LaneRecord(msgspec.Struct, kw_only=True):
    """The results of one lane so far.

    Attributes:
        setting: Phase, batch size and point.
        seed: The seed.
        status: None as long as the lane trains.
        reason: Why it ended, unless it simply reached its end.
        ended: Where it ended, if it simply reached its end.
        test_scores: At the end of the epoch budget.
        reported: True once the row was written.
        curve: The evaluations.
        noise: Gradient noise; None if the batch is one microbatch, which gives no estimate.
    """

    setting: Setting
    seed: int
    status: TrialStatus | None = None
    reason: str | None = None
    ended: Ended | None = None
    test_scores: dict[str, float | None] = {}
    reported: bool = False
    curve: Curve = msgspec.field(default_factory=lambda: Curve(examples=[], steps=[], scores={"loss": []}))
    noise: NoiseEstimate | None = None

    @property
    def trial(self) -> TrialKey:
        """Which trial the lane is."""
        return self.setting.trial(self.seed)

    @property
    def steps(self) -> int:
        """Optimizer updates at the last evaluation."""
        return self.curve.steps[-1] if self.curve.steps else 0

    def record(self, examples: int, reading: Reading) -> None:
        """Add the evaluation after `examples` examples, unless there was no update since the last one."""
        steps = examples // self.setting.batch_size
        if steps == self.steps:
            return
        # The parameters evaluated are those after the last complete batch.
        curve, updated_at = self.curve, steps * self.setting.batch_size
        if self.noise is not None and reading.norms is not None:
            self.noise = gradient_noise.extended(self.noise, updated_at, reading.norms, steps - self.steps)
        self.curve = Curve(
            examples=[*curve.examples, updated_at],
            steps=[*curve.steps, steps],
            scores=_longer(curve.scores, means_of(reading.scores)),
            deviations=_longer(curve.deviations, {name: one.deviation for name, one in reading.scores.items()}),
            test_scores=_longer(curve.test_scores, means_of(reading.test_scores)),
            averaged_scores=_longer(curve.averaged_scores, means_of(reading.averaged_scores)),
        )

    def finish(self, status: TrialStatus, reason: str | None = None, ended: Ended | None = None) -> None:
        """Close the record; the first verdict stays."""
        if self.status is None:
            self.status, self.reason, self.ended = status, reason, ended


def means_of(scores: Mapping[str, Moments]) -> dict[str, Number]:
    """Return the mean of each score."""
    return {name: one.mean for name, one in scores.items()}


def finite(value: Number) -> float | None:
    """Return a value as rows hold it: None if it is not finite or too large."""
    return float(value) if abs(value) <= LARGEST_AMOUNT else None


def _longer(known: ScoreLists, values: Mapping[str, Number]) -> ScoreLists:
    return {name: [*known.get(name, []), finite(value)] for name, value in values.items()} or known


class Layout(msgspec.Struct):
    """Which trials the lanes of a shard are.

    Attributes:
        seeds: Seed of each row.
        settings: Setting of each column.
        numbers: For every row and column the number of the lane's record; None for a lane that only fills the shard.
    """

    seeds: list[int]
    settings: list[Setting]
    numbers: list[list[int | None]] = msgspec.field(name="places")

    @property
    def shape(self) -> Shape:
        """Seeds and settings."""
        return len(self.seeds), len(self.settings)

    @property
    def size(self) -> int:
        """Lanes computed, ignored ones included."""
        return math.prod(self.shape)


@dataclass
class Shard:
    """The lanes of one program call.

    Attributes:
        layout: Which trials they are.
        lanes: Their state.
        values: Their settings as arrays.
    """

    layout: Layout
    lanes: Lanes
    values: Settings = field(init=False)

    def __post_init__(self) -> None:
        self.values = device_settings(self.layout.settings)

    def alive(self, records: Sequence[LaneRecord]) -> list[tuple[int, int, LaneRecord]]:
        """Return row, column and record of every lane that still trains."""
        return [
            (row, column, records[number])
            for row, line in enumerate(self.layout.numbers)
            for column, number in enumerate(line)
            if number is not None and records[number].status is None
        ]

    def read_norms(self) -> Float[np.ndarray, "seed setting part"] | None:
        """Return the squared gradient norms summed since the last reading, and start again; None without norms."""
        found, rest = gradient_noise.read(self.lanes.norms)
        self.lanes = self.lanes._replace(norms=rest)
        return found

    def compact(self, records: Sequence[LaneRecord], shapes: Sequence[Shape]) -> None:
        """Move the lanes that still train into the smallest of `shapes`, if it is much smaller than the shard.

        Only a few shapes are allowed, because each needs a compiled program. Rows and columns are kept whole: a lane
        that ended goes with its row or column only.
        """
        alive = self.alive(records)
        rows, columns = sorted({row for row, *_ in alive}), sorted({column for _, column, _ in alive})
        fitting = [shape for shape in shapes if shape[0] >= len(rows) and shape[1] >= len(columns)]
        smallest = min(fitting, key=math.prod, default=None)
        if not alive or smallest is None or math.prod(smallest) > WORTH_COMPACTING * self.layout.size:
            return
        all_rows, all_columns = filled(rows, smallest[0]), filled(columns, smallest[1])
        take = jnp.ix_(jnp.asarray(all_rows), jnp.asarray(all_columns))
        self.lanes = jax.tree.map(lambda leaf: leaf[take], self.lanes)
        # Repeated rows and columns have no number: only the first copy of a lane is recorded.
        self.layout = Layout(
            [self.layout.seeds[row] for row in all_rows],
            [self.layout.settings[column] for column in all_columns],
            rectangle(smallest, {(rows.index(i), columns.index(j)): self.layout.numbers[i][j] for i, j, _ in alive}),
        )
        self.values = device_settings(self.layout.settings)


@dataclass
class Wave:
    """Shards that are trained to the same evaluations, with everything that decides their curves.

    Attributes:
        programs: Programs of the tier.
        duration: Where trials are evaluated and end.
        race: When losing points are stopped.
        records: One record per trial.
        shards: The lanes.
        shapes: Shapes of shards for which programs exist; the first one is the shape at the start.
        tests_always: True if the test split is read at every evaluation, not only at the end of the epoch budget.
        rivals: Search curves of trials outside the wave, by batch size and point: lanes race against them as well.
        tick: Ticks trained so far.
        evaluation: Evaluations made so far.
    """

    programs: Programs
    duration: Duration
    race: Race
    records: list[LaneRecord]
    shards: list[Shard]
    shapes: Sequence[Shape]
    tests_always: bool = False
    rivals: Mapping[int, Mapping[Point, Sequence[Curve]]] = field(default_factory=dict)
    tick: int = 0
    evaluation: int = 0

    @property
    def trials(self) -> list[TrialKey]:
        """The trials of the wave, in the order of their records."""
        return [record.trial for record in self.records]

    def alive(self) -> int:
        """Return the number of lanes that still train."""
        return sum(record.status is None for record in self.records)

    def most_beyond_budget(self) -> int:
        """Return the most lane-examples that lanes can still train after the epoch budget; 0 before it."""
        trained = self.tick * self.programs.microbatch_size
        return self.alive() * (self.duration.max_examples - trained) if trained > self.duration.budget_examples else 0

    def living(self) -> list[Shard]:
        """Return the shards with lanes that still train."""
        return [shard for shard in self.shards if shard.alive(self.records)]

    def tick_of(self, evaluation: int) -> int:
        """Return the tick after which an evaluation is made."""
        return self.duration.evaluations[evaluation] // self.programs.microbatch_size


def filled(items: Sequence, length: int) -> list:
    """Repeat the first item until there are `length`."""
    return [*items, *[items[0]] * (length - len(items))]


def rectangle(shape: Shape, known: Mapping[tuple[int, int], int | None]) -> list[list[int | None]]:
    """Arrange numbers by row and column; None where there is none."""
    return [[known.get((row, column)) for column in range(shape[1])] for row in range(shape[0])]


def device_settings(settings: Sequence[Setting]) -> Settings:
    """Return the values of settings, all of which search the same options, as arrays."""
    each = [dict(one.point.options) for one in settings]
    return Settings(
        jnp.asarray([one.batch_size for one in settings], jnp.int32),
        jnp.asarray([one.point.learning_rate for one in settings], jnp.float32),
        {name: jnp.asarray([options[name] for options in each], jnp.float32) for name in each[0]},
    )


def start(programs: Programs, duration: Duration, race: Race, grid: Grid, shapes: Sequence[Shape]) -> Wave:
    """Return a fresh wave of all trials of a grid, cut into shards of the first of `shapes`."""
    records = [LaneRecord(setting=setting, seed=seed) for seed in grid.seeds for setting in grid.settings]
    for record in records:
        record.noise = gradient_noise.no_estimate(programs.microbatch_size, record.setting.batch_size)
    numbers = {record.trial: number for number, record in enumerate(records)}
    shards = [Shard(one, first_lanes(programs, one)) for one in layouts(grid, shapes[0], numbers)]
    return Wave(programs, duration, race, records, shards, shapes)


def layouts(grid: Grid, shape: Shape, numbers: Mapping[TrialKey, int]) -> list[Layout]:
    """Cut a grid into shards of one shape; a lane whose trial has no number only fills its shard."""
    found = []
    for part in grid.cut(shape):
        known = {
            (row, column): numbers.get(setting.trial(seed))
            for row, seed in enumerate(part.seeds)
            for column, setting in enumerate(part.settings)
        }
        found.append(Layout(filled(part.seeds, shape[0]), filled(part.settings, shape[1]), rectangle(shape, known)))
    return found


def cut_anew(wave: Wave, parts: Sequence[tuple[Layout, Lanes]]) -> list[tuple[Layout, Lanes]]:
    """Cut the lanes of a wave that still train into shards of its first shape.

    Args:
        wave: The wave.
        parts: Layout and lanes, in host memory, of each shard so far.
    """
    numbers = {record.trial: number for number, record in enumerate(wave.records) if record.status is None}
    if not numbers:
        return []
    lanes = {
        number: jax.tree.map(lambda leaf, at=(row, column): leaf[at], state)
        for layout, state in parts
        for row, line in enumerate(layout.numbers)
        for column, number in enumerate(line)
        if number in numbers.values()
    }
    living = [wave.records[number] for number in numbers.values()]
    settings = {(one.setting.phase, one.setting.batch_size, one.setting.point): one.setting for one in living}
    grid = Grid(list(dict.fromkeys(one.seed for one in living)), list(settings.values()))
    found = []
    for layout in layouts(grid, wave.shapes[0], numbers):
        own = [number for line in layout.numbers for number in line if number is not None]
        if own:
            picked = [[lanes[own[0] if number is None else number] for number in line] for line in layout.numbers]
            rows = [jax.tree.map(lambda *leaves: np.stack(leaves), *line) for line in picked]
            found.append((layout, jax.tree.map(lambda *leaves: np.stack(leaves), *rows)))
    return found


def first_lanes(programs: Programs, layout: Layout) -> Lanes:
    """Return fresh lanes of a layout."""
    return programs.initialise(np.asarray(layout.seeds, np.int32), device_settings(layout.settings))
