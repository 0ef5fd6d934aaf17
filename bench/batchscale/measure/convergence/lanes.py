"""Many trials in one program: batch size, learning rate, optimizer options and seed are values of a lane.

A *lane* is a trial while it trains mapped with others. Lanes are arrays with the axes [seed, setting], where a
*setting* is a batch size, a rate and options. A *tier* is the batch sizes that share a microbatch size and so a
program. Time advances in *ticks* of one microbatch. In a tick all lanes of a seed see the same examples and add their
gradient to a sum. A lane applies its optimizer in the ticks that complete its batch. The mean of microbatch gradients
is the gradient of the batch, so a lane is the same run as training alone.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int32, Key, PyTree, Shaped

from batchscale.measure.convergence.lane_devices import OF_LANES, OF_SEEDS, OF_SETTINGS, ONE_DEVICE, WHOLE, LaneDevices
from batchscale.measure.data.datasets import Examples
from batchscale.measure.device import compiled_programs
from batchscale.measure.device.compiled_programs import predicted_bytes
from batchscale.measure.device.platform_policy import EVALUATION_BATCH_SIZE
from batchscale.measure.training import gradient_noise
from batchscale.measure.training.gradient_noise import Norms
from batchscale.measure.training.learner import Learner, TrainState, take
from batchscale.measure.training.optimizers import Schedule, averaged_parameters


class Lanes(NamedTuple):
    """State of all lanes; every leaf begins with the axes [seed, setting].

    Attributes:
        state: Parameters and optimizer state.
        gradient: Sum of the microbatch gradients of the batch in progress; empty in tiers that do not accumulate.
        norms: Squared norms of partial sums, for the gradient noise scale; empty if they are not asked for.
        average: Moving average of the parameters; empty if none is kept.
        seeds: Of the random numbers; empty if the model draws none.
    """

    state: TrainState
    gradient: PyTree
    norms: Norms = ()
    average: PyTree = ()
    seeds: Int32[Array, "seed setting"] | tuple[()] = ()


class Settings(NamedTuple):
    """The values in which the lanes of one seed differ."""

    batch_sizes: Int32[Array, " setting"]
    learning_rates: Float[Array, " setting"]
    options: Mapping[str, Float[Array, " setting"]]


class Moments(NamedTuple):
    """Mean and standard deviation of a score over the examples of a split, for every lane of a shard or for one."""

    mean: Float[np.ndarray, "*lanes"] | np.floating | float
    deviation: Float[np.ndarray, "*lanes"] | np.floating | float

    @classmethod
    def of(cls, first: Float[np.ndarray, "*lanes"], second: Float[np.ndarray, "*lanes"]) -> Moments:
        """Return the moments that follow from the means of the scores and of their squares."""
        return cls(first, np.sqrt(np.maximum(second - first**2, 0.0)))


Call = tuple[Callable[..., PyTree], tuple[PyTree, ...]]
"""A function to compile, and its arguments or their shapes and types."""


@dataclass(frozen=True)
class Programs:
    """Training and evaluation of one tier, compiled once per shape (seeds, settings); safe to call from threads.

    Attributes:
        learner: Model, loss and optimizer.
        train_split: Examples to train on.
        validation_split: Examples that decide learning rates and the time to the target.
        test_split: Examples for reported scores only.
        microbatch_size: Examples per tick; divides every batch size of the tier.
        schedule: Factor on the learning rates.
        accumulates: False if every batch is one microbatch, so that no gradient has to be summed.
        ticks_per_call: Most ticks of one call of the training program.
        noise_parts: How many parts of a batch have their gradient norms recorded; 0 for none.
        averaging_examples: Horizon of the moving average of the parameters; None for no average.
        evaluation_batch_size: Examples of one lane that are evaluated at once.
        devices: Share the lanes; the splits are whole on each.
        selected_numbers: See `PlatformPolicy`.
        graph: True if a call of the training program is to run as one CUDA graph.
        patience: Seconds to wait for a program that another thread compiles; None for no bound.
        compiled: The programs compiled so far, and those that are being compiled.
        lock: Held while a program is looked up.
    """

    learner: Learner
    train_split: Examples
    validation_split: Examples
    test_split: Examples
    microbatch_size: int
    schedule: Schedule
    accumulates: bool
    ticks_per_call: int
    noise_parts: int = 0
    averaging_examples: float | None = None
    evaluation_batch_size: int = EVALUATION_BATCH_SIZE
    devices: LaneDevices = ONE_DEVICE
    selected_numbers: int = 0
    graph: bool = False
    patience: float | None = None
    compiled: dict[tuple, Future[jax.stages.Compiled]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def compilations(self) -> int:
        """Training programs compiled so far."""
        return sum(key[0] == "train" and program.done() for key, program in list(self.compiled.items()))

    @cached_property
    def lane_bytes(self) -> int:
        """Bytes that the state of one lane takes as long as it trains."""
        lanes, _ = self._abstract((1, 1))
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(lanes))

    def fit(self, shape: tuple[int, int], memory_bytes: int, lanes: int = 1) -> tuple[int, int]:
        """Halve `shape` until each of its programs fits into memory.

        Args:
            shape: Seeds and settings of a program; every device has an equal part of them.
            memory_bytes: Bytes of one device for the program and the lanes that wait for their turn.
            lanes: Lanes to be held altogether on one device; those outside the program take memory as well.
        """
        while math.prod(shape) > self.devices.count:
            programs = self.program(shape), self.evaluation(shape, self.validation_split)
            others = max(0, lanes - math.prod(shape) // self.devices.count) * self.lane_bytes
            if max(predicted_bytes(one) or 0 for one in programs) <= memory_bytes - others:
                break
            seeds, settings = shape
            half = (seeds, (settings + 1) // 2) if settings > 1 else ((seeds + 1) // 2, settings)
            smaller = self.devices.even(half)
            shape = smaller if math.prod(smaller) < math.prod(shape) else self.devices.even((1, 1))
        return shape

    def initialise(self, seeds: Int32[np.ndarray, " seed"], settings: Settings) -> Lanes:
        """Return fresh lanes; the parameters of a seed are the same in all its settings."""
        shape = len(seeds), len(settings.batch_sizes)
        return self.devices.put(self._first_lanes(seeds, settings), shape, OF_LANES)

    def _first_lanes(self, seeds: Int32[np.ndarray, " seed"], settings: Settings) -> Lanes:
        of_seeds = [self.learner.params(int(seed)) for seed in seeds]
        width = len(settings.batch_sizes)
        stacked = jax.tree.map(lambda *leaves: np.stack([np.stack([leaf] * width) for leaf in leaves]), *of_seeds)
        state = _first_state(self.learner, jax.device_put(stacked), settings)
        # A copy: the training program is given these buffers to overwrite, and no buffer may be given twice.
        average = jax.tree.map(jnp.copy, state.params) if self.averaging_examples else ()
        of_lanes = jnp.repeat(jnp.asarray(seeds)[:, None], width, axis=1) if self.learner.draws else ()
        if not self.accumulates:
            return Lanes(state, (), average=average, seeds=of_lanes)
        norms = gradient_noise.no_sums(len(seeds), width, self.noise_parts) if self.noise_parts else ()
        return Lanes(state, jax.tree.map(jnp.zeros_like, state.params), norms, average, of_lanes)

    def program(self, shape: tuple[int, int]) -> jax.stages.Compiled:
        """Return the training program of a shape, compiled when it is first asked for."""
        return self._once(("train", shape, self.graph), lambda: self._lower(shape), graph=self.graph)

    def evaluation(self, shape: tuple[int, int], split: Examples) -> jax.stages.Compiled:
        """Return the program that evaluates lanes of a shape on a split, compiled when it is first asked for."""
        key = ("evaluate", shape, len(split.labels))
        return self._once(key, lambda: self._lower_evaluation(shape, split))

    def training_call(self, shape: tuple[int, int]) -> Call:
        """Return the function that trains lanes of a shape, and its arguments; it may overwrite the first of them."""
        lanes, values = self._abstract(shape)
        order = jax.ShapeDtypeStruct((shape[0], self.ticks_per_call, self.microbatch_size), jnp.int32)
        tick = jax.ShapeDtypeStruct((), jnp.int32)
        places = (OF_LANES, OF_SETTINGS, WHOLE, OF_SEEDS, WHOLE, WHOLE)
        return self._split(
            partial(_advance_lanes, self), shape, places, (lanes, values, self.train_split, order, tick, tick)
        )

    def evaluation_call(self, shape: tuple[int, int], split: Examples) -> Call:
        """Return the function that evaluates lanes of a shape on a split, and its arguments."""
        work = partial(evaluate_lanes, self.learner, batch_size=self.evaluation_batch_size)
        return self._split(work, shape, (OF_LANES, WHOLE), (self._abstract(shape)[0].state.params, split))

    def _split(
        self, work: Callable[..., PyTree], shape: tuple[int, int], places: tuple[PartitionSpec, ...], given: tuple
    ) -> Call:
        described = [self.devices.described(one, shape, place) for one, place in zip(given, places, strict=True)]
        return self.devices.split(work, shape, *places), tuple(described)

    def _abstract(self, shape: tuple[int, int]) -> tuple[Lanes, Settings]:
        seeds, settings = shape
        ones = jnp.ones(settings, jnp.float32)
        values = Settings(jnp.ones(settings, jnp.int32), ones, dict.fromkeys(self.learner.searched, ones))
        return jax.eval_shape(partial(self._first_lanes, np.zeros(seeds, np.int32)), values), values

    def _lower(self, shape: tuple[int, int]) -> jax.stages.Lowered:
        work, arguments = self.training_call(shape)
        # Donation lets XLA update the lanes in place: without it parameters, optimizer state and sums exist twice.
        return jax.jit(work, donate_argnums=0).lower(*arguments)

    def _lower_evaluation(self, shape: tuple[int, int], split: Examples) -> jax.stages.Lowered:
        work, arguments = self.evaluation_call(shape, split)
        return jax.jit(work).lower(*arguments)

    def _once(self, key: tuple, lower: Callable[[], jax.stages.Lowered], *, graph: bool = False) -> jax.stages.Compiled:
        """Return a program, compiled by the first thread that asks for it; the others wait for that one alone.

        Raises:
            TimeoutError: When they have waited for too long.
        """
        with self.lock:
            known = self.compiled.get(key)
            program = self.compiled.setdefault(key, Future())
        if known is None:
            try:
                program.set_result(compiled_programs.compiled(lower(), lanes=True, graph=graph))
            except BaseException as error:
                # Forgotten, so that the next call tries again.
                del self.compiled[key]
                program.set_exception(error)
        try:
            return program.result(self.patience)
        except TimeoutError:
            raise TimeoutError(f"it was not compiled within {self.patience:g} further seconds") from None

    def advance(
        self, lanes: Lanes, settings: Settings, order: Int32[np.ndarray, "seed tick microbatch"], first_tick: int
    ) -> Lanes:
        """Advance all lanes by the ticks in `order`.

        Args:
            lanes: The state before; donated, so it must not be used afterwards.
            settings: The values of the columns.
            order: Indices of the examples of each tick; at most `ticks_per_call` ticks.
            first_tick: Ticks since the start of training.
        """
        seeds, ticks, width = order.shape
        # Shapes are part of a program, so a shorter call is padded and the number of ticks is a value.
        padded = np.zeros((seeds, self.ticks_per_call, width), np.int32)
        padded[:, :ticks] = order
        shape = seeds, len(settings.batch_sizes)
        given = self.devices.put(lanes, shape, OF_LANES), self.devices.put(settings, shape, OF_SETTINGS)
        return self.program(shape)(*given, self.train_split, padded, np.int32(first_tick), np.int32(ticks))

    def evaluate(self, params: PyTree, split: Examples) -> dict[str, Moments]:
        """Return mean and deviation over a whole split of every score of every lane's parameters."""
        size, shape = len(split.labels), jax.tree.leaves(params)[0].shape[:2]
        sums = self.evaluation(shape, split)(self.devices.put(params, shape, OF_LANES), split)
        return {name: Moments.of(*(np.asarray(total, np.float64) / size for total in sums[name])) for name in sums}


