"""Several devices take the step that one takes, each its part of the work; proved on one CPU that poses as four."""

import json
import os
import subprocess
import sys

import pytest
from batchscale.config import plan
from batchscale.errors import InputError
from repository import ROOT
from tiny_workload import experiment

SUPPORT = ROOT / "tests" / "support"
pytestmark = pytest.mark.slow
WAYS = ("mlp-scan-device", "lenet-dispatch-device", "mlp-dispatch-host", "tiny_workload:Dropping-scan-device")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("four") / "results"
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "bench"), str(SUPPORT)]),
    }
    done = subprocess.run(
        [sys.executable, SUPPORT / "four_devices.py", folder],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_there_are_four_devices(found):
    assert found["devices"] == 4
    assert all(found["ways"][way]["alone"] for way in WAYS)


@pytest.mark.parametrize("devices", [2, 4])
@pytest.mark.parametrize("way", WAYS)
def test_a_sharded_step_is_the_step_of_one_device_to_rounding(found, way, devices):
    one = found["ways"][way][str(devices)]
    assert one["difference"] <= 1e-5 * one["magnitude"]
    assert (one["devices"], one["whole"]) == (devices, True)


@pytest.mark.parametrize("devices", [2, 4])
@pytest.mark.parametrize("way", WAYS)
def test_no_two_steps_are_in_flight_on_devices_that_share_threads(found, way, devices):
    """XLA ends the process where the parts of two steps wait for each other's threads."""
    assert found["ways"][way][str(devices)]["paced"]


def test_microbatches_shared_by_devices_are_the_whole_batch_to_rounding(found):
    assert found["accumulated"] <= 1e-5


@pytest.mark.parametrize("devices", [2, 4])
@pytest.mark.parametrize("way", WAYS)
def test_each_device_does_its_part_of_the_work(found, way, devices):
    """The arithmetic of a device's program falls with the number of devices, the update of all parameters apart."""
    assert 1 / devices <= found["ways"][way][str(devices)]["share"] <= 1 / devices + 0.25


def test_a_study_times_one_and_several_devices_and_trains_as_before(found):
    """6 and 50 on one device; 6, 12 and 50, 100 on two; 24 on four, which divide neither 6 nor 50."""
    assert found["study"]["cells"] == [[1, 6], [1, 50], [2, 6], [2, 12], [2, 50], [2, 100], [4, 24]]
    assert found["study"]["rounds"] == 5 * 7
    assert set(found["study"]["trials"]) == {"ok"}


def test_the_compiler_counts_a_program_of_one_device_by_its_part_of_the_batch(found):
    """Each device updates every parameter, so that an example costs a little more."""
    counted = found["study"]["flops_per_example"]
    assert counted["1"] <= counted["2"] <= 1.5 * counted["1"]


@pytest.mark.parametrize(("available", "counts"), [(1, []), (2, [2]), (3, [2]), (4, [2, 4]), (8, [2, 4, 8])])
def test_powers_of_two_of_the_devices_there_are(available, counts):
    assert plan.device_counts(experiment(), available) == counts


def test_asked_for_numbers_are_taken_or_refused_in_one_line():
    asked = experiment(throughput={"devices": [3, 1]})
    assert plan.device_counts(asked, 4) == [3]
    with pytest.raises(InputError, match=r"tiny: throughput.devices: 3, expected at most the 2 local devices"):
        plan.device_counts(asked, 2)


@pytest.mark.parametrize("devices", ["all", [], [0], 2])
def test_a_misspelt_number_of_devices_is_refused(devices):
    with pytest.raises(InputError, match=r"throughput\.devices"):
        experiment(throughput={"devices": devices})


def test_parts_are_equal_and_no_batch_is_above_the_training_set():
    keys = [key for key in plan.cells(experiment(), [6, 8, 50], [2, 4], 100) if key.devices > 1]
    assert {key.devices for key in keys} == {2, 4}
    assert all(key.batch_size % key.devices == 0 and key.batch_size <= 100 for key in keys)
    assert {key.batch_size for key in keys if key.devices == 4} == {8, 24, 32}
