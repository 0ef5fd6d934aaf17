"""Waves: grids are cut to memory and cores, layouts hold every trial once, and compaction loses none."""

import math

import jax
import numpy as np
import pytest
from batchscale.config.vocabulary import Point
from batchscale.measure.convergence import wave
from batchscale.measure.convergence.lanes import Lanes, Moments, Programs
from batchscale.measure.convergence.wave import (
    SHARE_OF_LANES,
    SHARE_OF_MEMORY,
    Grid,
    LaneRecord,
    Reading,
    Setting,
    fitting_shape,
    shard_shape,
    steady_bytes,
)
from batchscale.measure.training.learner import TrainState
from hypothesis import given
from hypothesis import strategies as st
from tiny_workload import DURATION, RACE, SEEDS, Bench, assert_same, grid_of, lane, learner, programs


def placed(shards):
    """Record numbers by shard, row and column."""
    return {
        number: (shard, row, column)
        for shard, one in enumerate(shards)
        for row, line in enumerate(one.layout.numbers)
        for column, number in enumerate(line)
        if number is not None
    }


def made(folder, shape):
    return Bench(folder, shapes=(shape,)).fresh()


@given(seeds=st.integers(1, 5), settings=st.integers(1, 9), rows=st.integers(1, 4), columns=st.integers(1, 7))
def test_every_trial_has_one_place_and_shards_are_full(seeds, settings, rows, columns):
    some = [Setting("search", 10, Point(0.01 * (number + 1))) for number in range(settings)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wave, "first_lanes", lambda *_: Lanes(TrainState((), ()), ()))
        of = programs(learner("linear", "momentum"), 5)
        found = wave.start(of, DURATION, RACE, Grid(list(range(seeds)), some), [(rows, columns)])
    where = placed(found.shards)
    assert sorted(where) == list(range(seeds * settings))
    for number, (shard, row, column) in where.items():
        layout = found.shards[shard].layout
        assert layout.seeds[row] == found.records[number].seed
        assert layout.settings[column] == found.records[number].setting
    assert all(shard.layout.size == rows * columns for shard in found.shards)


def test_compaction_moves_living_lanes_and_leaves_their_numbers(tmp_path):
    one = made(tmp_path, (2, 6))
    (shard,) = one.shards
    for number, record in enumerate(one.records):
        if number not in (1, 9):
            record.finish("stopped", "to make room")
    before = {number: lane(shard.lanes, *placed([shard])[number][1:]) for number in (1, 9)}
    shard.compact(one.records, [(2, 6), (2, 3), (2, 2)])
    assert (len(shard.layout.seeds), len(shard.layout.settings)) == (2, 2)
    assert jax.tree.leaves(shard.lanes)[0].shape[:2] == (2, 2)
    assert set(placed([shard])) == {1, 9}
    for number, (_, row, column) in placed([shard]).items():
        assert_same(lane(shard.lanes, row, column), before[number])
        assert shard.layout.seeds[row] == one.records[number].seed
        assert shard.layout.settings[column] == one.records[number].setting


def test_no_compaction_where_little_would_be_won_or_nothing_lives(tmp_path):
    one = made(tmp_path, (2, 6))
    (shard,) = one.shards
    one.records[0].finish("ok")
    shard.compact(one.records, [(2, 6), (2, 3)])
    assert shard.layout.size == 12
    for record in one.records:
        record.finish("ok")
    shard.compact(one.records, [(2, 6), (1, 1)])
    assert shard.layout.size == 12
    assert one.alive() == 0


def test_device_settings_are_the_settings():
    found = wave.device_settings(grid_of())
    np.testing.assert_array_equal(found.batch_sizes, [one.batch_size for one in grid_of()])
    np.testing.assert_allclose(found.learning_rates, [one.point.learning_rate for one in grid_of()], rtol=1e-6)


def test_an_evaluation_without_a_new_update_is_not_recorded():
    record = LaneRecord(setting=Setting("search", 250, Point(0.1)), seed=1)
    for examples in (100, 200, 300, 400, 500):
        record.record(examples, Reading({"loss": Moments(1.0, 0.5)}))
    assert record.curve.examples == [250, 500]
    assert record.steps == 2


def test_the_first_verdict_stands():
    record = LaneRecord(setting=grid_of()[0], seed=SEEDS[0])
    record.finish("stopped", "slower")
    record.finish("ok")
    assert (record.status, record.reason) == ("stopped", "slower")


MEMORY_BYTES = 1 << 20
LANES_HELD = 50


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
@pytest.mark.parametrize("settings", [1, 2, 7, 30])
@pytest.mark.parametrize("workers", [1, 2, 8])
@pytest.mark.parametrize("width", [1, 5, 40])
def test_shards_hold_every_lane_and_few_that_only_fill(seeds, settings, workers, width):
    rows, columns = shard_shape(seeds, settings, workers, width)
    shards = math.ceil(seeds / rows) * math.ceil(settings / columns)
    assert rows == 1
    assert columns <= width
    assert 0 <= shards * rows * columns - seeds * settings < shards
    assert columns == 1 or shards >= workers, "no worker waits while others hold several settings each"


def test_without_a_width_one_shard_holds_every_lane():
    assert shard_shape(3, 7, 1, None) == (3, 7)


@pytest.fixture
def small_device(monkeypatch):
    """Programs of a device that holds `LANES_HELD` lanes; every shape fits."""
    lane_bytes = int(MEMORY_BYTES * SHARE_OF_MEMORY * SHARE_OF_LANES / LANES_HELD)
    monkeypatch.setattr(Programs, "lane_bytes", lane_bytes)
    monkeypatch.setattr(Programs, "fit", lambda _, shape, *given: shape)
    return object.__new__(Programs)


def grid(seeds, settings):
    return Grid(range(seeds), [Setting("search", size + 1, Point(0.1)) for size in range(settings)])


@pytest.mark.parametrize(("seeds", "settings"), [(1, 1), (1, 200), (3, 40), (60, 2), (7, 30)])
def test_waves_hold_every_trial_once_and_no_more_than_memory(small_device, seeds, settings):
    found = [set(part.trials) for part in wave.waves(small_device, grid(seeds, settings), MEMORY_BYTES)]
    assert max(map(len, found)) <= LANES_HELD
    assert sum(map(len, found)) == len(set.union(*found)) == seeds * settings


@pytest.mark.parametrize("workers", [1, 2])
def test_a_shape_is_cut_from_a_wave_and_has_a_share_of_memory_next_to_the_lanes_of_its_worker(
    small_device, monkeypatch, workers
):
    asked = []
    monkeypatch.setattr(Programs, "fit", lambda _, *given: asked.append(given) or given[0])
    fitting_shape(small_device, grid(2, 100), MEMORY_BYTES, workers, 5)
    ((shape, bytes_, lanes),) = asked
    assert shape == shard_shape(2, LANES_HELD // 2, workers, 5)
    assert bytes_ == int(MEMORY_BYTES * SHARE_OF_MEMORY / workers)
    assert lanes == LANES_HELD // workers


def test_a_little_more_or_less_free_memory_counts_as_the_same():
    assert steady_bytes(18 << 30) == steady_bytes(30 << 30) == 16 << 30
    assert [steady_bytes(free) for free in (0, 1, 2, 3)] == [0, 1, 2, 2]
