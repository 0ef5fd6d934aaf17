"""Lanes shared by several devices: equal parts, no collective operation, and the rows that one device gives."""

import json
import math
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import subprocess_study
from batchscale.measure.convergence.lane_devices import LaneDevices
from batchscale.measure.convergence.wave import shard_shape
from hypothesis import given
from hypothesis import strategies as st
from long_proofs import with_quick_flags
from repository import ROOT
from tiny_workload import trials

SUPPORT = ROOT / "tests" / "support"
COUNTS = st.sampled_from([1, 2, 3, 4, 8])
LENGTHS = st.integers(1, 40)


@given(COUNTS, LENGTHS, LENGTHS)
def test_every_device_has_an_equal_part_and_no_smaller_shape_would_do(count, seeds, settings):
    devices = LaneDevices(count)
    rows, columns = devices.even((seeds, settings))
    assert rows >= seeds
    assert columns >= settings
    assert devices.even((rows, columns)) == (rows, columns)
    assert math.prod(devices._mesh_shape((rows, columns))) == count
    along_settings = seeds * math.ceil(settings / count) * count
    along_seeds = math.ceil(seeds / count) * count * settings
    assert seeds * settings <= rows * columns <= min(along_settings, along_seeds)


@given(COUNTS, LENGTHS, LENGTHS, st.integers(1, 4), st.one_of(st.none(), st.integers(1, 9)))
def test_shards_are_shared_evenly_and_no_device_holds_more_settings_than_it_may(count, seeds, settings, workers, width):
    devices = LaneDevices(count)
    shape = shard_shape(seeds, settings, workers, width, devices)
    assert devices.even(shape) == shape
    assert width is None or shape[1] // count <= width


def run(devices, folder, *saves, model="lenet"):
    """Run the study in a child process; those in neighbouring folders share compiled programs."""
    flags = with_quick_flags(f"--xla_force_host_platform_device_count={devices}")
    virtual = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    environment = subprocess_study.environment(folder.parent) | virtual
    line = [sys.executable, SUPPORT / "lanes_over_devices.py", folder, model, *saves]
    return subprocess.run(line, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """A study on 1, 2 and 4 devices, and one that is killed on 4 and resumed on 2."""
    found, workplace = {}, tmp_path_factory.mktemp("devices")
    for devices in (1, 2, 4):
        folder = workplace / str(devices)
        done = run(devices, folder)
        assert done.returncode == 0, done.stderr
        found[devices] = json.loads(done.stdout.splitlines()[-1]) | {"folder": str(folder)}
    folder = workplace / "killed"
    killed = run(4, folder, "3")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (folder / "checkpoint").exists()
    done = run(2, folder)
    assert done.returncode == 0, done.stderr
    return {**found, "killed": json.loads(done.stdout.splitlines()[-1]) | {"folder": str(folder)}}


def rows_of(study):
    found = trials(Path(study["folder"]))
    return {key: {name: row[name] for name in row if name not in ("lanes", "devices")} for key, row in found.items()}


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 4])
def test_devices_share_the_lanes_and_wait_for_nothing(studies, devices):
    one = studies[devices]
    assert (one["devices"], one["split"]) == (devices, devices)
    assert one["collectives"] == []
    assert all(math.prod(shape) % devices == 0 for shape in one["shapes"])
    assert {row.get("devices", 1) for row in trials(Path(one["folder"])).values()} == {devices}


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 4])
def test_several_devices_give_the_rows_of_one_to_rounding(studies, devices):
    """Shards of other widths may round otherwise, which tips an example of the validation split at most."""
    found, expected = rows_of(studies[devices]), rows_of(studies[1])
    assert found.keys() == expected.keys()
    for key, row in found.items():
        other = expected[key]
        assert (row["status"], row["curve"]["examples"]) == (other["status"], other["curve"]["examples"])
        for name in ("loss", "accuracy"):
            one, two = (np.array(each["curve"]["scores"][name]) for each in (row, other))
            np.testing.assert_allclose(one, two, atol=1.01 / 60 if name == "accuracy" else 1e-4, rtol=1e-4)


@pytest.mark.slow
def test_several_devices_draw_what_one_draws(tmp_path):
    found = {}
    for devices in (1, 4):
        done = run(devices, tmp_path / str(devices), model="tiny_workload:Dropping")
        assert done.returncode == 0, done.stderr
        found[devices] = rows_of({"folder": str(tmp_path / str(devices))})
    assert found[1].keys() == found[4].keys()
    for key, row in found[4].items():
        one, two = (each["curve"]["scores"]["loss"] for each in (row, found[1][key]))
        np.testing.assert_allclose(one, two, rtol=1e-4)


@pytest.mark.slow
def test_a_run_killed_on_four_devices_continues_on_two(studies):
    """Both have the same width on each device, so that even the bits agree."""
    assert studies["killed"]["devices"] == 2
    assert rows_of(studies["killed"]) == rows_of(studies[4])