def mapped(function: Callable[..., PyTree], in_axes: tuple[int | None, ...]) -> Callable[..., PyTree]:
    """Return `jax.vmap` of a function over first axes, but take an axis of length 1 off instead of mapping over it.

    XLA for the CPU keeps a batch axis of length 1 in matrix products. Without it a byte decoder (T 64, width 64) trains
    1.27 times as fast in microbatches of 4, and 1.57 times in those of 16 (1 x86 core, JAX 0.10, November 2026).
    """
    over_axis = jax.vmap(function, in_axes)

    def call(*arguments: PyTree) -> PyTree:
        along = [one for one, axis in zip(arguments, in_axes, strict=True) if axis is not None]
        if any(len(leaf) != 1 for leaf in jax.tree.leaves(along)):
            return over_axis(*arguments)
        alone = [
            one if axis is None else jax.tree.map(lambda leaf: leaf[0], one)
            for one, axis in zip(arguments, in_axes, strict=True)
        ]
        return jax.tree.map(lambda leaf: leaf[None], function(*alone))

    return call


def _first_state(learner: Learner, params: PyTree, settings: Settings) -> TrainState:
    first = jax.vmap(jax.vmap(learner.first_state), in_axes=(0, None, None))
    return first(params, settings.learning_rates, settings.options)


