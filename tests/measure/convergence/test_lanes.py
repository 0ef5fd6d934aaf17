"""Exactness: a lane is the same run as training alone, whatever shares its program."""

import jax
import numpy as np
import pytest
from batchscale.measure.device.compiled_programs import predicted_bytes
from batchscale.measure.training.optimizers import OPTIMIZERS, Schedule, searchable, usual_options
from long_proofs import long_unless
from tiny_workload import CONSTANT, TRAIN_EXAMPLES, assert_same, lane, learner, programs, settings, train, train_alone

SUMMATION = 1e-5
"""Float32 sums in another order: at most this share of a leaf's largest magnitude after 10 to 200 updates."""
AWKWARD = (5, 10, 20, 50, TRAIN_EXAMPLES)
RATE = {"adam": 0.01, "adamw": 0.01, "rmsprop": 0.003, "rprop": 0.003, "lamb": 0.01, "lars": 5.0}


KINDS = ("sgd", "momentum", "adamw", "rprop", "lamb")
"""One optimizer of each kind: the others keep the same sort of state, and are trained among the long proofs."""


@pytest.mark.parametrize("optimizer", long_unless(KINDS, OPTIMIZERS))
def test_a_lane_is_the_run_alone_under_every_optimizer(optimizer):
    one, rate = learner("linear", optimizer), RATE.get(optimizer, 0.05)
    lanes = train(programs(one, 10), [3, 4], settings([10, 20], [rate, 2 * rate]), 600)
    for row, seed in enumerate([3, 4]):
        alone = train_alone(one, seed, 20, 2 * rate, 600)
        assert_same(lane(lanes.state, row, 1), alone, SUMMATION)
        with pytest.raises(AssertionError):
            assert_same(alone.params, one.params(seed), 100 * SUMMATION)


OPTIONS = {
    "b1": 0.7,
    "b2": 0.95,
    "decay": 0.8,
    "eps": 1e-3,
    "eps_root": 1e-4,
    "eta_minus": 0.4,
    "eta_plus": 1.3,
    "initial_scale": 0.1,
    "max_step_size": 0.01,
    "min_step_size": 1e-3,
    "momentum": 0.6,
    "trust_coefficient": 0.003,
    "weight_decay": 0.05,
}
"""Far from the defaults of optax."""
OFTEN_SEARCHED = [("momentum", ("momentum",)), ("adamw", ("weight_decay",))]
SEARCHABLE = [(name, tuple(sorted(searchable(name)))) for name in OPTIMIZERS if searchable(name)]


@pytest.mark.usefixtures("unoptimized")
@pytest.mark.parametrize(("optimizer", "options"), long_unless(OFTEN_SEARCHED, [*OFTEN_SEARCHED, *SEARCHABLE]))
def test_a_lane_with_its_own_option_is_the_run_alone_with_it(optimizer, options):
    one, rate = learner("linear", optimizer, searched=options), RATE.get(optimizer, 0.05)
    usual = dict(usual_options(optimizer, options))
    lanes_of = [usual, *({**usual, option: OPTIONS[option]} for option in options)]
    values = {option: [lane_options[option] for lane_options in lanes_of] for option in options}
    width = len(lanes_of)
    lanes = train(programs(one, 10), [3], settings([20] * width, [rate] * width, **values), 600)
    without = train_alone(learner("linear", optimizer), 3, 20, rate, 600)
    assert_same(lane(lanes.state.params, 0, 0), without.params, SUMMATION)
    for column, option in enumerate(options, 1):
        with_value = learner("linear", optimizer, optimizer_options=((option, OPTIONS[option]),))
        alone = train_alone(with_value, 3, 20, rate, 600)
        assert_same(lane(lanes.state.params, 0, column), alone.params, SUMMATION)
        with pytest.raises(AssertionError):
            assert_same(without.params, alone.params, 10 * SUMMATION)


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "decay"), long_unless([("adam", "b2")], [("adam", "b2"), ("rmsprop", "decay")]))
def test_a_decay_that_depends_on_the_batch_size_is_the_decay_of_the_run_alone(optimizer, decay):
    one = learner("linear", optimizer, optimizer_options=((f"{decay}_batch_size", 50.0), (decay, 0.8)))
    lanes = train(programs(one, 10), [3], settings([10, 20, 100], [0.01] * 3), 600)
    for column, batch_size in enumerate([10, 20, 100]):
        alone = learner("linear", optimizer, optimizer_options=((decay, 0.8 ** (batch_size / 50)),))
        assert_same(lane(lanes.state, 0, column), train_alone(alone, 3, batch_size, 0.01, 600), SUMMATION)


