"""Gradient noise: known values are recovered, every complete batch counts once, and training does not notice."""

import math

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import pytest
from batchscale.config.vocabulary import Point
from batchscale.measure.control.signals import Stopped
from batchscale.measure.convergence.lanes import Programs
from batchscale.measure.convergence.wave import Setting
from batchscale.measure.data import example_order
from batchscale.measure.data.datasets import Examples
from batchscale.measure.training import gradient_noise
from batchscale.measure.training.learner import Learner, take, task_named
from batchscale.measure.training.optimizers import optimizer_named
from batchscale.records.row_types import NoiseEstimate
from long_proofs import long_unless
from tiny_workload import (
    CONSTANT,
    SEEDS,
    Bench,
    assert_same,
    learner,
    programs,
    settings,
    train,
    train_alone,
    train_split,
)

STANDING = 1e-30
"""A learning rate that leaves the parameters where they are."""
MICROBATCH_SIZE, EXAMPLES = 4, 512
DEVIATIONS = np.linspace(0.2, 1.5, 24)
MEAN = 0.3 * np.sin(np.arange(24))


class Gaussian(Learner):
    """The loss |w - x|^2 / 2 at w = 0: each example's gradient is -x, so its moments are those of the examples."""

    def params(self, seed):
        return {"w": np.zeros(len(MEAN), np.float32)}

    def gradient(self, params, batch, keys=None):
        return jnp.float32(0), {"w": (params["w"] - batch.inputs.reshape(len(batch.inputs), -1)).mean(0)}


@pytest.fixture(scope="module")
def gaussian():
    """Sums over one epoch for 64 seeds at batch sizes 8 to 256, and the examples they were drawn from."""
    inputs = np.random.default_rng(5).normal(MEAN, DEVIATIONS, (EXAMPLES, len(MEAN))).astype(np.float32)
    split = Examples(jnp.asarray(inputs.reshape(EXAMPLES, 1, 1, -1)), jnp.zeros(EXAMPLES, jnp.int32))
    one = Gaussian(task_named("classification"), None, None, (), None, optimizer_named("sgd", {}), "float32")
    of = Programs(one, split, split, split, MICROBATCH_SIZE, CONSTANT, True, 64, 7)
    sizes = [8, 16, 32, 64, 128, 256]
    sums = train_on(of, range(64), settings(sizes, [STANDING] * len(sizes)), EXAMPLES).norms
    found, _ = gradient_noise.read(sums)
    return sizes, found / (EXAMPLES / np.array(sizes))[:, None], inputs.astype(np.float64)