def _advance_lanes(
    programs: Programs,
    lanes: Lanes,
    settings: Settings,
    split: Examples,
    order: Int32[Array, "seed tick microbatch"],
    first_tick: Int32[Array, ""],
    ticks: Int32[Array, ""],
) -> Lanes:
    learner, width = programs.learner, programs.microbatch_size
    # All settings of a seed share the examples (None): these are read once, not once per lane.
    over_settings = mapped(learner.gradient, (0, None, None))
    microbatches_per_step = settings.batch_sizes // width
    numbers = sum(leaf.size for leaf in jax.tree.leaves(lanes.state.params))
    where = always if numbers <= programs.selected_numbers else jax.lax.cond

    def tick(i: Int32[Array, ""], lanes: Lanes) -> Lanes:
        now = first_tick + i
        keys = _keys(learner, lanes, now, width)
        _, gradient = mapped(over_settings, (0, 0, 0))(lanes.state.params, take(split, order[:, i]), keys)
        # A schedule counts the examples before the step, like a single run. If the batch is complete in this tick, the
        # examples before the step are all examples up to the end of this tick minus the batch.
        before_batch = (now + 1) * width - settings.batch_sizes
        rates = settings.learning_rates * programs.schedule.factor(before_batch.astype(jnp.float32))
        scheduled = settings._replace(learning_rates=rates)
        if not programs.accumulates:
            state = _update(learner, lanes.state, gradient, scheduled)
            return _averaged(programs, settings, now, lanes._replace(state=state))
        # Ticks count from the start of training, so every lane is due when its batch size divides the examples seen.
        microbatches = now % microbatches_per_step + 1
        due = microbatches == microbatches_per_step
        summed = jax.tree.map(jnp.add, lanes.gradient, gradient)
        update = partial(_update_due, learner, due, scheduled, 1.0 / microbatches_per_step)
        norms = gradient_noise.with_norms_of(lanes.norms, summed, microbatches, microbatches_per_step, where)
        # `cond` skips the optimizer in ticks in which no lane is due. Under `vmap` it would become a `where` that
        # computes both branches, so it is placed outside, for all lanes together.
        stepped = where(due.any(), update, lambda same: same, lanes._replace(gradient=summed, norms=norms))
        return _averaged(programs, settings, now, stepped)

    return jax.lax.fori_loop(0, ticks, tick, lanes)