def test_batch_sizes_that_no_power_of_two_divides_are_exact_in_one_program():
    one = learner("mlp", "momentum")
    lanes = train(programs(one, 5), [1], settings(AWKWARD, [0.02] * len(AWKWARD)), 1000)
    for column, batch_size in enumerate(AWKWARD):
        assert_same(lane(lanes.state, 0, column), train_alone(one, 1, batch_size, 0.02, 1000), SUMMATION)


@pytest.mark.slow
def test_convolutions_train_as_alone_with_another_lowering():
    lanes = train(
        programs(learner("lenet", "momentum", lowering="patches"), 10), [2], settings([10, 50], [0.1, 0.1]), 500
    )
    alone = train_alone(learner("lenet", "momentum", lowering="xla"), 2, 50, 0.1, 500)
    assert_same(lane(lanes.state, 0, 1), alone, SUMMATION)


@pytest.mark.parametrize("name", long_unless(["warmup_cosine"], ["warmup", "warmup_cosine", "linear_decay"]))
def test_a_schedule_moves_a_lane_as_it_moves_the_run_alone(name):
    one, schedule = learner("linear", "sgd"), Schedule(name, 120.0, 600.0)
    lanes = train(programs(one, 5, schedule), [1], settings([5, 50], [0.1, 0.1]), 600)
    for column, batch_size in enumerate([5, 50]):
        assert_same(lane(lanes.state, 0, column), train_alone(one, 1, batch_size, 0.1, 600, schedule), SUMMATION)


def test_the_microbatch_is_not_seen_in_the_result():
    one, schedule = learner("linear", "momentum"), Schedule("warmup_cosine", 100.0, 600.0)
    values = settings([100, 50], [0.1, 0.1])
    finest = train(programs(one, 5, schedule), [1], values, 600)
    for microbatch_size in (10, 50):
        assert_same(train(programs(one, microbatch_size, schedule), [1], values, 600).state, finest.state, SUMMATION)


@pytest.mark.slow
def test_a_tier_of_one_batch_size_needs_no_accumulator_and_gives_the_same():
    one, values = learner("linear", "momentum"), settings([20, 20], [0.1, 0.02])
    direct = train(programs(one, 20, accumulates=False), [1], values, 600)
    assert direct.gradient == ()
    assert_same(direct.state, train(programs(one, 20), [1], values, 600).state, SUMMATION)


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "tolerance"), [("momentum", 1e-6), ("adam", 1e-4)])
def test_selecting_what_is_due_gives_the_numbers_of_a_conditional(optimizer, tolerance):
    """To rounding, which Adam's quotient of small numbers makes larger; its rates must be small, or chaos does too."""
    options, scale = ((("eps", 1e-3),), 0.05) if optimizer == "adam" else ((), 1.0)
    values = settings([10, 20, 40, 50], [scale * rate for rate in (0.1, 0.02, 0.05, 0.01)])
    chosen = programs(learner("mlp", optimizer, optimizer_options=options), 5, noise_parts=3, selected_numbers=1 << 20)
    skipped = programs(learner("mlp", optimizer, optimizer_options=options), 5, noise_parts=3)
    assert_same(train(chosen, [1, 2], values, 600), train(skipped, [1, 2], values, 600), tolerance)
    texts = [of.program((2, 4)).as_text() or "" for of in (chosen, skipped)]
    assert [" conditional(" in text for text in texts] == [False, True]


def test_chunking_changes_no_bit():
    one, values = learner("linear", "momentum"), settings([5, 50], [0.1, 0.1])
    whole = train(programs(one, 5, CONSTANT, 50), [1, 2], values, 600)
    chunked = train(programs(one, 5, CONSTANT, 7), [1, 2], values, 600)
    assert_same(chunked, whole)


