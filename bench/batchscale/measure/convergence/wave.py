"""Lanes that advance together, and what is known of each."""

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
from batchscale.config.vocabulary import Phase, Point
from batchscale.measure.convergence.early_stopping import Race
from batchscale.measure.convergence.lanes import Lanes, Programs, Settings
from batchscale.measure.training import gradient_noise
from batchscale.records.row_types import LARGEST_AMOUNT, Curve, NoiseEstimate, TrialStatus

Shape = tuple[int, int]
WORTH_COMPACTING = 0.7


class Setting(msgspec.Struct, frozen=True):
    """What the lanes of one column share."""

    phase: Phase
    batch_size: int
    point: Point


def search_grid(experiment: Experiment, tier: plan.Tier) -> list[Setting]:
    """Every batch size of a tier at every point of its grid."""
    return [Setting("search", size, point) for size in tier.batch_sizes for point in plan.points(experiment, size)]


Grid = tuple[Sequence[int], Sequence[Setting]]
"""Trials: every seed with every setting."""


class Reading(NamedTuple):
    """One evaluation of a lane; None is what was not asked for."""

    accuracy: float
    loss: float
    test_accuracy: float | None = None
    ema_accuracy: float | None = None
    norms: Float[np.ndarray, " part"] | None = None


class LaneRecord(msgspec.Struct, kw_only=True):
    """What is known so far of one lane; `status` is None while it trains."""

    setting: Setting
    seed: int
    status: TrialStatus | None = None
    reason: str | None = None
    test_accuracy: float | None = None
    reported: bool = False
    curve: Curve = msgspec.field(
        default_factory=lambda: Curve(examples=[], steps=[], accuracy=[], loss=[], test_accuracy=None)
    )
    noise: NoiseEstimate | None = None

    @property
    def steps(self) -> int:
        """Updates at the last evaluation."""
        return self.curve.steps[-1] if self.curve.steps else 0

    def record(self, point: int, reading: Reading) -> None:
        """Add the evaluation after `point` examples, unless no update came since the last one."""
        steps = point // self.setting.batch_size
        if steps == self.steps:
            return
        curve, examples = self.curve, steps * self.setting.batch_size
        if self.noise is not None and reading.norms is not None:
            self.noise = gradient_noise.extended(self.noise, examples, reading.norms, steps - self.steps)
        curve.examples.append(examples)
        curve.steps.append(steps)
        curve.accuracy.append(reading.accuracy)
        curve.loss.append(reading.loss if reading.loss <= LARGEST_AMOUNT else None)
        self.curve = msgspec.structs.replace(
            curve,
            test_accuracy=_longer(curve.test_accuracy, reading.test_accuracy),
            ema_accuracy=_longer(curve.ema_accuracy, reading.ema_accuracy),
        )

    def finish(self, status: TrialStatus, reason: str | None = None) -> None:
        """Close the record; the first verdict stands."""
        if self.status is None:
            self.status, self.reason = status, reason


def _longer(known: list[float] | None, value: float | None) -> list[float] | None:
    return known if value is None else [*(known or []), value]


class Layout(msgspec.Struct):
    """Which lanes a shard holds: `places[row][column]` numbers a record, None is filled and ignored."""

    seeds: list[int]
    settings: list[Setting]
    places: list[list[int | None]]

    @property
    def size(self) -> int:
        """Lanes computed, ignored ones included."""
        return len(self.seeds) * len(self.settings)


