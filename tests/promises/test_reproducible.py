"""The same experiment gives the same curves: bit for bit on one CPU and version, within rounding on others."""

import jax
import numpy as np
import pytest
from long_proofs import long_unless
from tiny_workload import learner, programs, settings, train

EXAMPLES = 400
TOLERANCE = 1e-4
"""Relative, of validation losses after 400 examples, between versions of JAX and kinds of CPU."""
LOSSES = {
    "linear": [0.686274, 0.368666, 2.112362, 1.188282],
    "mlp": [1.727896, 1.028742, 2.337292, 1.953963],
    "lenet": [2.163078, 1.336717, 2.305701, 2.253594],
}
"""As JAX 0.10 and 0.12 had them on x86: batch sizes 10, 10, 50, 50 at rates 0.01 and 0.05."""


def losses(model):
    of = programs(learner(model, "momentum"), 5)
    lanes = train(of, [1], settings([10, 10, 50, 50], [0.01, 0.05, 0.01, 0.05]), EXAMPLES)
    return np.asarray(of.evaluate(lanes.state.params, of.validation_split)["loss"].mean[0])


@pytest.mark.parametrize("model", long_unless(["linear", "mlp"], LOSSES))
def test_losses_are_those_of_other_versions_within_the_stated_tolerance(model):
    np.testing.assert_allclose(losses(model), LOSSES[model], rtol=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("model", LOSSES)
def test_training_again_changes_no_bit_even_when_compiled_anew(model):
    before = losses(model)
    programs.cache_clear()
    jax.clear_caches()
    np.testing.assert_array_equal(losses(model), before)
