"""Grids of trials cut to memory and cores: every lane has a place, and few places are filled for nothing."""

import math

import pytest

from bench.measure.shapes import shard_shape


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
