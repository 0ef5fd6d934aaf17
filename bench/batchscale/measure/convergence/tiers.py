"""The programs that train the lanes of an experiment: their batch sizes, their width and their lowering."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import pairwise, product
from typing import ClassVar

import jax
import msgspec
import numpy as np

from batchscale.config import plan
from batchscale.measure.control.deadline import ends_within
from batchscale.measure.control.failures import Failure
from batchscale.measure.control.progress import confirm_trials, search_trials
from batchscale.measure.convergence.lane_devices import LaneDevices
from batchscale.measure.convergence.lanes import Programs
from batchscale.measure.convergence.wave import (
    Grid,
    Layout,
    Setting,
    Shard,
    filled,
    first_lanes,
    fitting_shape,
    shard_shape,
    steady_bytes,
    waves,
    whole_search,
)
from batchscale.measure.data.datasets import Examples
from batchscale.measure.device import compiled_programs
from batchscale.measure.device.compile_ahead import compile_together
from batchscale.measure.device.compiled_programs import NOMINAL_EXAMPLES_PER_SECOND, Tuned, steps_to_fill, timed
from batchscale.measure.session import Session
from batchscale.measure.training import gradient_noise
from batchscale.records.row_types import AnyRow, Stage

MOST_TICKS_PER_CALL = 4096
"""Most ticks of a program call, so that a signal does not wait long."""
MICROBATCH = "convergence microbatch"
"""Key of the widest microbatch in `tuning.json`."""
GRAPHS = "convergence graphs"
"""Key in `tuning.json` that is there if a CUDA graph of lanes hung."""
PATIENCE = 4.0
"""A program that no other can stand in for is waited for so many times longer than one of a trial."""
AS_A_GRAPH = "as a graph"
"""Ends the name of a program that is to run as one CUDA graph."""
TRIAL_SECONDS = 0.4
"""Duration of a speed trial."""
SHAPE_SECONDS = 20.0
"""No further shape of a tier, and no further microbatch, is tried after this time."""
EVALUATION_TRIALS = 3
EVALUATED_MICROBATCHES = 5
"""Examples evaluated at once, in microbatches, where microbatches were tried: an evaluation keeps less in the cache."""


class TuningJob(msgspec.Struct, frozen=True, kw_only=True, tag="tuning", forbid_unknown_fields=True):
    """The choice of the lowering and the shape of every tier, by trials of their speed."""

    item: ClassVar[str] = "trying how fast lanes train"


@dataclass
class LanePrograms:
    """The tiers of an experiment and their programs, each made once.

    Attributes:
        session: The experiment, its data and the host.
        programs: The programs made so far, by microbatch size and smallest batch size of the tier and lowering.
        late: Tiers and lowerings whose programs were not compiled in time.
        late_graphs: Tiers and lowerings whose CUDA graph was not compiled in time; their plain program was.
        elsewhere: Training programs that other processes compiled.
    """

    session: Session
    programs: dict[tuple[int, int, str | None], Programs] = field(default_factory=dict)
    late: set[tuple[str, str | None]] = field(default_factory=set)
    late_graphs: set[tuple[str, str | None]] = field(default_factory=set)
    elsewhere: int = 0

    @property
    def compilations(self) -> int:
        """Training programs compiled so far, those of rejected lowerings included."""
        return self.elsewhere + sum(one.compilations for one in self.programs.values())

    @cached_property
    def devices(self) -> LaneDevices:
        """The local devices, which share the lanes of every program."""
        return LaneDevices(self.session.host.lane_devices)

    @cached_property
    def _splits(self) -> tuple[Examples, ...]:
        return tuple(self.devices.put_whole(split) for split in self.session.splits)

    @cached_property
    def memory_bytes(self) -> int:
        """Memory of all devices for the lanes of a wave and their programs."""
        host = self.session.host
        free = steady_bytes(host.free_memory_bytes())
        return free if host.policy.in_host_memory else free * self.devices.count

    @cached_property
    def tiers(self) -> list[plan.Tier]:
        """The batch sizes, grouped into programs."""
        return self._tiers(self.widest_microbatch)

    def _tiers(self, widest: int) -> list[plan.Tier]:
        return plan.tiers(self.session.batch_sizes, widest, self.session.lane_policy.most_splitting)

    @cached_property
    def widest_microbatch(self) -> int:
        """The most examples of a microbatch, measured once for a results folder where the platform does not know it."""
        session, policy = self.session, self.session.lane_policy
        if not session.tries_shapes:
            return policy.widest_microbatch
        if len(policy.microbatches) == 1 or (session.runner is not None and MICROBATCH not in session.tuning):
            return policy.microbatches[0]
        known = session.tuning.get(MICROBATCH, self._measured_microbatch)
        return known.microbatch_size or policy.microbatches[0]

    def _measured_microbatch(self) -> Tuned:
        """Measure microbatches of one setting a call, in the tier of the largest batch size, which trains longest."""
        session, lowering = self.session, self.session.lowerings[0]
        session.progress.show("trying microbatches", planned=False)

        def speed(widest: int) -> float:
            return self.speed_trial(self._tiers(widest)[-1], lowering, 1).examples_per_second()

        chosen, examples = compiled_programs.climbed(session.lane_policy.microbatches, speed, SHAPE_SECONDS)
        return Tuned(lowering, examples, microbatch_size=chosen)

    def shard_width(self, tier: plan.Tier, tuned: Tuned | None = None) -> int | None:
        """Return the most settings of a shard; None if one shard holds all lanes of a wave, as on accelerators.

        Args:
            tier: The tier.
            tuned: Its measured shape; by default the platform's.
        """
        if self.session.tries_shapes and tuned is not None:
            return tuned.shard_settings
        examples = self.session.lane_policy.shard_examples
        if examples is None:
            return None
        return max(1, min(examples // tier.microbatch_size, self.session.experiment.learning_rate.grid_size))

    def of(self, tier: plan.Tier, lowering: str | None, *, graph: bool = False) -> Programs:
        """Return the programs of a tier under a lowering, made when they are first asked for.

        With `graph`, they hold the same compiled programs, and train by one CUDA graph.
        """
        key, session = (tier.microbatch_size, tier.batch_sizes[0], lowering), self.session
        if key not in self.programs:
            gap = max(after - before for before, after in pairwise([0, *session.duration.evaluations]))
            epochs = session.experiment.evaluation.averaging_epochs
            self.programs[key] = Programs(
                session.learner(session.experiment.workload.precision, lowering),
                *self._splits,
                microbatch_size=tier.microbatch_size,
                schedule=session.schedule,
                accumulates=any(size != tier.microbatch_size for size in tier.batch_sizes),
                ticks_per_call=min(MOST_TICKS_PER_CALL, gap // tier.microbatch_size + 1),
                noise_parts=self._noise_parts(tier),
                averaging_examples=epochs and epochs * session.train_examples,
                evaluation_batch_size=self._evaluation_batch_size(tier),
                devices=self.devices,
                selected_numbers=session.host.policy.selected_numbers,
                patience=PATIENCE * seconds if (seconds := session.host.policy.compile_seconds) else None,
            )
        return replace(self.programs[key], graph=True) if graph else self.programs[key]

    def choose(self) -> None:
        """Choose what `tuning.json` lacks: the microbatch, and the lowering and the shape of every tier."""
        runner = self.session.runner
        if runner is None:
            self.compile_trials()
            for tier in self.tiers:
                self.tuned(tier)
        elif self._lacks_choices:
            runner.run(self, [iter([TuningJob()])])

    def rows_for(self, _job: TuningJob) -> list[AnyRow]:
        """Return no rows: a choice needs none."""
        return []

    def take(self, _job: TuningJob, row: AnyRow, _seconds: float) -> None:
        """Count what another process compiled; its choices are in `tuning.json`."""
        if isinstance(row, Stage):
            self.elsewhere += row.compilations

    def lose(self, _job: TuningJob, _failure: Failure) -> None:
        """Go on without choices: the first lowering is used."""

    @property
    def _lacks_choices(self) -> bool:
        """True if the folder does not hold the microbatch, the lowering and the shape of every tier."""
        session, tuning = self.session, self.session.tuning
        if session.tries_shapes and len(session.lane_policy.microbatches) > 1 and MICROBATCH not in tuning:
            return True
        return any(_name(tier) not in tuning for tier in self.tiers)

    def tuned(self, tier: plan.Tier) -> Tuned:
        """Return the fastest lowering and shape of a tier and its speed, measured once for a results folder."""
        if self.session.runner is not None and _name(tier) not in self.session.tuning:
            return Tuned(self.session.lowerings[0], NOMINAL_EXAMPLES_PER_SECOND)
        return self.session.tuning.get(_name(tier), partial(self._measured, tier))

    def compile_trials(self) -> None:
        """Compile the programs of all trials of lowerings together, so that nothing is compiled while one is timed."""
        works: dict[str, Callable[[], object]] = {}
        ways: dict[str, tuple[str, str | None]] = {}
        for tier, lowering in product(self.tiers, self.session.lowerings):
            if _name(tier) in self.session.tuning:
                continue
            way = f"{tier.label} {lowering}" if lowering else tier.label
            for part, work in self._trial_programs(tier, lowering).items():
                works[f"{way} {part}"], ways[f"{way} {part}"] = work, (_name(tier), lowering)
        for name in self.compile(works, planned=False):
            (self.late_graphs if name.endswith(AS_A_GRAPH) else self.late).add(ways[name])

    def _trial_programs(self, tier: plan.Tier, lowering: str | None) -> dict[str, Callable[[], object]]:
        of, (rows, columns) = self.of(tier, lowering), map(len, self._trial_grid(tier))
        shape = shard_shape(rows, columns, self.session.host.workers, self.first_width(tier), self.devices)
        made: dict[str, Callable[[], object]] = {
            "training": partial(of.program, shape),
            "evaluation": partial(of.evaluation, shape, of.validation_split),
        }
        if self._tries_graphs:
            made[f"training {AS_A_GRAPH}"] = partial(self.of(tier, lowering, graph=True).program, shape)
        return made

    def compile(self, works: Mapping[str, Callable[[], object]], *, planned: bool) -> list[str]:
        """Compile programs next to each other; name them on the progress line, and return those that are late.

        Args:
            works: See `compile_together`.
            planned: See `Progress.show`.
        """
        session = self.session
        seconds = session.host.policy.compile_seconds

        def watch(doing: str) -> None:
            session.stopper.check()
            session.progress.show(doing, planned=planned)

        late = compile_together(works, session.host.machine.cpu_cores, watch, seconds, _kernels)
        for name in late:
            session.progress.say(f"{name} was not compiled within {seconds:g} s, so it is not tried")
        return late

    def _measured(self, tier: plan.Tier) -> Tuned:
        doing = f"trying how fast {tier.label} trains"
        self.session.progress.show(doing, planned=False)
        session, shapes = self.session, self.session.lane_policy.settings
        first = self.first_width(tier)
        late = tuple(lowering for name, lowering in self.late if name == _name(tier) and lowering)
        in_time = [lowering for lowering in session.lowerings if lowering not in late] or session.lowerings[:1]

        graphs: dict[str | None, bool] = {}

        def speed(lowering: str | None) -> float:
            trial = partial(self.speed_trial, tier, lowering, first)
            tries_graph = self._tries_graphs and (_name(tier), lowering) not in self.late_graphs
            ways = (False, True) if tries_graph else (False,)
            graphs[lowering], examples = self._plain_or_graph(lambda graph: trial(graph=graph), ways)
            return examples

        found = compiled_programs.fastest(in_time, speed)
        of, width = partial(self.speed_trial, tier, found.lowering, graph=graphs[found.lowering]), first
        if session.tries_shapes:
            known = {first: found.examples_per_second}
            width, examples = compiled_programs.climbed(
                shapes, lambda one: known.get(one) or of(one).examples_per_second(), SHAPE_SECONDS
            )
            found = msgspec.structs.replace(found, examples_per_second=examples, shard_settings=width)
        evaluation, graph = of(width).seconds_per_evaluation(), graphs[found.lowering]
        return msgspec.structs.replace(found, seconds_per_evaluation=evaluation, late=late, graph=graph)

    def _plain_or_graph(self, trial: Callable[[bool], SpeedTrial], ways: Sequence[bool]) -> tuple[bool, float]:
        """Measure training by a plain program and, if that is one of the ways, by a CUDA graph, which may fail.

        Returns:
            True if the graph is worth it, and the speed.
        """

        def speed(graph: bool) -> float:
            compiled = trial(graph)
            with self._bounded(graph=graph):
                return compiled.examples_per_second()

        return compiled_programs.climbed(ways, speed, SHAPE_SECONDS)

    @property
    def _tries_graphs(self) -> bool:
        """True if lanes may train by a CUDA graph, as no graph of this folder hangs."""
        return self.session.host.graphs and GRAPHS not in self.session.tuning

    def _bounded(self, *, graph: bool) -> AbstractContextManager[None]:
        """Let the folder keep that a CUDA graph hangs, and end the process, so that the next run tries none."""
        session, seconds = self.session, self.session.host.policy.graph_seconds
        if not graph or seconds is None:
            return nullcontext()
        hangs = Tuned(session.lowerings[0], NOMINAL_EXAMPLES_PER_SECOND, late=("graphs",))
        return ends_within(seconds, lambda: session.tuning.get(GRAPHS, lambda: hangs))

    def first_width(self, tier: plan.Tier) -> int | None:
        """Return the most settings of a shard in the first trial of a tier."""
        session = self.session
        return session.lane_policy.settings[0] if session.tries_shapes else self.shard_width(tier)

    def _trial_grid(self, tier: plan.Tier) -> Grid:
        grid = whole_search(self.session.experiment, tier)
        return next(waves(self.of(tier, self.session.lowerings[0]), grid, self.memory_bytes))

    def speed_trial(
        self, tier: plan.Tier, lowering: str | None, width: int | None, *, graph: bool = False
    ) -> SpeedTrial:
        """Return fresh lanes of a tier whose speed can be measured, under a lowering and in shards of a width."""
        session = self.session
        session.stopper.check()
        of, workers = self.of(tier, lowering, graph=graph), session.host.workers
        grid = whole_search(session.experiment, tier)
        rows, columns = fitting_shape(of, grid, self.memory_bytes, workers, width)
        seeds, settings = grid.seeds[:rows], grid.settings[:columns]
        return SpeedTrial(of, filled(seeds, rows), filled(settings, columns), workers, len(seeds) * len(settings))

    def _evaluation_batch_size(self, tier: plan.Tier) -> int:
        """Return the examples of a lane that are evaluated at once.

        It is the same for every wave of a tier, since the rounding of losses depends on it.
        """
        experiment, policy = self.session.experiment, self.session.lane_policy
        if policy.evaluated_at_once is None:
            most, tried = policy.evaluation_batch_size, self.session.tries_shapes
            return min(most, EVALUATED_MICROBATCHES * tier.microbatch_size) if tried else most
        lanes = max(trials(experiment, tier) for trials in (search_trials, confirm_trials))
        return max(1, min(policy.evaluation_batch_size, int(policy.evaluated_at_once / lanes)))

    def _noise_parts(self, tier: plan.Tier) -> int:
        """Return the parts of the largest batch whose gradient norms are recorded; 0 if noise is not measured."""
        if not self.session.experiment.evaluation.noise:
            return 0
        return len(gradient_noise.part_sizes(tier.microbatch_size, tier.batch_sizes[-1]))


@dataclass
class SpeedTrial:
    """As many shards of fresh lanes as workers, advanced next to each other to see how fast they train.

    Attributes:
        programs: The tier's programs under the lowering that is tried.
        seeds: The seed of each row of a shard.
        settings: The setting of each column of a shard.
        workers: How many shards train at the same time.
        counted: Lanes of a shard that count; the others only make the parts of all devices equal.
    """

    programs: Programs
    seeds: Sequence[int]
    settings: Sequence[Setting]
    workers: int
    counted: int

    def __post_init__(self) -> None:
        layout = Layout(list(self.seeds), list(self.settings), [])
        self.shards = [Shard(layout, first_lanes(self.programs, layout)) for _ in range(self.workers)]
        self.lanes = self.workers * self.counted

    def examples_per_second(self) -> float:
        """Measure the lane-examples per second of training, without compilation."""
        ticks = steps_to_fill(TRIAL_SECONDS, lambda count: self._advance(self.shards[0], count))
        seconds = min(self._together(self._advance, ticks) for _ in range(2))
        return self.lanes * self.programs.microbatch_size * ticks / seconds

    def seconds_per_evaluation(self) -> float:
        """Measure the seconds to evaluate a lane. One training tick before it is included.

        The result serves to predict time and decides nothing, so a few evaluations are enough.
        """
        self._evaluate(self.shards[0], 1)
        return min(self._together(self._evaluate, 1) for _ in range(EVALUATION_TRIALS)) / self.lanes

    def _together(self, work: Callable[[Shard, int], None], steps: int) -> float:
        with ThreadPoolExecutor(self.workers) as pool:
            return timed(lambda count: list(pool.map(lambda shard: work(shard, count), self.shards)), steps)

    def _advance(self, shard: Shard, ticks: int) -> None:
        programs, width = self.programs, self.programs.microbatch_size
        for first in range(0, ticks, programs.ticks_per_call):
            count = min(ticks - first, programs.ticks_per_call)
            order = np.arange(len(self.seeds) * count * width, dtype=np.int32) % len(programs.train_split.labels)
            shard.lanes = programs.advance(shard.lanes, shard.values, order.reshape(-1, count, width), first)
        jax.block_until_ready(shard.lanes)

    def _evaluate(self, shard: Shard, times: int) -> None:
        for _ in range(times):
            self._advance(shard, 1)
            self.programs.evaluate(shard.lanes.state.params, self.programs.validation_split)


def _kernels(name: str) -> str:
    """Return what a program that runs as a graph has in common with the plain one."""
    return name.removesuffix(f" {AS_A_GRAPH}")


def trial_seconds(duration: plan.Duration, tuned: Tuned) -> float:
    """Predict one trial's share of the seconds until its tier has reached the epoch budget, evaluations included."""
    evaluations = bisect_right(duration.evaluations, duration.budget_examples)
    return duration.budget_examples / tuned.examples_per_second + evaluations * tuned.seconds_per_evaluation


def _name(tier: plan.Tier) -> str:
    """Return the key of a tier in `tuning.json`."""
    return f"convergence {tier.microbatch_size} {tier.batch_sizes}"
