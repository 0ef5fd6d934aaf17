"""The timed loops train: every loop and input does the steps it is asked for, on the batches of the stream."""

import itertools
from functools import cache

import jax
import msgspec
import numpy as np
import pytest
from batchscale.config import plan
from batchscale.config.vocabulary import CellKey
from batchscale.measure.throughput import timed_loops
from batchscale.measure.throughput.timed_loops import LEARNING_RATE, Placement
from batchscale.measure.training.learner import take
from hypothesis import given
from hypothesis import strategies as st
from long_proofs import long_unless
from tiny_workload import assert_same, experiment, learner, train_split

STEPS = 7


def trained(monkeypatch, made, key):
    """Parameters after some steps of a loop, read from the program it calls."""
    seen, call = [], jax.stages.Compiled.__call__

    def watched(*arguments):
        seen[:] = [call(*arguments)]
        return seen[0]

    monkeypatch.setattr(jax.stages.Compiled, "__call__", watched)
    work, _, seconds = timed_loops.build(made, train_split(), key)
    work(STEPS)
    assert seconds > 0
    return jax.tree.map(np.asarray, seen[0][0].params)


KEYS = [CellKey(8, "dispatch"), CellKey(8, "dispatch", "host"), CellKey(8, "scan"), CellKey(8, "graph")]
IN_MICROBATCHES = [msgspec.structs.replace(key, accumulation=4) for key in KEYS]


QUICK = [("mlp", KEYS[0]), ("mlp", IN_MICROBATCHES[2])]
CASES = [(model, key) for model in ("mlp", "tiny_workload:Dropping") for key in (*KEYS, *IN_MICROBATCHES)]


@cache
def trained_plainly(made):
    """Parameters after as many steps, one after another."""
    split, train_step = train_split(), jax.jit(made.train_step)
    state = jax.jit(made.first_state)(made.params(0), LEARNING_RATE)
    for i in range(STEPS):
        indices = timed_loops.example_order.indices(0, i * 8, 8, len(split.labels))
        keys = made.keys(0, made.chosen(indices, i * 8).numbers)
        state, _ = train_step(state, take(split, indices), LEARNING_RATE, keys=keys)
    return state.params


@pytest.mark.parametrize(("model", "key"), long_unless(QUICK, CASES), ids=str)
def test_a_timed_loop_is_the_training_loop(monkeypatch, model, key):
    made = learner(model, "momentum")
    expected = trained_plainly(made)
    assert_same(trained(monkeypatch, made, key), expected, 1e-6)


@pytest.mark.parametrize("steps", [1, 5])
def test_no_batch_is_fetched_that_no_step_takes(monkeypatch, steps):
    fetched = []
    parts = Placement.parts
    monkeypatch.setattr(Placement, "parts", lambda self, array: fetched.append(len(array)) or parts(self, array))
    work, *_ = timed_loops.build(learner("linear", "momentum"), train_split(), CellKey(8, "dispatch", "host"))
    fetched.clear()
    work(steps)
    assert fetched == [8] * 2 * steps


def test_what_comes_from_host_memory_is_dispatched_only():
    asked = experiment(throughput={"inputs": ["device", "host"], "precisions": ["float32", "bfloat16"]})
    keys = plan.cells(asked, [4, 8], [], 100)
    assert len(keys) == len(set(keys)) == 2 * 2 * (2 + 1)
    assert {key.loop for key in keys if key.input == "host"} == {"dispatch"}


@pytest.mark.parametrize("optimizer", long_unless(["momentum"], ["sgd", "momentum"]))
def test_a_whole_training_set_in_microbatches_is_the_step_of_the_whole_batch(optimizer):
    made, split = learner("mlp", optimizer), train_split()
    state = jax.jit(made.first_state)(made.params(1), 0.1)
    whole, loss = jax.jit(made.train_step)(state, split, 0.1)

    def in_microbatches(state, split):
        pieces = jax.tree.map(lambda leaf: leaf.reshape(20, -1, *leaf.shape[1:]), split)
        mean_loss, gradient = made.accumulated_gradient(state.params, pieces, lambda piece: (piece, None))
        return made.apply(state, gradient, 0.1, len(split.labels)), mean_loss

    found, mean_loss = jax.jit(in_microbatches)(state, split)
    assert_same(found, whole, 1e-5)
    assert float(mean_loss) == pytest.approx(float(loss), rel=1e-6)


@given(st.integers(1, 60_000), st.sampled_from([1, 2, 8]))
def test_a_batch_is_cut_finer_and_finer_into_equal_pieces_down_to_an_example_for_each_device(share, devices):
    key, counts = CellKey(share * devices, "scan", devices=devices), [1]
    while (key := key.narrower()) is not None:
        counts.append(key.accumulation)
    assert counts[-1] == share
    assert all(share % count == 0 for count in counts)
    assert all(after >= 2 * before for before, after in itertools.pairwise(counts))
