"""Exactness and memory of lanes of transformers and residual networks, as `test_lanes` proves them for small models."""

import math

import pytest
from batchscale.measure.device.compiled_programs import predicted_bytes
from batchscale.measure.training.optimizers import Schedule
from tiny_workload import assert_same, lane, learner, programs, settings, train, train_alone

pytestmark = pytest.mark.slow
BATCH_SIZES = (5, 35)
EXAMPLES = 210
MODELS = {"decoder": None, "resnet": "patches", "vit": None}
"""Models, and the lowering of their convolutions that lanes use on a CPU."""
RATE = {"adamw": 0.003, "lamb": 0.01}
EPS = (("eps", 1e-3),)
"""Some biases, as of the keys of attention, have no gradient but rounding. The usual 1e-8 would make steps of it."""
SCHEDULE = Schedule("warmup_cosine", 100.0, 600.0)
SUMMATION = 2e-5
"""Float32 sums in another order: at most this share of a leaf's largest magnitude after 6 to 42 updates."""
EVERY = ("decoder", "adamw")


def learner_of(model, optimizer):
    return learner(model, optimizer, lowering=MODELS[model], optimizer_options=EPS)


@pytest.mark.parametrize("optimizer", RATE)
@pytest.mark.parametrize("model", MODELS)
def test_a_lane_is_the_run_alone_at_awkward_batch_sizes_under_a_schedule(model, optimizer):
    one, rate = learner_of(model, optimizer), RATE[optimizer]
    lanes = train(programs(one, 5, SCHEDULE), [1], settings(BATCH_SIZES, [rate] * len(BATCH_SIZES)), EXAMPLES)
    # Each run alone compiles a step for seconds, so only one case trains every batch size alone.
    for column in range(len(BATCH_SIZES)) if (model, optimizer) == EVERY else [-1]:
        alone = train_alone(one, 1, BATCH_SIZES[column], rate, EXAMPLES, SCHEDULE)
        assert_same(lane(lanes.state.params, 0, column), alone.params, SUMMATION)
        with pytest.raises(AssertionError):
            assert_same(alone.params, one.params(1), 10 * SUMMATION)


def test_the_shape_of_a_shard_is_not_seen_in_the_lanes_of_a_decoder():
    """Settings of a program call and microbatches, which a trial of speed chooses, change rounding alone."""
    one, batch_size, rate = learner_of(*EVERY), BATCH_SIZES[-1], RATE["adamw"]
    lanes = train(programs(one, batch_size, SCHEDULE, accumulates=False), [1], settings([batch_size], [rate]), EXAMPLES)
    alone = train_alone(one, 1, batch_size, rate, EXAMPLES, SCHEDULE)
    assert_same(lane(lanes.state.params, 0, 0), alone.params, SUMMATION)


@pytest.mark.parametrize("model", MODELS)
def test_lanes_at_once_are_bounded_by_what_the_programs_of_every_model_need(model):
    shape, of = (1, len(BATCH_SIZES)), programs(learner_of(model, "adamw"), 5, SCHEDULE)
    needed = max(map(predicted_bytes, (of.program(shape), of.evaluation(shape, of.validation_split))))
    assert needed > math.prod(shape) * of.lane_bytes
    assert of.fit(shape, needed) == shape
    assert of.fit(shape, needed - 1) == (1, 1)
    assert of.fit(shape, needed + 3 * of.lane_bytes, lanes=5) == shape
    assert of.fit(shape, needed + 3 * of.lane_bytes - 1, lanes=5) == (1, 1)


def test_recomputed_activations_let_more_lanes_of_a_decoder_fit():
    deep = [learner("decoder", "adamw", model_options=(("depth", 2), ("remat", remat))) for remat in (False, True)]
    kept, recomputed = (predicted_bytes(programs(one, 50).program((1, 2))) for one in deep)
    assert recomputed < 0.9 * kept