def _keys(learner: Learner, lanes: Lanes, tick: Int32[Array, ""], width: int) -> Key[Array, "seed microbatch"] | None:
    """Return the keys of the examples of a tick; all settings of a seed share them, as they share the examples."""
    if isinstance(lanes.seeds, tuple):
        return None
    numbers = tick.astype(jnp.uint32) * width + jnp.arange(width, dtype=jnp.uint32)
    return jax.vmap(learner.keys, (0, None))(lanes.seeds[:, 0], numbers)


def always(_: Bool[Array, ""], work: Callable[..., PyTree], __: Callable[..., PyTree], *given: PyTree) -> PyTree:
    """Stand in for `jax.lax.cond` where `work` itself keeps what is not due: the same numbers without a conditional."""
    return work(*given)


def _averaged(programs: Programs, settings: Settings, tick: Int32[Array, ""], lanes: Lanes) -> Lanes:
    if programs.averaging_examples is None:
        return lanes
    examples, horizon = (tick + 1) * programs.microbatch_size, programs.averaging_examples
    average = averaged_parameters(lanes.average, lanes.state.params, settings.batch_sizes, examples, horizon)
    return lanes._replace(average=average)


def _update(learner: Learner, state: TrainState, gradient: PyTree, settings: Settings) -> TrainState:
    over_lanes = mapped(mapped(learner.apply, (0, 0, 0, 0, 0)), (0, 0, None, None, None))
    return over_lanes(state, gradient, settings.learning_rates, settings.batch_sizes, settings.options)


