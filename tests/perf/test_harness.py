"""What the throughput stage reports against a loop written by hand around the same step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from statistics import median

import jax
import jax.numpy as jnp
import msgspec
from batchscale.config.vocabulary import CellKey
from batchscale.measure.data import example_order
from batchscale.measure.data.datasets import Examples
from batchscale.measure.device.compiled_programs import Work, timed
from batchscale.measure.device.sensors import NONE
from batchscale.measure.session import Session
from batchscale.measure.throughput import rounds
from batchscale.measure.throughput.timed_loops import BATCHES_AT_HAND, LEARNING_RATE
from batchscale.measure.throughput.timing import Timing
from batchscale.measure.training.learner import Learner, take
from batchscale.records.row_types import AnyRow, Round

PAIRS = 400
ROUND_SECONDS = 0.02
"""Many short rounds: what else the machine does moves a pair by a tenth, and as many longer ones take minutes."""
BATCH_SIZES = (1, 64)


def test_harness_overhead(benchmark, session, record):
    pairs = benchmark.pedantic(lambda: {size: seconds_in_pairs(session, size) for size in BATCH_SIZES}, rounds=1)
    by_size = {f"B={size}": median(one / other for one, other in found) for size, found in pairs.items()}
    record("harness_overhead", max(by_size.values(), key=lambda ratio: abs(ratio - 1)), by_size)


def seconds_in_pairs(session: Session, batch_size: int) -> list[tuple[float, float]]:
    """Seconds of each reported round, and of the loop by hand for as many steps right after it."""
    learner = session.learner("float32", "xla")
    hand, pairs = by_hand(learner, session.splits[0], batch_size), []
    hand(1)

    def append(row: AnyRow) -> None:
        if isinstance(row, Round):
            pairs.append((row.seconds, timed(hand, row.steps)))

    key = CellKey(batch_size, "dispatch")
    rounds.measure(timing(session, append), [key])
    return pairs


def timing(session: Session, append: Callable[[AnyRow], None]) -> Timing:
    session.progress.plan("timing", len(BATCH_SIZES), 1.0)
    table = msgspec.structs.replace(session.experiment.throughput, rounds=PAIRS, round_seconds=ROUND_SECONDS)
    made = Timing(replace(session, experiment=msgspec.structs.replace(session.experiment, throughput=table)), append)
    made.sensors, made.lowerings = (lambda devices: NONE), {(BATCH_SIZES[0], "float32"): "xla"}
    return made


def by_hand(learner: Learner, split: Examples, batch_size: int) -> Work:
    """A training loop as a user would write it, over the batches that the stage cycles through."""
    examples, rate = len(split.labels), jnp.float32(LEARNING_RATE)
    count = min(BATCHES_AT_HAND, examples // batch_size)
    batches = [jnp.asarray(example_order.indices(0, i * batch_size, batch_size, examples)) for i in range(count)]
    state = learner.first_state(jax.device_put(learner.params(0)), LEARNING_RATE)

    @partial(jax.jit, donate_argnums=0)
    def step(state, split, chosen, rate):
        return learner.train_step(state, take(split, chosen), rate)

    def work(steps: int) -> None:
        nonlocal state
        for i in range(steps):
            state, _ = step(state, split, batches[i % count], rate)
        jax.block_until_ready(state)

    return work
