"""Sensors on pretended kernels and drivers: right where they tell, absent where they do not, never made up."""

import os
import sys
from types import ModuleType, SimpleNamespace

import pytest
from batchscale.measure.device import sensors
from batchscale.measure.device.sensors import NONE, Counter, Sensed, Sensors, counter_period, find, of_cpu, of_gpus


def steady(seconds):
    return lambda: seconds


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Two packages, one about to wrap; and a core, memory and the whole platform, which count the same again."""
    monkeypatch.setattr(sensors.os, "sched_getaffinity", lambda _: {0, 1})
    zones = {"0": "package-0", "0:0": "core", "0:1": "dram", "1": "package-1", "2": "psys"}
    for zone, name in zones.items():
        folder = f"class/powercap/intel-rapl:{zone}"
        write(tmp_path, {f"{folder}/name": name, f"{folder}/energy_uj": 5_000_000})
        write(tmp_path, {f"{folder}/max_energy_range_uj": 6_000_000})
    for core, kilohertz in enumerate((3_000_000, 2_000_000, 500_000)):
        write(tmp_path, {f"devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq": kilohertz})
    for number, (kind, reading) in enumerate((("x86_pkg_temp", 71_000), ("acpitz", 99_000), ("cpu-thermal", 65_000))):
        write(tmp_path, {f"class/thermal/thermal_zone{number}/type": kind})
        write(tmp_path, {f"class/thermal/thermal_zone{number}/temp": reading})
    return tmp_path


def counted(root, zone, joules):
    write(root, {f"class/powercap/intel-rapl:{zone}/energy_uj": round(joules * 1e6)})


def test_energy_is_that_of_whole_packages_even_when_a_counter_wraps(tree):
    def work():
        counted(tree, "0", 5.5)
        counted(tree, "1", 0.25)
        for part in ("0:0", "0:1", "2"):
            counted(tree, part, 5.9)
        return 0.1

    seconds, sensed = of_cpu(tree).around(work)
    assert seconds == 0.1
    assert sensed.joules == pytest.approx(0.5 + (6 - 5 + 0.25))


def test_clock_and_temperature_are_those_of_the_cores_in_use_and_of_the_processor(tree):
    _, sensed = of_cpu(tree).around(steady(0.1))
    assert sensed.clock_mhz == pytest.approx(2500)
    assert sensed.celsius == pytest.approx(71)


def test_a_kernel_that_tells_nothing_leaves_nothing(tmp_path):
    assert of_cpu(tmp_path).around(steady(0.1)) == (0.1, Sensed(None, None, None))
    assert find("cpu", root=tmp_path).round_seconds == 0
    assert find("tpu", root=tmp_path) == NONE


@pytest.mark.parametrize("text", ["", "n/a", "-1e3", "9" * 30 + "x"])
def test_what_is_not_a_number_is_absent(tree, text):
    for file in ("class/powercap/intel-rapl:0/energy_uj", "class/thermal/thermal_zone0/temp"):
        write(tree, {file: text})
    _, sensed = of_cpu(tree).around(steady(0.1))
    assert sensed.joules is None
    assert sensed.celsius == pytest.approx(65)


def test_a_sensor_that_is_not_connected_is_absent(tree):
    for number in (0, 2):
        write(tree, {f"class/thermal/thermal_zone{number}/temp": -274_000})
    assert of_cpu(tree).around(steady(0.1))[1].celsius is None


def test_a_counter_that_may_not_be_read_is_absent(tree):
    (tree / "class/powercap/intel-rapl:0/energy_uj").unlink()
    (tree / "class/powercap/intel-rapl:0/energy_uj").mkdir()
    assert find("cpu", root=tree).counters == ()
    assert of_cpu(tree).around(steady(0.1))[1].joules is None


def test_a_counter_that_stands_still_measures_nothing(tree):
    assert find("cpu", root=tree).counters == ()
    assert of_cpu(tree).around(steady(0.1))[1].joules is None


class Ticking:
    """A device of constant `watts` whose counter advances every `period` seconds; looking at it takes time, too."""

    def __init__(self, watts=100.0, period=0.02, look=0.0007):
        self.now, self.watts, self.period, self.look = 0.0, watts, period, look

    def clock(self):
        self.now += self.look
        return self.now

    def read(self):
        self.now += self.look
        return self.watts * self.period * (self.now // self.period)

    def work(self, seconds):
        def work():
            self.now += seconds
            return seconds

        return work


@pytest.mark.parametrize("phase", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("period", [0.005, 0.02, 0.1])
def test_the_period_of_a_counter_is_found(period, phase):
    device = Ticking(period=period)
    device.now = phase * period
    assert counter_period([Counter(device.read)], device.clock) == pytest.approx(period, abs=4 * device.look)


def test_a_counter_slower_than_any_known_one_is_not_waited_for():
    device = Ticking(period=1.0)
    assert counter_period([Counter(device.read)], device.clock) is None
    assert device.now < 1


@pytest.mark.parametrize("start", [0.0, 0.013, 0.0199])
def test_a_round_as_long_as_asked_for_is_known_within_a_tenth(start):
    device = Ticking()
    found = Sensors([Counter(device.read)], period_seconds=device.period)
    device.now += start
    seconds, sensed = found.around(device.work(found.round_seconds + 0.8 * device.period))
    assert sensed.joules == pytest.approx(device.watts * seconds, rel=0.1)


def test_a_round_too_short_for_the_counter_has_no_energy():
    device = Ticking()
    found = Sensors([Counter(device.read)], period_seconds=device.period)
    assert found.around(device.work(4 * device.period))[1].joules is None
    assert found.around(device.work(6 * device.period))[1].joules is not None


def test_a_counter_that_was_reset_gives_nothing():
    readings = iter([900.0, 3.0])
    assert Sensors([Counter(lambda: next(readings))]).around(steady(1.0))[1].joules is None


class Driver(ModuleType):
    """NVIDIA's management library with some devices; a name in `refuses` raises its error."""

    NVML_CLOCK_SM, NVML_TEMPERATURE_GPU = 1, 0

    class NVMLError(Exception):
        pass

    def __init__(self, names=("H100", "H100"), refuses=()):
        super().__init__("pynvml")
        self.names, self.refuses = names, refuses
        self.processes = [[os.getpid()], [os.getpid()]]
        self.millijoules = [1_000 * (index + 1) for index in range(len(names))]

    def refuse(self, name):
        if name in self.refuses:
            raise self.NVMLError("Not Supported")

    def nvmlInit(self):  # noqa: N802 - the library's own names
        self.refuse("init")

    def nvmlDeviceGetCount(self):  # noqa: N802
        return len(self.names)

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        return index

    def nvmlDeviceGetHandleByUUID(self, name):  # noqa: N802
        if name != "GPU-second":
            raise self.NVMLError("Not Found")
        return 1

    def nvmlDeviceGetName(self, handle):  # noqa: N802
        return self.names[handle]

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):  # noqa: N802
        self.refuse("energy")
        return self.millijoules[handle]

    def nvmlDeviceGetClockInfo(self, handle, kind):  # noqa: N802
        return {1: (1980, 1000)}[kind][handle]

    def nvmlDeviceGetTemperature(self, handle, kind):  # noqa: N802
        return {0: (40, 60)}[kind][handle]

    def nvmlDeviceGetPowerUsage(self, handle):  # noqa: N802
        self.refuse("power")
        return (690_000, 300_000)[handle]

    def nvmlDeviceGetEnforcedPowerLimit(self, handle):  # noqa: N802
        return (700_000, 400_000)[handle]

    def nvmlDeviceGetComputeRunningProcesses(self, handle):  # noqa: N802
        self.refuse("processes")
        return [SimpleNamespace(pid=pid) for pid in self.processes[handle]]