def _update_due(
    learner: Learner,
    due: Bool[Array, " setting"],
    settings: Settings,
    weights: Float[Array, " setting"],
    lanes: Lanes,
) -> Lanes:
    """Apply the optimizer in the lanes that are due, and start their next batch.

    Args:
        learner: The learner.
        due: Lanes whose batch is complete.
        settings: With the learning rates of this step.
        weights: One over the microbatches of a batch, which makes a mean of the sum.
        lanes: The lanes with their sums.
    """
    mean = jax.tree.map(lambda total: total * _along(weights, total), lanes.gradient)
    # All lanes compute an update, because lanes are an axis of one program; the others discard it.
    updated = _update(learner, lanes.state, mean, settings)
    state = jax.tree.map(lambda new, old: jnp.where(_along(due, new), new, old), updated, lanes.state)
    gradient = jax.tree.map(lambda total: jnp.where(_along(due, total), 0, total), lanes.gradient)
    return lanes._replace(state=state, gradient=gradient)


def _along(values: Shaped[Array, " setting"], leaf: Array) -> Array:
    """Shape per-setting values so that they broadcast over a leaf [seed, setting, ...]."""
    return values.reshape(1, -1, *[1] * (leaf.ndim - 2))


def evaluate_lanes(
    learner: Learner, params: PyTree, split: Examples, batch_size: int = EVALUATION_BATCH_SIZE
) -> dict[str, tuple[Float[Array, "seed setting"], Float[Array, "seed setting"]]]:
    """Return, for every score, its sum and the sum of its squares over the examples of a split, for every lane."""

    def of_lane(params: PyTree, chunk: Examples) -> PyTree:
        return {name: (one.sum(), (one * one).sum()) for name, one in learner.scores(params, chunk).items()}

    evaluate = mapped(mapped(of_lane, (0, None)), (0, None))
    size = min(batch_size, len(split.labels))
    whole = len(split.labels) // size * size
    chunks = jax.tree.map(lambda leaf: leaf[:whole].reshape(-1, size, *leaf.shape[1:]), split)
    # Chunks are evaluated one after another: activations of all lanes on the whole split would not fit into memory.
    totals = jax.tree.map(lambda total: total.sum(0), jax.lax.map(partial(evaluate, params), chunks))
    if whole < len(split.labels):
        rest = evaluate(params, jax.tree.map(lambda leaf: leaf[whole:], split))
        totals = jax.tree.map(jnp.add, totals, rest)
    return totals
