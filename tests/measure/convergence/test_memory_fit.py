"""Grids of trials cut to memory and cores: every lane has a place, and few places are filled for nothing."""

import math
from itertools import product

import pytest
from batchscale.config.vocabulary import Point
from batchscale.measure.convergence.lanes import Programs
from batchscale.measure.convergence.memory_fit import (
    LARGEST_SHARE_OF_MEMORY,
    SHARE_OF_LANES,
    fitting_shape,
    portions,
    shard_shape,
    steady_bytes,
)
from batchscale.measure.convergence.wave import Setting

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
    assert columns == 1 or shards >= workers, "none waits while others hold several settings each"


def test_without_a_width_one_shard_holds_every_lane():
    assert shard_shape(3, 7, 1, None) == (3, 7)


@pytest.fixture
def programs(monkeypatch):
    """Of a device that holds `LANES_HELD` lanes; `fit` gives back what it was asked."""
    lane_bytes = int(MEMORY_BYTES * LARGEST_SHARE_OF_MEMORY * SHARE_OF_LANES / LANES_HELD)
    monkeypatch.setattr(Programs, "lane_bytes", lane_bytes)
    monkeypatch.setattr(Programs, "fit", lambda _, *asked: asked)
    return object.__new__(Programs)


def grid(seeds, settings):
    return range(seeds), [Setting("search", size + 1, Point(0.1)) for size in range(settings)]


@pytest.mark.parametrize(("seeds", "settings"), [(1, 1), (1, 200), (3, 40), (60, 2), (7, 30)])
def test_waves_hold_every_trial_once_and_no_more_than_memory(programs, seeds, settings):
    waves = [set(product(*some)) for some in portions(programs, grid(seeds, settings), MEMORY_BYTES)]
    assert max(map(len, waves)) <= LANES_HELD
    assert sum(map(len, waves)) == len(set.union(*waves)) == seeds * settings


@pytest.mark.parametrize("workers", [1, 2])
def test_a_shape_is_that_of_a_wave_and_has_a_share_of_memory_beside_the_lanes_of_its_worker(programs, workers):
    shape, bytes_, lanes = fitting_shape(programs, grid(2, 100), MEMORY_BYTES, workers, 5)
    assert shape == shard_shape(2, LANES_HELD // 2, workers, 5)
    assert bytes_ == int(MEMORY_BYTES * LARGEST_SHARE_OF_MEMORY / workers)
    assert lanes == LANES_HELD // workers


def test_a_little_more_or_less_free_memory_is_reckoned_as_the_same():
    assert steady_bytes(18 << 30) == steady_bytes(30 << 30) == 16 << 30
    assert [steady_bytes(free) for free in (0, 1, 2, 3)] == [0, 1, 2, 2]
