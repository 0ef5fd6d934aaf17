"""The timed loops train: every loop and input does the steps it is asked for, on the batches of the stream."""

import jax
import numpy as np
import pytest
from workbench import assert_same, experiment, learner, train_split

from bench.measure import loops
from bench.measure.loops import LEARNING_RATE, CellKey, cell_keys

STEPS = 7


def trained(monkeypatch, key):
    """Parameters after some steps of a loop, read from the program it calls."""
    seen, call = [], jax.stages.Compiled.__call__

    def watched(*arguments):
        seen[:] = [call(*arguments)]
        return seen[0]

    monkeypatch.setattr(jax.stages.Compiled, "__call__", watched)
    work, _, seconds = loops.build(learner("mlp", "momentum"), train_split(), key)
    work(STEPS)
    assert seconds > 0
    return jax.tree.map(np.asarray, seen[0][0].params)


@pytest.mark.parametrize("key", [CellKey(8, "dispatch"), CellKey(8, "dispatch", "host"), CellKey(8, "scan")], ids=str)
def test_a_timed_loop_is_the_training_loop(monkeypatch, key):
    made, split = learner("mlp", "momentum"), train_split()
    state = made.first_state(made.params(0), LEARNING_RATE)
    for i in range(STEPS):
        chosen = loops.stream.indices(0, i * 8, 8, len(split.labels))
        state, _ = made.train_step(state, split.inputs[chosen], split.labels[chosen], LEARNING_RATE)
    assert_same(trained(monkeypatch, key), state.params, 1e-6)


def test_what_comes_from_host_memory_is_dispatched_only():
    asked = experiment(throughput={"inputs": ["device", "host"], "precisions": ["float32", "bfloat16"]})
    keys = cell_keys(asked, [4, 8])
    assert len(keys) == len(set(keys)) == 2 * 2 * (2 + 1)
    assert {key.loop for key in keys if key.input == "host"} == {"dispatch"}