def test_the_order_of_lanes_and_their_neighbours_change_no_bit():
    one = learner("linear", "momentum")
    of = programs(one, 5)
    values = settings([5, 50, 20], [0.1, 0.02, 0.3])
    turned = settings([20, 5, 50], [0.3, 0.1, 0.02])
    there, here = train(of, [1, 2], values, 600), train(of, [2, 1], turned, 600)
    for row in range(2):
        for column in range(3):
            assert_same(lane(here, 1 - row, (column + 1) % 3), lane(there, row, column))


def test_lanes_of_an_incomplete_batch_wait_for_it():
    one = learner("linear", "sgd")
    lanes = train(programs(one, 5), [1], settings([20, 100], [0.1, 0.1]), 110)
    assert_same(lane(lanes.state, 0, 0), train_alone(one, 1, 20, 0.1, 100), SUMMATION)
    assert_same(lane(lanes.state, 0, 1), train_alone(one, 1, 100, 0.1, 100), SUMMATION)
    assert any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(lane(lanes.gradient, 0, 1)))


def test_a_lane_with_next_to_no_rate_stays_where_it_began():
    one = learner("linear", "sgd")
    lanes = train(programs(one, 5), [1], settings([5, 20], [1e-30, 0.1]), 600)
    assert_same(lane(lanes.state.params, 0, 0), one.params(1), 1e-20)


def test_a_lane_that_leaves_the_numbers_disturbs_no_neighbour():
    one = learner("linear", "sgd")
    of = programs(one, 5)
    calm = train(of, [1], settings([5, 20], [0.1, 0.1]), 600)
    wild = train(of, [1], settings([5, 20], [3e38, 0.1]), 600)
    assert not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(lane(wild.state.params, 0, 0)))
    assert_same(lane(wild, 0, 1), lane(calm, 0, 1))


def test_evaluation_counts_the_whole_split_in_chunks_of_any_size():
    one = learner("linear", "sgd")
    of = programs(one, 5)
    lanes = train(of, [1, 2], settings([5, 20], [0.1, 0.1]), 300)
    found = of.evaluate(lanes.state.params, of.validation_split)
    assert found.keys() == {"accuracy", "loss"}
    for row, column in np.ndindex(2, 2):
        scores = one.scores(lane(lanes.state.params, row, column), of.validation_split)
        for name, each in scores.items():
            assert found[name].mean[row, column] == pytest.approx(float(np.mean(each)), rel=1e-5)
            assert found[name].deviation[row, column] == pytest.approx(float(np.std(each)), rel=1e-4)
    in_chunks = programs(one, 5, evaluation_batch_size=17).evaluate(lanes.state.params, of.validation_split)
    np.testing.assert_array_equal(in_chunks["accuracy"].mean, found["accuracy"].mean)
    np.testing.assert_allclose(in_chunks["loss"].mean, found["loss"].mean, rtol=1e-6)


@pytest.mark.slow
def test_programs_are_compiled_once_for_a_shape_and_cut_down_to_memory(monkeypatch):
    of = programs(learner("linear", "sgd"), 20)
    before = of.compilations
    train(of, [1], settings([20], [0.1]), 40)
    train(of, [2], settings([40], [0.2]), 40)
    assert of.compilations - before <= 1
    assert of.fit((1, 4), 1 << 40) == (1, 4)
    assert of.fit((2, 4), 0) == (1, 1)
    alone, others = predicted_bytes(of.program((1, 4))), 3 * of.lane_bytes
    assert of.fit((1, 4), alone, lanes=4) == (1, 4)
    assert of.fit((1, 4), alone + others - 1, lanes=7) < of.fit((1, 4), alone + others, lanes=7) == (1, 4)
    evaluation = of.evaluation((1, 4), of.validation_split)
    monkeypatch.setattr(
        "batchscale.measure.convergence.lanes.predicted_bytes", lambda program: 100 if program is evaluation else 1
    )
    assert of.fit((1, 4), 100) == (1, 4)
    assert of.fit((1, 4), 99) == (1, 2)
