"""The loops that are timed: one jitted step per call, many steps per call, and batches fed from host memory.

Many steps per call are also timed as one CUDA graph, where that is possible.

A step may be split over several local devices: each computes an equal part of the batch, and holds all else whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int32, PyTree, Shaped

from batchscale.config.vocabulary import CellKey
from batchscale.measure.data import example_order
from batchscale.measure.data.datasets import Examples
from batchscale.measure.device import compiled_programs, jax_settings
from batchscale.measure.device.compiled_programs import Work
from batchscale.measure.device.machine import platform_name
from batchscale.measure.device.platform_policy import POLICIES
from batchscale.measure.training.learner import Chosen, Learner, TrainState, take
from batchscale.measure.training.random_streams import Keys, Numbers

AXIS = "data"
"""Name of the axis over which a batch is split."""
WHOLE, PART = PartitionSpec(), PartitionSpec(AXIS)
"""What each device has of an array: all of it, or an equal part of its first axis."""
LEARNING_RATE = 1e-3
"""Small, so that timed training stays finite; speed does not depend on it."""
SEED = 0
"""Of the parameters, the order of examples and the random numbers; speed does not depend on it."""
BATCHES_AT_HAND = 64
"""Number of distinct batches that a dispatched loop cycles through, at most."""

Built = tuple[Work, jax.stages.Compiled, float]
"""The work of a cell, its compiled program and the seconds that compiling took."""


@dataclass(frozen=True)
class Placement:
    """How the arrays of a step are placed on several devices; on a single one JAX places them.

    Attributes:
        devices: How many.
        among: The devices to take them from; those of this program if it is empty.
    """

    devices: int = 1
    among: tuple[Any, ...] = ()

    @cached_property
    def _mesh(self) -> Mesh:
        return Mesh(np.array(self.among[: self.devices] or _shared_evenly(self.devices)), (AXIS,))

    def whole(self, tree: PyTree) -> PyTree:
        """Copy arrays to every device: parameters, the training set, the order of its examples."""
        return self._put(tree, WHOLE)

    def parts(self, batch: PyTree) -> PyTree:
        """Put an equal part of a batch, along its first axis, on each device."""
        return self._put(batch, PART)

    def described(self, tree: PyTree) -> PyTree:
        """Place shapes and types as `whole` places arrays."""
        if self.devices == 1:
            return tree
        placed = NamedSharding(self._mesh, WHOLE)
        return jax.tree.map(lambda leaf: leaf.update(sharding=placed), tree)

    def _put(self, tree: PyTree, spec: PartitionSpec) -> PyTree:
        placed = NamedSharding(self._mesh, spec) if self.devices > 1 else None
        if placed is None or jax.process_count() == 1:
            return jax.device_put(tree, placed)
        # Every host has the whole arrays and gives its own devices their part, without a message to another host.
        return jax.tree.map(lambda leaf: _of_this_host(np.asarray(leaf), placed), tree)

    def shared(self, function: Callable[..., PyTree], *parts: PartitionSpec) -> Callable[..., PyTree]:
        """Let each device apply a function to its part of the arguments; every device returns the same.

        Sharded arrays alone would not do: the compiler then adds gradients up in the type that they are computed in,
        and a sum over devices in bfloat16 loses more with every device.

        Args:
            function: Takes the mean over devices by itself.
            parts: `WHOLE` or `PART` for each of its arguments.
        """
        if self.devices == 1:
            return function
        return jax.shard_map(function, mesh=self._mesh, in_specs=parts, out_specs=WHOLE, check_vma=False)

    def mean(self, tree: PyTree) -> PyTree:
        """Return the mean over devices inside of a shared function."""
        return jax.lax.pmean(tree, AXIS) if self.devices > 1 else tree

    def pace(self, tree: PyTree) -> None:
        """Wait for a step on virtual devices: they share threads, and steps in flight block each other."""
        if self.devices > 1 and POLICIES[platform_name(jax.default_backend())].virtual_devices:
            jax.block_until_ready(tree)


def _shared_evenly(devices: int) -> list[Any]:
    """Return devices of this program, of every host the same number."""
    of_a_host = devices // jax.process_count()
    hosts = range(jax.process_count())
    return [one for host in hosts for one in jax.local_devices(process_index=host)[:of_a_host]]


def _of_this_host(whole: Shaped[np.ndarray, ...], placed: NamedSharding) -> jax.Array:
    return jax.make_array_from_callback(whole.shape, placed, lambda index: whole[index])


def build(learner: Learner, split: Examples, key: CellKey) -> Built:
    """Compile the loop of a cell.

    Args:
        learner: The step to time, in the cell's precision.
        split: The train split, on one device.
        key: Batch size, loop, input, devices and accumulation.
    """
    placement = Placement(key.devices)
    return LOOPS[key.loop, key.input](learner, placement, placement.whole(split), key)


def _first_state(learner: Learner, placement: Placement) -> TrainState:
    return placement.whole(learner.first_state(jax.device_put(learner.params(SEED)), LEARNING_RATE))


def _described_state(learner: Learner, placement: Placement) -> PyTree:
    """Return shapes, types and places of the first state: a program that waits for its turn then holds no memory."""
    first = partial(learner.first_state, learning_rate=LEARNING_RATE)
    return placement.described(jax.eval_shape(first, learner.abstract_params()))


def _dispatch(learner: Learner, placement: Placement, split: Examples, key: CellKey) -> Built:
    """Run one jitted step per call, as a plain Python loop does."""
    batches = [placement.whole(chosen) for chosen in _batches(learner, key.batch_size, len(split.labels))]
    rate = placement.whole(jnp.float32(LEARNING_RATE))
    described = _described_state(learner, placement)
    compiled, seconds = _compile(partial(step, learner, placement, key), described, split, batches[0], rate)
    state: TrainState | None = None

    def work(steps: int) -> None:
        nonlocal state
        state = state or _first_state(learner, placement)
        for i in range(steps):
            state, _ = compiled(state, split, batches[i % len(batches)], rate)
            placement.pace(state)
        jax.block_until_ready(state)

    return work, compiled, seconds


def _fed(learner: Learner, placement: Placement, split: Examples, key: CellKey) -> Built:
    """Run one jitted step per call on batches from host memory; a thread fetches the next batch, as a loader does."""
    on_host = Examples(*(np.asarray(leaf) for leaf in split))
    batches = _batches(learner, key.batch_size, len(on_host.labels))
    rate = placement.whole(jnp.float32(LEARNING_RATE))

    def fetch(i: int) -> tuple[Examples, Numbers]:
        chosen = batches[i % len(batches)]
        fetched = Examples(*(leaf[chosen.indices] for leaf in on_host)), chosen.numbers
        return jax.tree.map(placement.parts, fetched)

    def step(state: TrainState, batch: tuple[Examples, Numbers], rate: Array) -> tuple[TrainState, Float[Array, ""]]:
        def examples_of(_: PyTree, piece: tuple[Examples, Numbers]) -> tuple[Examples, Keys]:
            return piece[0], learner.keys(SEED, piece[1])

        return _shared_step(learner, placement, key, examples_of, (state, (), batch, rate))

    compiled, seconds = _compile(step, _described_state(learner, placement), fetch(0), rate)
    state: TrainState | None = None

    def work(steps: int) -> None:
        nonlocal state
        state = state or _first_state(learner, placement)
        with ThreadPoolExecutor(1) as loader:
            coming = loader.submit(fetch, 0)
            for i in range(steps):
                batch = coming.result()
                if i + 1 < steps:
                    coming = loader.submit(fetch, i + 1)
                state, _ = compiled(state, batch, rate)
                placement.pace(state)
            jax.block_until_ready(state)

    return work, compiled, seconds


def _scan(learner: Learner, placement: Placement, split: Examples, key: CellKey) -> Built:
    """Run many steps per call, with the loop inside the program, and for "graph" inside a CUDA graph."""
    order = placement.whole(example_order.order(SEED, 0, len(split.labels)))
    rate = placement.whole(jnp.float32(LEARNING_RATE))
    steps_of = many_steps(learner, placement, key)
    described = _described_state(learner, placement)
    compiled, seconds = _compile(steps_of, described, split, order, np.int32(1), rate, graph=key.loop == "graph")
    state: TrainState | None = None

    def work(steps: int) -> None:
        nonlocal state
        state = state or _first_state(learner, placement)
        state, _ = compiled(state, split, order, np.int32(steps), rate)
        jax.block_until_ready(state)

    return work, compiled, seconds


def many_steps(learner: Learner, placement: Placement, key: CellKey) -> Callable[..., PyTree]:
    """Return the function that takes many steps of a cell: the program that `scan` times."""
    batch_size = key.batch_size

    def steps_of(
        state: TrainState, split: Examples, order: Int32[Array, " example"], steps: Int32[Array, ""], rate: Array
    ) -> tuple[TrainState, Float[Array, ""]]:
        def next_step(i: Int32[Array, ""], carried: tuple[TrainState, Array]) -> tuple[TrainState, Array]:
            start = (i * batch_size) % (len(order) - batch_size + 1)
            indices = jax.lax.dynamic_slice(order, (start,), (batch_size,))
            numbers = (i * batch_size + jnp.arange(batch_size)).astype(jnp.uint32) if learner.draws else None
            return step(learner, placement, key, carried[0], split, Chosen(indices, numbers), rate)

        return jax.lax.fori_loop(0, steps, next_step, (state, jnp.float32(0)))

    return steps_of


def step(
    learner: Learner,
    placement: Placement,
    key: CellKey,
    state: TrainState,
    split: Examples,
    chosen: Chosen,
    rate: Array,
) -> tuple[TrainState, Float[Array, ""]]:
    """Take one step of a cell on chosen examples: the program that `dispatch` times."""

    def examples_of(split: Examples, piece: Chosen) -> tuple[Examples, Keys]:
        return take(split, piece.indices), learner.keys(SEED, piece.numbers)

    return _shared_step(learner, placement, key, examples_of, (state, split, chosen, rate))


def _shared_step(
    learner: Learner,
    placement: Placement,
    key: CellKey,
    examples_of: Callable[[PyTree, PyTree], tuple[Examples, Keys]],
    arguments: tuple[TrainState, PyTree, PyTree, Array],
) -> tuple[TrainState, Float[Array, ""]]:
    """Take a step in which each device has a part of the batch.

    Args:
        learner: The learner.
        placement: The devices.
        key: The cell.
        examples_of: Returns the examples of a piece of a batch and their keys, given where they come from.
        arguments: The state, where examples come from, the batch, whose leaves begin with [example], and the rate.
    """

    def of_device(state: TrainState, source: PyTree, part: PyTree, rate: Array) -> tuple[TrainState, Array]:
        if key.accumulation == 1:
            found = learner.gradient(state.params, *examples_of(source, part))
        else:
            pieces = jax.tree.map(lambda leaf: leaf.reshape(key.accumulation, -1, *leaf.shape[1:]), part)
            found = learner.accumulated_gradient(state.params, pieces, partial(examples_of, source))
        loss, gradient = placement.mean(found)
        return learner.apply(state, gradient, rate, key.batch_size), loss

    return placement.shared(of_device, WHOLE, WHOLE, PART, WHOLE)(*arguments)


def _compile(function: Callable, *arguments: object, graph: bool = False) -> tuple[jax.stages.Compiled, float]:
    lowered = jax.jit(function, donate_argnums=0).lower(*arguments)
    with jax_settings.compiling_anew():
        start = time.perf_counter()
        compiled = compiled_programs.compiled(lowered, graph=graph)
        return compiled, time.perf_counter() - start


def _batches(learner: Learner, batch_size: int, examples: int) -> list[Chosen]:
    """Return distinct batches to cycle through; a single one if a batch is the whole train split."""
    count = max(1, min(BATCHES_AT_HAND, examples // batch_size))
    starts = [i * batch_size for i in range(count)]
    return [learner.chosen(example_order.indices(SEED, start, batch_size, examples), start) for start in starts]


LOOPS = {
    ("dispatch", "device"): _dispatch,
    ("scan", "device"): _scan,
    ("graph", "device"): _scan,
    ("dispatch", "host"): _fed,
}
