"""The programs that `batchscale run` would compile on a described device: timed steps, mapped training, evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from batchscale.config import plan
from batchscale.config.experiment import Experiment
from batchscale.config.vocabulary import CellKey
from batchscale.measure.ahead.targets import Target
from batchscale.measure.convergence.lane_devices import ONE_DEVICE, LaneDevices
from batchscale.measure.convergence.lanes import Call
from batchscale.measure.convergence.tiers import LanePrograms
from batchscale.measure.convergence.wave import whole_search
from batchscale.measure.data.examples import Dataset, Examples
from batchscale.measure.data.made_up import ArraySpec, ExampleSpec
from batchscale.measure.device.machine import Host, describe_environment
from batchscale.measure.session import Session
from batchscale.measure.throughput import timed_loops
from batchscale.measure.training.learner import Learner
from batchscale.records.machine_file import Machine

WITHOUT_CHOICE = {"gpu": "xla", "tpu": "patches"}
"""Lowering of convolutions where none is tried. On a TPU, XLA's own float32 convolutions take minutes to compile."""


class Sizes(NamedTuple):
    """Examples of each split."""

    train: int
    validation: int
    test: int


@dataclass(frozen=True)
class DescribedHost(Host):
    """A host whose device is only described.

    Attributes:
        pool_bytes: Memory that JAX's allocator would have.
    """

    pool_bytes: int = 0

    def free_memory_bytes(self) -> int:
        """Return the bytes that lanes may use."""
        return self.pool_bytes

    def program_memory_bytes(self) -> int:
        """Return the bytes that one program may use."""
        return self.pool_bytes


@dataclass
class DescribedSession(Session):
    """A session whose arrays are shapes and types alone."""

    @cached_property
    def splits(self) -> tuple[Examples, Examples, Examples]:
        """Shapes and types of train, validation and test split."""
        return tuple(map(_abstract, (self.dataset.train, self.dataset.validation, self.dataset.test)))  # pyright: ignore[reportReturnType]


def described_session(
    experiment: Experiment, spec: ExampleSpec, sizes: Sizes, target: Target, name: str, sources: Path = Path()
) -> DescribedSession:
    """Return the session that a machine with the described device would have, with examples that take no memory."""
    machine = Machine(
        name=name,
        platform=target.platform,
        device_kind=target.title,
        device_count=1,
        device_memory_bytes=target.memory_bytes,
        cpu="described",
        cpu_cores=1,
        host_memory_bytes=0,
    )
    environment = describe_environment(None)
    host = DescribedHost(machine, environment, "described", "described", dirty=False, pool_bytes=target.pool_bytes)
    splits = [Examples(_zeros(spec.inputs, count), _zeros(spec.labels, count)) for count in sizes]
    dataset = Dataset(
        name=experiment.workload.dataset,
        source="described",
        sha256="",
        task=spec.task,
        classes=spec.classes,
        train=splits[0],
        validation=splits[1],
        test=splits[2],
        tokens_per_example=spec.tokens_per_example,
    )
    return DescribedSession(experiment, dataset, host, Path(), sources=sources)


def usual_lowering(session: Session) -> str | None:
    """Return the lowering of convolutions to plan with; None for a model that has a single one."""
    return WITHOUT_CHOICE[session.host.machine.platform] if session.convolves else None


def cell_call(session: Session, key: CellKey, lowering: str | None, devices: tuple[Any, ...]) -> Call:
    """Return the program of a timed cell whose examples are on the device, and the shapes of its arguments."""
    learner, placement = session.learner(key.precision, lowering), timed_loops.Placement(key.devices, devices)
    state, (split, _, _) = abstract_state(learner), session.splits
    rate = jax.ShapeDtypeStruct((), jnp.float32)
    if key.loop != "dispatch":
        order = jax.ShapeDtypeStruct((session.train_examples,), jnp.int32)
        count = jax.ShapeDtypeStruct((), jnp.int32)
        return timed_loops.many_steps(learner, placement, key), (state, split, order, count, rate)
    chosen = _abstract(learner.chosen(np.zeros(key.batch_size, np.int32), 0))
    return partial(timed_loops.step, learner, placement, key), (state, split, chosen, rate)


def tier_calls(
    session: Session, tier: plan.Tier, lowering: str | None, over: LaneDevices = ONE_DEVICE
) -> Iterator[tuple[str, Call]]:
    """Yield the training program of all search lanes of a tier, and the one that evaluates them.

    Args:
        session: On a described machine.
        tier: Which lanes.
        lowering: How convolutions are computed.
        over: The described devices that share the lanes.
    """
    programs = replace(LanePrograms(session).of(tier, lowering), devices=over)
    grid = whole_search(session.experiment, tier)
    shape = over.even((len(grid.seeds), len(grid.settings)))
    yield "train", programs.training_call(shape)
    yield "evaluate", programs.evaluation_call(shape, programs.validation_split)


def abstract_state(learner: Learner) -> Any:  # noqa: ANN401 - a tree of shapes
    """Return shapes and types of parameters and optimizer state."""
    first = partial(learner.first_state, learning_rate=timed_loops.LEARNING_RATE)
    return jax.eval_shape(first, learner.abstract_params())


def _abstract(arrays: Any) -> Any:  # noqa: ANN401 - a tree of arrays
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), arrays)


def _zeros(spec: ArraySpec, count: int) -> np.ndarray:
    """Return zeros that share one element, so that a dataset of any size takes no memory."""
    return np.broadcast_to(np.zeros((), spec.dtype), (count, *spec.shape))