def train_on(of, seeds, values, examples):
    lanes = of.initialise(np.asarray(seeds, np.int32), values)
    for first in range(0, examples // of.microbatch_size, of.ticks_per_call):
        start, count = first * of.microbatch_size, of.ticks_per_call * of.microbatch_size
        rows = [example_order.indices(seed, start, count, len(of.train_split.labels)) for seed in seeds]
        lanes = of.advance(lanes, values, np.stack(rows).reshape(len(seeds), -1, of.microbatch_size), first)
    return lanes


def agrees(samples, expected):
    """Check that the mean of independent samples is within four standard errors of the expected value."""
    error = np.std(samples, ddof=1) / math.sqrt(len(samples))
    assert abs(np.mean(samples) - expected) < 4 * error + 1e-6
    assert error < 0.2 * abs(expected) + 0.05


def test_known_covariance_and_mean_are_recovered_without_bias(gaussian):
    sizes, norms, inputs = gaussian
    trace = inputs.var(axis=0, ddof=1).sum()
    squared = (inputs.mean(axis=0) ** 2).sum() - trace / EXAMPLES
    for column, size in enumerate(sizes):
        found = [gradient_noise.ingredients(one[1], one[0], size // 2, size) for one in norms[:, column]]
        agrees([one.noise_trace for one in found], trace)
        agrees([one.gradient_squared for one in found], squared)
    assert trace == pytest.approx((DEVIATIONS**2).sum(), rel=0.2)


def test_the_variance_of_the_gradient_falls_as_one_over_the_batch_size(gaussian):
    """Up to the 1/N that drawing without replacement from N examples takes off."""
    sizes, norms, inputs = gaussian
    trace, mean = inputs.var(axis=0, ddof=1).sum(), (inputs.mean(axis=0) ** 2).sum()
    for column, size in enumerate(sizes):
        for part, examples in enumerate(gradient_noise.part_sizes(MICROBATCH_SIZE, size)):
            agrees(norms[:, column, part] - mean, trace * (1 / examples - 1 / EXAMPLES))
        assert not norms[:, column, len(gradient_noise.part_sizes(MICROBATCH_SIZE, size)) :].any()


@pytest.mark.parametrize(
    ("model", "optimizer", "lowering"),
    long_unless(
        [("linear", "lars", None)], [("mlp", "adam", None), ("linear", "lars", None), ("lenet", "momentum", "patches")]
    ),
)
def test_measuring_changes_no_bit_of_training(model, optimizer, lowering):
    one, values = learner(model, optimizer, lowering=lowering), settings([5, 10, 40], [0.01, 0.02, 0.03])
    without = train(programs(one, 5), SEEDS, values, 300)
    measured = train(programs(one, 5, noise_parts=4), SEEDS, values, 300)
    assert_same(measured[:2], without[:2])
    assert not without.norms
    assert np.asarray(measured.norms.complete)[:, 1:, :2].all()


def test_a_lane_sums_the_norms_of_the_run_alone():
    one, split = learner("mlp", "momentum"), train_split()
    gradient_of = jax.jit(one.gradient)
    lanes = train(programs(one, 5, noise_parts=4), SEEDS, settings([10, 20], [0.05, 0.02]), 130)
    found, rest = gradient_noise.read(lanes.norms)

    def squared(params, start, count):
        chosen = example_order.indices(SEEDS[1], start, count, len(split.labels))
        _, gradient = gradient_of(params, take(split, chosen))
        return sum(float(np.square(leaf).sum()) for leaf in jax.tree.leaves(gradient))

    params = {start: train_alone(one, SEEDS[1], 20, 0.02, start).params for start in range(0, 130, 20)}
    expected = [sum(squared(params[start], start, size) for start in range(0, 120, 20)) for size in (20, 10, 5)]
    np.testing.assert_allclose(found[1, 1], [*expected, 0.0], rtol=1e-4)
    assert float(rest.pending[1, 1, 1]) == pytest.approx(squared(params[120], 120, 10), rel=1e-4)
    assert not np.asarray(rest.complete).any()


CLAIMS = [Setting("confirm", size, Point(rate)) for size in (5, 10, 40, 250) for rate in (0.01, 0.05)]
"""Batches of 40 and 250 are incomplete at most evaluations; batches of 5 are microbatches."""


def noise_of(records):
    return {(record.setting, record.seed): msgspec.to_builtins(record.noise) for record in records}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("whole"), settings=CLAIMS, shapes=((2, 8), (2, 4), (2, 2))).run().records


def test_every_entry_ends_at_an_evaluation_with_new_updates(whole):
    for record in whole:
        if record.setting.batch_size == 5:
            assert record.noise is None
        else:
            assert record.noise.examples == record.curve.examples
            sizes = record.noise.part_sizes
            assert (
                sizes == {10: [10, 5], 40: [40, 20, 10, 5], 250: [250, 125, 60, 30, 15, 5]}[record.setting.batch_size]
            )
            assert [record.noise.big_batch_size, record.noise.small_batch_size] == sizes[:2]
            assert all(norm > 0 for norm in record.noise.squared_norms)


@pytest.mark.parametrize("stops", [pytest.param((1,), marks=pytest.mark.slow), (4, 5)])
def test_noise_survives_an_interruption_in_mid_batch_bit_for_bit(tmp_path, whole, stops):
    bench = Bench(tmp_path, settings=CLAIMS, shapes=((2, 8), (2, 4), (2, 2)))
    for stop in stops:
        with pytest.raises(Stopped):
            bench.run(stop_after=stop)
    assert noise_of(bench.run().records) == noise_of(whole)


@pytest.mark.slow
def test_neither_compaction_nor_shards_are_seen_beyond_rounding(tmp_path, whole):
    found = noise_of(Bench(tmp_path, settings=CLAIMS, shapes=((1, 4),), workers=2).run().records)
    for key, expected in noise_of(whole).items():
        if expected is not None:
            assert found[key]["noise_trace"] == pytest.approx(expected["noise_trace"], rel=1e-3)


def series(small=4, big=16):
    return gradient_noise.no_estimate(small, big)


def test_a_microbatch_that_is_the_batch_gives_no_estimate():
    assert series(16, 16) is None


@pytest.mark.parametrize("norm", [math.inf, math.nan, 1e32])
def test_a_norm_that_is_not_a_number_is_null_and_can_be_read_back(norm):
    one = gradient_noise.extended(series(), 16, np.array([1.0, norm, 3.0]), 1)
    one = gradient_noise.extended(one, 32, np.array([1.0, 2.0, 3.0]), 1)
    read = msgspec.json.decode(msgspec.json.encode(one), type=NoiseEstimate)
    assert read.examples == [16, 32]
    assert read.noise_trace[0] is read.gradient_squared[0] is None
    assert read.noise_trace[1] == pytest.approx(1 / (1 / 8 - 1 / 16))
    assert read.squared_norms == [1.0, None, 3.0]


def test_the_entries_of_a_run_add_up_to_the_run():
    """Both ingredients are linear in the norms: an entry counts by the batches it holds."""
    one, all_at_once = series(), series()
    sums = np.random.default_rng(1).uniform(1, 2, (3, 3))
    batches = np.array([1, 2, 5])
    for norms, count, seen in zip(sums, batches, batches.cumsum(), strict=True):
        one = gradient_noise.extended(one, 16 * int(seen), norms, int(count))
    all_at_once = gradient_noise.extended(all_at_once, 16 * 8, sums.sum(0), 8)
    assert one.squared_norms == pytest.approx(all_at_once.squared_norms)
    assert np.average(one.noise_trace, weights=batches) == pytest.approx(all_at_once.noise_trace[0])
    assert np.average(one.gradient_squared, weights=batches) == pytest.approx(all_at_once.gradient_squared[0])