@pytest.fixture
def driver(monkeypatch):
    def install(**told):
        made = Driver(**told)
        monkeypatch.setitem(sys.modules, "pynvml", made)
        return made

    return install


def spend(driver, *joules):
    def work():
        for index, amount in enumerate(joules):
            driver.millijoules[index] += round(1e3 * amount)
        return 1.0

    return work


@pytest.mark.parametrize(
    ("devices", "environment", "expected"),
    [
        (1, {}, Sensed(7.0, 1980, 40, 690, 700, 0)),
        (2, {}, Sensed(7.0 + 5.0, 1490, 60, 990, 1100, 0)),
        (1, {"CUDA_VISIBLE_DEVICES": "1"}, Sensed(5.0, 1000, 60, 300, 400, 0)),
        (1, {"CUDA_VISIBLE_DEVICES": "GPU-second"}, Sensed(5.0, 1000, 60, 300, 400, 0)),
        (2, {"CUDA_VISIBLE_DEVICES": "1"}, Sensed()),
        (1, {"CUDA_VISIBLE_DEVICES": "7"}, Sensed()),
        (1, {"CUDA_VISIBLE_DEVICES": "GPU-other"}, Sensed()),
        (1, {"CUDA_VISIBLE_DEVICES": ""}, Sensed()),
    ],
)
def test_what_is_sensed_is_what_the_devices_in_use_say(driver, devices, environment, expected):
    made = driver()
    assert of_gpus(devices, environment).around(spend(made, 7, 5))[1] == expected


def test_unlike_devices_are_told_apart_only_where_cuda_follows_the_bus(driver):
    made = driver(names=("H100", "T4"))
    assert of_gpus(1, {}) == NONE
    assert of_gpus(1, {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}).around(spend(made, 7, 5))[1].joules == pytest.approx(7)


def test_a_device_without_an_energy_counter_still_tells_the_rest(driver):
    driver(refuses=("energy", "power", "processes"))
    assert of_gpus(1, {}).around(steady(1.0))[1] == Sensed(None, 1980, 40, None, 700, None)


@pytest.mark.parametrize(
    ("processes", "own", "others"),
    [
        ([[]], 1, 0),
        ([["own"]], 1, 0),
        ([["own", "parent"]], 2, 0),
        ([["own", 1, 2]], 1, 2),
        ([["own"], ["own", 7]], 1, 1),
        ([[900_001]], 1, 0),
        ([[900_001, 900_002]], 2, 0),
        ([[900_001, 900_002, 900_003]], 2, 1),
    ],
)
def test_processes_of_others_are_counted_even_where_the_driver_has_other_numbers(driver, processes, own, others):
    made, known = driver(), {"own": os.getpid(), "parent": os.getppid()}
    made.processes = [[known.get(pid, pid) for pid in on_device] for on_device in processes]
    assert of_gpus(len(processes), {}, own_processes=own).other_processes() == others


def test_without_driver_or_library_nothing_is_sensed(driver, monkeypatch):
    driver(refuses=("init",))
    assert of_gpus(1, {}) == NONE
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert of_gpus(1, {}) == NONE