@dataclass
class Shard:
    """The lanes of one program call, [seed, setting], and the values of their settings as arrays."""

    layout: Layout
    lanes: Lanes
    values: Settings = field(init=False)

    def __post_init__(self) -> None:
        self.values = device_settings(self.layout.settings)

    def alive(self, records: Sequence[LaneRecord]) -> list[tuple[int, int, LaneRecord]]:
        """Row, column and record of every lane that still trains."""
        return [
            (row, column, records[number])
            for row, line in enumerate(self.layout.places)
            for column, number in enumerate(line)
            if number is not None and records[number].status is None
        ]

    def read_norms(self) -> Float[np.ndarray, "seed setting part"] | None:
        """Squared gradient norms summed since the last reading; None where they are not."""
        found, rest = gradient_noise.read(self.lanes.norms)
        self.lanes = self.lanes._replace(norms=rest)
        return found

    def compact(self, records: Sequence[LaneRecord], shapes: Sequence[Shape]) -> None:
        """Move the lanes that still train into the smallest of `shapes`, where that is much smaller than now."""
        alive = self.alive(records)
        rows, columns = sorted({row for row, *_ in alive}), sorted({column for _, column, _ in alive})
        fitting = [shape for shape in shapes if shape[0] >= len(rows) and shape[1] >= len(columns)]
        smallest = min(fitting, key=math.prod, default=None)
        if not alive or smallest is None or math.prod(smallest) > WORTH_COMPACTING * self.layout.size:
            return
        all_rows, all_columns = filled(rows, smallest[0]), filled(columns, smallest[1])
        take = jnp.ix_(jnp.asarray(all_rows), jnp.asarray(all_columns))
        self.lanes = jax.tree.map(lambda leaf: leaf[take], self.lanes)
        self.layout = Layout(
            [self.layout.seeds[row] for row in all_rows],
            [self.layout.settings[column] for column in all_columns],
            grid(smallest, {(rows.index(i), columns.index(j)): self.layout.places[i][j] for i, j, _ in alive}),
        )
        self.values = device_settings(self.layout.settings)


@dataclass
class Wave:
    """Shards advanced side by side to the same evaluation points."""

    programs: Programs
    duration: Duration
    race: Race
    records: list[LaneRecord]
    shards: list[Shard]
    tick: int = 0
    evaluation: int = 0

    def alive(self) -> int:
        """Lanes that still train."""
        return sum(record.status is None for record in self.records)

    def living(self) -> list[Shard]:
        """Shards with lanes that still train."""
        return [shard for shard in self.shards if shard.alive(self.records)]

    def tick_of(self, evaluation: int) -> int:
        """The tick at which an evaluation is due."""
        return self.duration.evaluations[evaluation] // self.programs.microbatch_size


def cut(trials: Grid, shape: Shape) -> Iterator[Grid]:
    """A grid of trials in pieces of at most so many seeds and settings."""
    (seeds, settings), (rows, columns) = trials, shape
    for row in range(0, len(seeds), rows):
        for column in range(0, len(settings), columns):
            yield seeds[row : row + rows], settings[column : column + columns]


def filled(items: Sequence, length: int) -> list:
    """Repeat the first item until there are `length`; the copies are ignored."""
    return [*items, *[items[0]] * (length - len(items))]


def grid(shape: Shape, known: Mapping[tuple[int, int], int | None]) -> list[list[int | None]]:
    """Record numbers by place, None elsewhere."""
    return [[known.get((row, column)) for column in range(shape[1])] for row in range(shape[0])]


def device_settings(settings: Sequence[Setting]) -> Settings:
    """The values of settings, which all sweep the same options, as arrays."""
    each = [dict(one.point.options) for one in settings]
    return Settings(
        jnp.asarray([one.batch_size for one in settings], jnp.int32),
        jnp.asarray([one.point.learning_rate for one in settings], jnp.float32),
        {name: jnp.asarray([options[name] for options in each], jnp.float32) for name in each[0]},
    )


def start(
    programs: Programs,
    duration: Duration,
    race: Race,
    seeds: Sequence[int],
    settings: Sequence[Setting],
    shape: Shape,
) -> Wave:
    """A fresh wave over all seeds and settings, cut into shards of `shape`."""
    records = [LaneRecord(setting=setting, seed=seed) for seed in seeds for setting in settings]
    for record in records:
        record.noise = gradient_noise.no_estimate(programs.microbatch_size, record.setting.batch_size)
    numbers = {(record.seed, record.setting): number for number, record in enumerate(records)}
    layouts = []
    for some_seeds, some in cut((seeds, settings), shape):
        places = {
            (row, column): numbers[seed, setting]
            for row, seed in enumerate(some_seeds)
            for column, setting in enumerate(some)
        }
        layouts.append(Layout(filled(some_seeds, shape[0]), filled(some, shape[1]), grid(shape, places)))
    shards = [Shard(one, first_lanes(programs, one)) for one in layouts]
    return Wave(programs, duration, race, records, shards)


def first_lanes(programs: Programs, layout: Layout) -> Lanes:
    """Fresh lanes of a layout."""
    return programs.initialise(np.asarray(layout.seeds, np.int32), device_settings(layout.settings))
